"""FullGrad in the call styles of other libraries, none of which is imported.

``captum`` as Captum's attributions, ``quantus`` as Quantus' ``explain_func``, ``grad_cam`` as the
classes of the grad-cam package; ``hugging_face`` takes the models and batches of transformers.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.interop import captum, grad_cam, hugging_face, quantus

__all__ = ["captum", "grad_cam", "hugging_face", "quantus"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
