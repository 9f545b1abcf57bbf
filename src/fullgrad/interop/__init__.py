"""FullGrad in the call styles of other libraries, none of which is imported.

``captum`` as Captum's attributions, ``quantus`` as Quantus' ``explain_func``, ``grad_cam`` as the
classes of the grad-cam package.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.interop import captum, grad_cam, quantus

__all__ = ["captum", "grad_cam", "quantus"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
