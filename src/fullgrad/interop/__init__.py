"""FullGrad in the call styles of other libraries, and in what they log.

``captum`` as Captum's attributions, ``quantus`` as Quantus' ``explain_func``, ``grad_cam`` as the
classes of the grad-cam package; ``hugging_face`` takes the models and batches of transformers;
``tensorboard`` logs maps of a model in training, ``lightning`` does so from a callback. Only
``lightning`` imports the library it is named after. ``exporting`` writes explanations as files that
run without fullgrad.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if TYPE_CHECKING:
    from fullgrad.interop import (
        captum,
        exporting,
        grad_cam,
        hugging_face,
        lightning,
        quantus,
        tensorboard,
    )

__all__ = ["captum", "exporting", "grad_cam", "hugging_face", "lightning", "quantus", "tensorboard"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
