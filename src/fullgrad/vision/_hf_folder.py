"""Image classifiers of transformers, from a folder that ``save_pretrained`` wrote, or the cache."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad.errors import ModelLoadError
from fullgrad.vision.images import Preprocessing

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_OWN = "make the model in a Python file with its own PREPROCESSING: --model file.py:FUNCTION"


class FromFolder(NamedTuple):
    """A model, its weights in words, its preprocessing, its classes, and its file of weights."""

    module: nn.Module
    weights: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    checkpoint: Path | None


def from_folder(name: str, weights: str | None = None, classes: int | None = None) -> FromFolder:
    """Load ``hf:NAME``; nothing is downloaded.

    Args:
        name: a folder, or a model's name in the local cache.
        weights: None: the model's own.
        classes: None: the model's own.

    Raises:
        ModelLoadError: no such model, no classifier of images, weights that it lacks, a
            preprocessing that cannot be followed, or weights or classes given.
        MissingDependencyError: transformers is not installed.
    """
    transformers = require("transformers", "text")
    shown = f"hf:{printable(name)}"
    if weights is not None or classes is not None:
        what = "weights" if weights is not None else "a number of classes"
        raise ModelLoadError(f"{shown} has its own weights and classes: leave {what} out")
    with _quiet():
        config = _read(transformers.AutoConfig, name, shown)
        kind = type(config)
        if kind not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise ModelLoadError(f"{shown} is a {kind.__name__}, which classifies no images")
        module, info = _read(
            transformers.AutoModelForImageClassification, name, shown, output_loading_info=True
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ModelLoadError(
                f"{shown} lacks weights, {', '.join(missing[:3])} among them: it was saved without "
                "its classifier; save the whole model with save_pretrained"
            )
        processor = _read(transformers.AutoImageProcessor, name, shown)
    labels = getattr(config, "id2label", None) or {}
    file = Path(name) / "model.safetensors"
    return FromFolder(
        module,
        f"{kind.__name__} of {shown}",
        _preprocessing(processor, shown),
        tuple(str(labels[i]) for i in range(len(labels))) if labels else None,
        file if file.is_file() else None,
    )


def _read(kind: Any, name: str, shown: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        text = str(error).strip().splitlines()[0]
        raise ModelLoadError(
            f"{shown} cannot be loaded ({text}): give a folder that model.save_pretrained and "
            "processor.save_pretrained wrote, or the name of a model in the cache; nothing is "
            "downloaded"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its warnings and its progress bar."""
    logger = logging.getLogger("transformers")
    level = logger.level
    bars = require("transformers.utils.logging", "text")
    shown = bars.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()


def _preprocessing(processor: Any, shown: str) -> Preprocessing:
    """What the processor does to a photograph.

    Raises:
        ModelLoadError: something that :class:`Preprocessing` cannot do.
    """

    def has(name: str) -> Any:
        return getattr(processor, name, None)

    factor = has("rescale_factor")
    odd = [
        name
        for name, there in (
            ("no resizing", not has("do_resize")),
            ("padding", has("do_pad")),
            ("other rescaling", not has("do_rescale") or abs((factor or 0) * 255 - 1) > 1e-6),
            ("an offset after rescaling", has("rescale_offset")),
        )
        if there
    ]
    size, crop = (
        dict(has("size") or {}),
        dict(has("crop_size") or {}) if has("do_center_crop") else {},
    )
    shorter, percent = size.get("shortest_edge"), has("crop_pct")
    resize: int | tuple[int, int]
    if percent and shorter:
        cut = (shorter, shorter)
        resize = int(shorter / percent) if shorter < 384 else cut
    elif shorter and {"height", "width"} <= crop.keys() and not size.get("longest_edge"):
        resize, cut = int(shorter), (crop["height"], crop["width"])
    elif {"height", "width"} <= size.keys():
        resize = (size["height"], size["width"])
        cut = (crop["height"], crop["width"]) if crop.get("height") else resize
    else:
        odd.append(f"the size {size}")
        resize, cut = 256, (224, 224)
    if odd:
        name = type(processor).__name__
        raise ModelLoadError(
            f"the {name} of {shown} has {', '.join(odd)}, which is not supported; {_OWN}"
        )
    scales = bool(has("do_normalize"))
    mean, std = (has("image_mean"), has("image_std")) if scales else ((0.0,) * 3, (1.0,) * 3)
    try:
        return Preprocessing(resize, cut, _RESAMPLE[int(has("resample"))], tuple(mean), tuple(std))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"the preprocessing of {shown} is not supported: {error}; {_OWN}"
        ) from error
