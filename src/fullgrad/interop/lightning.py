"""A Lightning callback that logs the maps of fixed samples while a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from fullgrad._optional import require
from fullgrad.engine.targets import Target
from fullgrad.errors import UsageError
from fullgrad.interop.tensorboard import log_maps
from fullgrad.methods import Method

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = require("lightning.pytorch", "training").Callback


class LogMaps(Callback):
    """Logs maps of fixed samples to the trainer's TensorBoard logger, at the end of epochs.

    The first maps are those of the model before training. In a run on several devices the first
    process explains its own copy of the model; a model whose parameters are spread over devices
    (FSDP) cannot be explained so.

    Args:
        inputs: the samples, as the module's ``forward`` takes them.
        images: how they look; see :func:`fullgrad.interop.tensorboard.log_maps`.
        target: what is explained; None for the predicted class.
        method: a method's name.
        every: epochs between two logs.
        tag: what the names in TensorBoard begin with.
        **options: of the method.

    Raises:
        UsageError: ``every`` is below 1; in training, the trainer has no TensorBoard logger.
        MissingDependencyError: lightning is not installed.
    """

    def __init__(
        self,
        inputs: Tensor,
        *,
        images: Tensor | None = None,
        target: Target = None,
        method: str | Method = "fullgrad",
        every: int = 1,
        tag: str = "maps",
        **options: Any,
    ) -> None:
        super().__init__()
        if every < 1:
            raise UsageError(f"every must be at least 1, not {every}")
        self._inputs, self._every = inputs, every
        self._call = {"images": images, "target": target, "method": method, "tag": tag, **options}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a trainer without a TensorBoard logger before it trains."""
        _writer(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the maps of the model as it is before training."""
        self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the maps of the model after an epoch."""
        if (trainer.current_epoch + 1) % self._every == 0:
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            inputs = self._inputs.to(module.device)
            log_maps(_writer(trainer), module, inputs, trainer.global_step, **self._call)


def _writer(trainer: Trainer) -> Any:
    """The trainer's TensorBoard writer."""
    for logger in trainer.loggers:
        writer = getattr(logger, "experiment", None)
        if hasattr(writer, "add_image") or type(writer).__name__ == "_DummyExperiment":
            return writer
    raise UsageError(
        "the trainer has no TensorBoard logger: Trainer(logger=TensorBoardLogger(folder)), from "
        "lightning.pytorch.loggers"
    )
