"""Small classifiers, one of each architecture family, trained on ten classes of CIFAR-100.

Each is built by timm's or torchvision's own constructors, small enough to be trained on one core
in a few minutes. A finished one is kept in a cache folder under the digest of everything it
depends on, and not trained again.

    python tools/small_models.py                     # all of them
    python tools/small_models.py --only resnet swin --cache DIR --data IMAGE_FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from fullgrad.evaluation.datasets import Dataset
from fullgrad.vision.checkpoints import load_state, read_checkpoint
from training import CLASSES, MissingDataError, Settings, accuracy, fit, image_folder, load, seeded

CACHE = Path("~/.cache/fullgrad/small-models").expanduser()
_FORMAT = 1  # of the cache: raised when training.py changes what comes out


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture family and its small member.

    Args:
        title: its name in pictures.
        traits: what sets it apart.
        constructor: ``LIBRARY:NAME`` as :func:`build` resolves it.
        options: for the constructor.
        settings: how it is trained.
    """

    title: str
    traits: str
    constructor: str
    options: Mapping[str, Any]
    settings: Settings = field(default_factory=Settings)


FAMILIES: dict[str, Family] = {
    "vgg": Family(
        "VGG",
        "plain ReLU, no batch-norm",
        "torchvision.models.vgg:make_layers",
        {"cfg": [16, "M", 32, 32, "M", 64, 64, "M", 128, 128]},
        Settings(rate=1e-3),
    ),
    "resnet": Family(
        "ResNet",
        "ReLU, batch-norm, residual sums",
        "timm:resnet18",
        {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128), "output_stride": 16},
    ),
    "mobilenetv3": Family(
        "MobileNetV3",
        "hard-swish, squeeze-excitation",
        "torchvision:mobilenet_v3_small",
        {"dilated": True},
        Settings(epochs=12),
    ),
    "convnext": Family(
        "ConvNeXt",
        "layer-norm, GELU, channels last",
        "timm:convnext_tiny",
        {"depths": (1, 1, 3, 1), "dims": (32, 64, 96, 192), "patch_size": 2},
        Settings(epochs=20),
    ),
    "vit": Family(
        "ViT",
        "attention, class token",
        "timm:vit_tiny_patch16_224",
        {"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3},
        Settings(rate=1e-3),
    ),
    "vit_registers": Family(
        "ViT with registers",
        "attention, 4 register tokens, mean",
        "timm:vit_tiny_patch16_224",
        {
            "img_size": 64,
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 3,
            "reg_tokens": 4,
            "class_token": False,
            "global_pool": "avg",
        },
        Settings(rate=1e-3, epochs=11),
    ),
    "swin": Family(
        "Swin",
        "attention in shifted windows",
        "timm:swin_tiny_patch4_window7_224",
        {
            "img_size": 64,
            "patch_size": 4,
            "window_size": 4,
            "embed_dim": 32,
            "depths": (2, 2, 2),
            "num_heads": (1, 2, 4),
        },
        Settings(rate=1e-3, epochs=18),
    ),
    "mixer": Family(
        "MLP-Mixer",
        "dense layers across positions",
        "timm.models:MlpMixer",
        {"img_size": 64, "patch_size": 8, "embed_dim": 128, "num_blocks": 4},
        Settings(rate=1e-3, epochs=14),
    ),
    "coatnet": Family(
        "CoAtNet",
        "convolutions, then attention",
        "timm:coatnet_pico_rw_224",
        {
            "img_size": 64,
            "embed_dim": (32, 64, 96, 128),
            "depths": (1, 1, 2, 1),
            "stem_width": (16, 24),
        },
        Settings(epochs=14),
    ),
    "maxvit": Family(
        "MaxViT",
        "convolutions, window and grid attention",
        "timm:maxvit_pico_rw_256",
        {
            "img_size": 64,
            "embed_dim": (32, 64, 96),
            "depths": (1, 1, 1),
            "stem_width": 16,
            "transformer_window_size": (4, 4),
            "transformer_grid_size": (4, 4),
        },
        Settings(epochs=9),
    ),
}


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a trained network.

    Args:
        name: its key in :data:`FAMILIES`.
        accuracy: on the test images of its classes.
        classes: in the order of its outputs.
        size: pixels a side of its input.
        parameters: how many.
        epochs: of the training.
        seconds: that the training took.
        threads: that PyTorch used.
        device: where it was trained.
        seed: of the training.
        torch: its version.
        timm: its version.
        digest: of the settings, the architecture and the images.
        sha256: of the checkpoint.
    """

    name: str
    accuracy: float
    classes: tuple[str, ...]
    size: int
    parameters: int
    epochs: int
    seconds: float
    threads: int
    device: str
    seed: int
    torch: str
    timm: str
    digest: str
    sha256: str


def build(name: str, classes: int = len(CLASSES), seed: int = 0) -> nn.Module:
    """A small member of a family, untrained, in training mode.

    Args:
        name: a key of :data:`FAMILIES`.
        classes: how many outputs.
        seed: of the initial weights.

    Returns:
        A module from (B, 3, 64, 64) to (B, classes).

    Raises:
        ValueError: an unknown name.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    library, _, constructor = family.constructor.partition(":")
    with seeded(seed):
        made: nn.Module
        if library == "timm":
            made = timm.create_model(constructor, num_classes=classes, **family.options)
        elif library == "timm.models":
            made = getattr(timm.models, constructor)(num_classes=classes, **family.options)
        elif library == "torchvision":
            made = torchvision.models.get_model(
                constructor, weights=None, num_classes=classes, **family.options
            )
        else:
            made = _vgg(classes, **family.options)
        return made


def _vgg(classes: int, cfg: list[int | str]) -> nn.Module:
    """torchvision's layers with a head that suits small images: its own has 120 M parameters."""
    features = torchvision.models.vgg.make_layers(cfg)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    width = [c for c in cfg if isinstance(c, int)][-1]
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def digest_of(name: str, data: Dataset, settings: Settings) -> str:
    """What a trained network depends on, in 12 hexadecimal digits (versions are in the record)."""
    family = FAMILIES[name]
    parts = {
        "format": _FORMAT,
        "constructor": family.constructor,
        "options": dict(family.options),
        "settings": asdict(settings),
        "data": data.digest(64),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def trained(
    name: str,
    data: Dataset,
    cache_dir: Path = CACHE,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> tuple[nn.Module, Record]:
    """A trained member of a family: from the cache if it is there, else trained now and kept.

    Args:
        name: a key of :data:`FAMILIES`.
        data: from :func:`training.load`.
        cache_dir: made if need be; an interrupted training leaves nothing in it.
        settings: None for the family's own.
        say: told of the progress.
        device: where it is trained.

    Returns:
        The module, in evaluation mode, and its record.

    Raises:
        ValueError: an unknown name.
        ModelLoadError: a checkpoint in the cache does not fit.
    """
    model = build(name, len(data.classes), settings.seed if settings else 0)
    settings = settings or FAMILIES[name].settings
    digest = digest_of(name, data, settings)
    checkpoint = cache_dir / f"{name}-{digest}.pt"
    note = cache_dir / f"{name}-{digest}.json"
    if note.is_file():
        record = _read(note)
        if (
            checkpoint.is_file()
            and hashlib.sha256(checkpoint.read_bytes()).hexdigest() == record.sha256
        ):
            load_state(model, read_checkpoint(checkpoint), str(checkpoint))
            return model.eval(), record
        say(f"{name}: {checkpoint} is missing or damaged; training again")
    else:
        say(f"{name}: training, to be kept as {checkpoint}")
    seconds = fit(model, data, settings, say, device)
    score = accuracy(model, data.test, data.test_labels, settings.size)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with io.BytesIO() as file:
        torch.save(model.state_dict(), file)
        checkpoint.write_bytes(file.getvalue())
    record = Record(
        name=name,
        accuracy=score,
        classes=data.classes,
        size=settings.size,
        parameters=sum(p.numel() for p in model.parameters()),
        epochs=settings.epochs,
        seconds=round(seconds, 1),
        threads=torch.get_num_threads(),
        device=device if device == "cpu" else torch.cuda.get_device_name(device),
        seed=settings.seed,
        torch=torch.__version__,
        timm=timm.__version__,
        digest=digest,
        sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    )
    # The record last: a network with a record is a finished one.
    text = json.dumps(asdict(record), indent=1)
    note.write_bytes(text.encode())
    say(f"{name}: {score:.1%} of the test images, {seconds:.0f} s")
    return model, record


def _read(note: Path) -> Record:
    fields = json.loads(note.read_text(encoding="utf-8"))
    return Record(**{"device": "cpu", **fields, "classes": tuple(fields["classes"])})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    add_arguments(parser)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        data = load(image_folder(args.data, args.cache))
    except MissingDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in args.only:
        say = partial(print, flush=True)
        _, record = trained(name, data, args.cache, say=say, device=args.device)
        print(f"{name}: accuracy {record.accuracy:.3f}, {record.parameters} parameters", flush=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where images and checkpoints are."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="IMAGE_FOLDER",
        help="CIFAR-100 as train/CLASS/*.png and test/CLASS/*.png (default: unpacked from the "
        "shared folder)",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="that trains (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
