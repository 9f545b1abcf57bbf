"""The networks that are trained: the paper's nine layers, a small one, and any by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._optional import require
from fullgrad.errors import FullGradError, ModelLoadError
from fullgrad.vision.models import load_model, usable_device

VGG9, SMALL, AUTO = "vgg9", "small", "auto"
_STAGES = {VGG9: ((1, 1), (2, 2), (4, 4), (8, 8)), SMALL: ((1,), (2, 2))}
_WIDTHS = {VGG9: 64, SMALL: 24}
_SMALLEST = 32  # pixels a side, from which on the nine layers are the default


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """Which network.

    Args:
        spec: ``vgg9`` (eight convolutions and a dense layer, with batch-norm), ``small`` (three
            and one), ``torchvision:NAME``, ``timm:NAME`` or ``path/to/file.py:FUNCTION``.
        width: channels of the first convolution of ``vgg9`` (64) and ``small`` (24).
        classes: outputs.
        channels: of the images.
        code: digest of the Python file, if it is one; files that it imports are not part of it.

    Raises:
        ValueError: a width that is not positive, or that the network does not have.
    """

    spec: str
    width: int | None
    classes: int
    channels: int
    code: str = ""

    def __post_init__(self) -> None:
        if self.width is not None and self.spec not in _STAGES:
            raise ValueError(f"{self.spec} has no width to choose; vgg9 and small have")
        if self.width is not None and self.width < 1:
            raise ValueError(f"the width must be at least 1, not {self.width}")

    @classmethod
    def for_images(cls, spec: str, width: int | None, train: Tensor, classes: int) -> NetworkChoice:
        """The network for images of shape (N, C, H, W); ``auto`` looks at their size."""
        if spec == AUTO:
            spec = VGG9 if min(train.shape[2:]) >= _SMALLEST else SMALL
        if width is None:
            width = _WIDTHS.get(spec)
        return cls(spec, width, classes, train.shape[1], _code_of(spec))

    def values(self) -> dict[str, Any]:
        """As JSON can hold it; ``code`` only where there is one."""
        found = asdict(self)
        return found if self.code else {k: v for k, v in found.items() if k != "code"}

    def build(self, seed: int) -> nn.Module:
        """A fresh network with the weights of a seed, on the CPU, in training mode.

        Raises:
            ModelLoadError: an unknown name, weights that cannot be drawn again, or a Python file
                that is not the one whose digest was taken.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._fresh()
        return module.train()

    def _fresh(self) -> nn.Module:
        if self.spec in _STAGES:
            assert self.width is not None
            return _plain(_STAGES[self.spec], self.width, self.channels, self.classes)
        kind, _, name = self.spec.partition(":")
        if kind == "torchvision":
            models = require("torchvision.models", "vision")
            return self._made(lambda: models.get_model(name, num_classes=self.classes))
        if kind == "timm":
            timm = require("timm", "vision")
            options = {"num_classes": self.classes, "in_chans": self.channels}
            return self._made(lambda: timm.create_model(name, pretrained=False, **options))
        if self.code and self.code != _code_of(self.spec):
            raise ModelLoadError(
                f"{self.spec}: the Python file is not the one that the run began with (changed "
                "since, or another one on this machine); start the run again"
            )
        module = load_model(self.spec, "none").module
        _redraw(module, self.spec)
        return module

    def _made(self, make: Callable[[], Any]) -> nn.Module:
        try:
            module: nn.Module = make()
        except FullGradError:
            raise
        except Exception as error:
            text = str(error).strip().split("\n", maxsplit=1)[0]
            raise ModelLoadError(f"{self.spec} cannot be made: {text}") from error
        return module


def _code_of(spec: str) -> str:
    """Sixteen digits of the SHA-256 of a user's Python file; empty for other networks."""
    path = Path(spec.rpartition(":")[0])
    if ".py" not in spec or not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _plain(
    stages: tuple[tuple[int, ...], ...], width: int, channels: int, classes: int
) -> nn.Module:
    """Convolutions of 3 x 3 with batch-norm and ReLU, stages halved by max-pool, mean, dense."""
    layers: list[nn.Module] = []
    before = channels
    for number, stage in enumerate(stages):
        if number:
            layers.append(nn.MaxPool2d(2))
        for factor in stage:
            convolution = nn.Conv2d(before, factor * width, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(factor * width), nn.ReLU()]
            before = factor * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def _redraw(module: nn.Module, spec: str) -> None:
    """Draw all weights again: a user's function has set them to the same ones each time."""
    for name, part in module.named_modules():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        elif any(isinstance(p, nn.Parameter) for p in own):
            raise ModelLoadError(
                f"{spec}: the module {name or '(the model itself)'} ({type(part).__name__}) has "
                "weights and no reset_parameters(), so they cannot be drawn again for each run"
            )


def usable(device: str) -> str:
    """The device, if it can be used.

    Raises:
        ModelLoadError: it is not there, or has no float64.
    """
    usable_device(device)
    return device


def check(network: NetworkChoice, example: Tensor) -> None:
    """See that the network takes the images and has enough outputs.

    Args:
        network: to be tried.
        example: inputs, shape (2, C, H, W).

    Raises:
        ModelLoadError: it does not.
    """
    module = network.build(0)
    for mode in (True, False):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                found = module.train(mode)(example)
        except Exception as error:
            text = str(error).strip().split("\n", maxsplit=1)[0]
            raise ModelLoadError(
                f"{network.spec} does not take images of {tuple(example.shape[1:])}: {text}"
            ) from error
        if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[1] < network.classes:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ModelLoadError(
                f"{network.spec} must return (B, at least {network.classes}) numbers, in training "
                f"too, not {shape}"
            )
