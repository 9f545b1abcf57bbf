"""Saliency methods by name: FullGrad, those it is compared with, and the user's own."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.methods import controls, gradients, overrides
from fullgrad.methods import fullgrad as family
from fullgrad.methods import grad_cam as gradcam
from fullgrad.methods.attribution import attribute
from fullgrad.methods.registry import Method, add, get, names, register, unregister

__all__ = ["Method", "attribute", "get", "names", "register", "unregister"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

for _method in (
    *family.METHODS,
    *gradients.METHODS,
    *overrides.METHODS,
    *gradcam.METHODS,
    *controls.METHODS,
):
    add(_method)
