"""Exact full-gradients of any PyTorch model, and the FullGrad saliency map.

The names below are loaded with the package. Subpackages are loaded when they are first used:
``fullgrad.maps.tokens.attribute_tokens`` works after ``import fullgrad`` alone.
"""

from __future__ import annotations

from pkgutil import iter_modules
from typing import TYPE_CHECKING

from fullgrad import _deprecated
from fullgrad._lazy import submodules
from fullgrad._version import __version__
from fullgrad.decomposition import BiasTerm, Decomposition, decompose
from fullgrad.errors import FullGradError
from fullgrad.interop.captum import FullGrad
from fullgrad.interop.compiling.compiled import compile
from fullgrad.interop.exporting.artifact import export
from fullgrad.maps.complete import CompleteMap, complete_map
from fullgrad.maps.saliency import layer_maps, saliency
from fullgrad.maps.smoothing import Noise
from fullgrad.operations.linearization import Linearization, Rule

if TYPE_CHECKING:
    from fullgrad import app as app
    from fullgrad import axes as axes
    from fullgrad import cli as cli
    from fullgrad import datasets as datasets
    from fullgrad import decomposition as decomposition
    from fullgrad import engine as engine
    from fullgrad import errors as errors
    from fullgrad import evaluation as evaluation
    from fullgrad import interop as interop
    from fullgrad import maps as maps
    from fullgrad import methods as methods
    from fullgrad import operations as operations
    from fullgrad import report as report
    from fullgrad import targets as targets
    from fullgrad import vision as vision
    from fullgrad import viz as viz

__all__ = [
    "BiasTerm",
    "CompleteMap",
    "Decomposition",
    "FullGrad",
    "FullGradError",
    "Linearization",
    "Noise",
    "Rule",
    "__version__",
    "compile",
    "complete_map",
    "decompose",
    "export",
    "layer_maps",
    "methods",
    "saliency",
    "targets",
]

_deprecated.install()
if not TYPE_CHECKING:  # type checkers know the list above, and report any other name
    __getattr__ = submodules(__name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *(m.name for m in iter_modules(__path__) if m.name[0] != "_")})
