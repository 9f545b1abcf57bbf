"""The network that learns generated images; it is trained once on each machine."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad._code import code_digest
from fullgrad._files import make_folder, write_whole
from fullgrad.errors import ModelLoadError
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.tests.evaluate.generated_images import CLASSES, KINDS, SIDE, scene
from fullgrad.evaluation.training.loop import Settings, Task, Trained, train
from fullgrad.evaluation.training.networks import usable
from fullgrad.vision.images import Preprocessing
from fullgrad.vision.models import LoadedModel, ModelSettings, load_model

PREFIX = "generated:"
IMAGES, EPOCHS = 2000, 6
_TESTED = 200  # images for the accuracy
_GRAY = Colors((127.5,) * 3, (127.5,) * 3)  # inputs from -1 to 1
_PREPROCESSING = Preprocessing((SIDE, SIDE), (SIDE, SIDE), "nearest", (0.5,) * 3, (0.5,) * 3)


def network(seed: int = 0) -> nn.Sequential:
    """Return four convolutions with ReLU, three of them with batch-norm and max-pool."""

    def block(before: int, after: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, padding=1)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = [*block(3, 16), *block(16, 32), *block(32, 64), nn.Conv2d(64, 64, 3, padding=1)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(CLASSES))]
        return nn.Sequential(*body, *head)


def trained(kind: str, images: int = IMAGES, epochs: int = EPOCHS, seed: int = 0) -> Trained:
    """Train the network; the same for equal seeds, on one machine with one number of threads.

    Args:
        kind: of the images, one of :data:`~.generated_images.KINDS`.
        images: to learn from.
        epochs: passes over them.
        seed: of the initial weights and the order.
    """
    settings = Settings(
        epochs=epochs,
        batch=32,
        rate=5e-3,
        optimizer="adamw",
        decay=1e-2,
        smoothing=0.0,
        shift=0,
        mirror=False,
    )
    learn, learn_labels = _drawn(kind, images, True)
    test, test_labels = _drawn(kind, _TESTED, False)
    task = Task(learn, learn_labels, test, test_labels, seed, (0, 0, 0))
    return train(network, [task], settings, _GRAY, torch.device("cpu"))[0]


def _drawn(kind: str, count: int, for_training: bool) -> tuple[Tensor, Tensor]:
    """Draw images, uint8 of shape (N, 3, H, W), with their classes."""
    scenes = [scene(kind, number, for_training) for number in range(count)]
    images = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2)
    return images.contiguous(), torch.tensor([s.label for s in scenes])


def cache() -> Path:
    """Return the folder of trained networks: below FULLGRAD_CACHE, else ``~/.cache/fullgrad``."""
    return Path(os.environ.get("FULLGRAD_CACHE", "~/.cache/fullgrad")).expanduser() / "generated"


def load(
    spec: str, weights: str | None, device: str, settings: ModelSettings | None = None
) -> LoadedModel:
    """Load a model as ``fullgrad.vision.models`` does, or the one for generated images.

    ``generated:shapes`` and ``generated:shortcut`` are trained when they are asked for the first
    time, in about a minute, and kept in :func:`cache` under the digest of the code.

    Args:
        spec: of the model.
        weights: where they come from; None for the usual.
        device: where the model goes.
        settings: what is stated of it; of generated ones nothing.

    Raises:
        ModelLoadError: as there, an unknown kind of images, or weights for a generated one.
        FullGradError: the cache cannot be written.
    """
    if not spec.startswith(PREFIX):
        return load_model(spec, weights, device, settings)
    kind = spec.removeprefix(PREFIX)
    if kind not in KINDS:
        known = ", ".join(PREFIX + k for k in KINDS)
        raise ModelLoadError(f"there is no model {spec!r}; known: {known}")
    if weights is not None:
        raise ModelLoadError(f"{spec} is trained here and takes no weights; give none for it")
    if settings is not None and settings.values():
        stated = ", ".join(f"--{name.replace('_', '-')}" for name in settings.values())
        raise ModelLoadError(f"{spec} has classes and preprocessing of its own: leave out {stated}")
    path = cache() / f"{kind}-{code_digest(__name__)}.pt"
    if not path.exists():
        with io.BytesIO() as file:
            torch.save(trained(kind).state, file)
            make_folder(path.parent)
            write_whole(path, file.getvalue())
    content = path.read_bytes()
    module = network()
    module.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    return LoadedModel(
        module=module.eval().to(usable(device)),
        spec=spec,
        weights="trained on generated images",
        preprocessing=_PREPROCESSING,
        class_names=CLASSES,
        checkpoint=path,
        sha256=hashlib.sha256(content).hexdigest(),
        trained=True,
        device=torch.device(device),
    )
