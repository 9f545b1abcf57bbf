"""Saliency methods by name: FullGrad, those it is compared with, and the user's own."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.methods import attention, controls, fullgrad_plus, gradients, occlusion, overrides
from fullgrad.methods import fullgrad as family
from fullgrad.methods import grad_cam as gradcam
from fullgrad.methods.attribution import attribute
from fullgrad.methods.registry import Method, add, get, names, register, unregister

__all__ = ["REASON", "RECOMMENDED", "Method", "attribute", "get", "names", "register", "unregister"]

RECOMMENDED = "combined_fullgrad"
"""The method to begin with, by the tests of maps in docs/recommendation.md."""
REASON = (
    "recommended: by symmetric relevance gain on images that it was not chosen on it is first or "
    "tied on 13 of 14 networks where cells get the mean color, on 10 where they are blurred "
    "(docs/recommendation.md)"
)
"""Why, for records."""

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

for _method in (
    *family.METHODS,
    *fullgrad_plus.METHODS,
    *gradients.METHODS,
    *overrides.METHODS,
    *occlusion.METHODS,
    *gradcam.METHODS,
    *attention.METHODS,
    *controls.METHODS,
):
    add(_method)
