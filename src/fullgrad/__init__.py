"""Exact full-gradients of any PyTorch model, and the FullGrad saliency map."""

from fullgrad.decomposition import BiasTerm, Decomposition
from fullgrad.errors import FullGradError
from fullgrad.explanation import decompose
from fullgrad.saliency import saliency
from fullgrad.smooth import Noise

__version__ = "0.1.0.dev0"

__all__ = [
    "BiasTerm",
    "Decomposition",
    "FullGradError",
    "Noise",
    "__version__",
    "decompose",
    "saliency",
]
