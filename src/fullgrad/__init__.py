"""Exact full-gradients of any PyTorch model, and the FullGrad saliency map."""

from fullgrad import methods
from fullgrad.decomposition import BiasTerm, Decomposition
from fullgrad.errors import FullGradError
from fullgrad.explanation import decompose
from fullgrad.interfaces.captum_style import FullGrad
from fullgrad.saliency import layer_maps, saliency
from fullgrad.smooth import Noise

__version__ = "0.1.0.dev0"

__all__ = [
    "BiasTerm",
    "Decomposition",
    "FullGrad",
    "FullGradError",
    "Noise",
    "__version__",
    "decompose",
    "layer_maps",
    "methods",
    "saliency",
]
