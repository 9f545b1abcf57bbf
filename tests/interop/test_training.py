"""Maps logged while a model is trained: what TensorBoard gets, and that training is the same."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import fullgrad
from fullgrad.errors import FullGradError, InputError, MissingDependencyError, UsageError
from fullgrad.interop.lightning import LogMaps
from fullgrad.interop.tensorboard import log_maps

LIGHTNINGS = ("ignore:.*LeafSpec:FutureWarning", "ignore:.*does not have many workers")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
    )


def samples(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 10, generator=torch.Generator().manual_seed(1))


class Recorder:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.images: dict[str, np.ndarray[Any, Any]] = {}
        self.scalars: dict[str, float] = {}

    def add_image(self, name: str, pixels: Any, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images[f"{name}@{step}"] = pixels

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[f"{name}@{step}"] = value


def trained(log: bool) -> tuple[dict[str, Tensor], list[bool]]:
    """A network's state after a few steps, with maps logged in the middle of each or without."""
    model, x = network(), samples()
    optimizer = torch.optim.Adam(model.parameters())
    flags = []
    for step in range(3):
        loss = nn.functional.cross_entropy(model(x), LABELS)
        loss.backward()
        if log:
            with torch.no_grad():
                log_maps(Recorder(), model, x[:2], step, method="smooth_fullgrad", samples=2)
        flags.append(model.training and model[3].training)
        optimizer.step()
        optimizer.zero_grad()
    return copy.deepcopy(model.state_dict()), flags


def test_training_is_the_same_as_without() -> None:
    (plain, _), (logged, flags) = trained(log=False), trained(log=True)
    assert flags == [True] * 3
    assert plain.keys() == logged.keys()
    assert all(torch.equal(value, logged[name]) for name, value in plain.items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_maps_are_those_of_saliency(context: Any) -> None:
    model, writer = network(), Recorder()
    with context(), torch.autocast("cpu", torch.bfloat16):
        found = log_maps(writer, model, samples(2), 7, target=[2, 0], tag="net")
    expected = fullgrad.saliency(model, samples(2), [2, 0])
    assert torch.equal(found, expected)
    assert sorted(writer.images) == ["net/0@7", "net/1@7"]
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(samples(2))
    assert writer.scalars["net/explained/0@7"] == pytest.approx(float(outputs[0, 2]), rel=1e-5)
    assert writer.scalars["net/explained/1@7"] == pytest.approx(float(outputs[1, 0]), rel=1e-5)


def test_images_lie_beside_their_maps() -> None:
    writer, x = Recorder(), samples(1)
    log_maps(writer, network(), x, 0, images=x, method="complete_fullgrad", target=1)
    (pixels,) = writer.images.values()
    assert pixels.shape == (8, 20, 3)
    assert pixels.dtype == np.uint8
    wanted = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels[:, :10], wanted)
    heat = pixels[:, 10:].astype(int)
    assert (heat[..., 0] > heat[..., 2]).any()  # red: raises the output
    assert (heat[..., 0] < heat[..., 2]).any()  # blue: lowers it


@pytest.mark.parametrize(
    ("inputs", "images", "message"),
    [
        (
            samples(1),
            samples(2),
            r"images must have the shape \(1, 3, 8, 10\), not \(2, 3, 8, 10\)",
        ),
        (samples(1), samples(1) * 3, "images must be uint8, or numbers from 0 to 1"),
    ],
    ids=["number", "range"],
)
def test_images_that_do_not_fit(inputs: Tensor, images: Tensor, message: str) -> None:
    writer = Recorder()
    with pytest.raises(InputError, match=message):
        log_maps(writer, network(), inputs, 0, images=images)
    assert not writer.images


def test_a_series_has_no_image() -> None:
    model = nn.Sequential(nn.Conv1d(3, 2, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"maps of shape \(9,\) cannot be logged as images"):
        log_maps(Recorder(), model, torch.rand(1, 3, 9), 0, target=0)


def test_tensorboard_reads_them(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (0, 1):
            log_maps(writer, network(), samples(1), step)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Images("maps/0")] == [0, 1]
    assert (events.Images("maps/0")[0].width, events.Images("maps/0")[0].height) == (10, 8)
    assert len(events.Scalars("maps/explained/0")) == 2


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fitted(folder: Path, logger: Any, *callbacks: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = Module()
    trainer = pl.Trainer(
        max_epochs=2,
        logger=logger,
        callbacks=list(callbacks),
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, DataLoader(TensorDataset(samples(), LABELS), batch_size=3))
    return module.state_dict()


@pytest.mark.filterwarnings(*LIGHTNINGS)
def test_the_callback_logs_before_training_and_after_epochs(tmp_path: Path) -> None:
    callback = LogMaps(samples(2), target=1, every=1)
    logged = fitted(tmp_path, TensorBoardLogger(str(tmp_path / "logs")), callback)
    (folder,) = {path.parent for path in (tmp_path / "logs").rglob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    assert [e.step for e in events.Images("maps/1")] == [0, 2, 4]
    plain = fitted(tmp_path, False)
    assert all(torch.equal(value, plain[name]) for name, value in logged.items())


@pytest.mark.filterwarnings(*LIGHTNINGS)
def test_a_trainer_without_tensorboard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no TensorBoard logger: Trainer\(logger=Te"):
        fitted(tmp_path, CSVLogger(str(tmp_path)), LogMaps(samples(1)))


def test_every_is_positive() -> None:
    with pytest.raises(FullGradError, match="every must be at least 1, not 0"):
        LogMaps(samples(1), every=0)


def test_without_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "fullgrad.interop.lightning")
    with pytest.raises(MissingDependencyError, match=r"pip install 'fullgrad\[training\]'"):
        __import__("fullgrad.interop.lightning")
