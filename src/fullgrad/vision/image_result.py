"""Images through a classifier: classes, maps, the exact split of a logit, and the record of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import torch

from fullgrad import methods
from fullgrad._files import AnyPath, printable
from fullgrad.decomposition import decompose
from fullgrad.engine.targets import Target
from fullgrad.errors import FullGradError, LayoutError, OptionError
from fullgrad.methods import Method
from fullgrad.methods.choice import MethodChoice
from fullgrad.operations.linearization import linearization_of
from fullgrad.targets import words
from fullgrad.vision._explained import explained_by
from fullgrad.vision.areas import CELL, Areas
from fullgrad.vision.images import Photograph, display_image, input_of, read_photograph
from fullgrad.vision.layers import Array, Layer, fitting_depth, layers_of
from fullgrad.vision.method_map import MethodMap as MethodMap  # noqa: PLC0414
from fullgrad.vision.method_map import Stage as Stage  # noqa: PLC0414
from fullgrad.vision.method_map import asked_methods, maps_by
from fullgrad.vision.models import LoadedModel
from fullgrad.vision.split import RatherThan, Split, splits_of

if TYPE_CHECKING:
    from fullgrad.vision.schema import ImageInfo, ImageRecord, Provenance, TargetInfo

Part: TypeAlias = Literal["map", "split", "layers"]


class ClassScore(NamedTuple):
    """One of the most probable classes: its index, its name if that is known, its softmax."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    name: str | None
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageResult:
    """One explained image.

    Args:
        photograph: the file.
        view: what the model saw of it, a Pillow image.
        target: the explained class; None where it is another number than one class's output.
        name: the name of that class, if it is known.
        chosen: ``predicted`` or ``given``.
        logit: the class's output, or the other number that is explained.
        probability: its softmax; None likewise.
        top: the most probable classes; none where the outputs are no classes.
        maps: one for each method.
        split: the decomposition of the logit, if it was asked for and can be had.
        layers: the stages with their maps, likewise.
        notes: why a part that was asked for cannot be had, or is another, by part.
        seconds: that all of it took, for all images that went through the model together.
        rather_than: the class that the explained one is compared with, if there is one. Maps,
            split and layers are then those of the difference of the two outputs.
        words: what is explained where it is no class's output; else empty.
        by_default: whether the method was not asked for: it is the recommended one.
    """

    photograph: Photograph
    view: Any
    target: int | None
    name: str | None
    chosen: Literal["predicted", "given"]
    logit: float
    probability: float | None
    top: tuple[ClassScore, ...]
    maps: tuple[MethodMap, ...]
    split: Split | None
    layers: tuple[Layer, ...] | None
    notes: Mapping[Part, str]
    seconds: float
    rather_than: RatherThan | None = None
    words: str = ""
    by_default: bool = False

    @property
    def label(self) -> str:
        """The name of the explained class, or what is explained, for people."""
        return self.words or self.name or f"class {self.target}"

    @property
    def subject(self) -> str:
        """What is explained, for people: ``tabby``, or ``tabby rather than tiger cat``."""
        other = self.rather_than
        return self.label if other is None else f"{self.label} rather than {other.label}"

    @property
    def subject_indices(self) -> str:
        """What is explained, with the classes' numbers: ``tabby [281] rather than dog [7]``."""
        if self.target is None:
            return self.label
        own, other = f"{self.label} [{self.target}]", self.rather_than
        return own if other is None else f"{own} rather than {other.label} [{other.index}]"

    @property
    def numbers(self) -> str:
        """The logit, or both logits and their margin, in words."""
        other = self.rather_than
        if other is None:
            return f"{self.quantity} {self.logit:.4g}"
        return f"logits {self.logit:.4g} - {other.logit:.4g} = {other.margin:.4g}"

    @property
    def quantity(self) -> str:
        """What the explained number is called: ``logit``, ``margin`` or ``output``."""
        if self.target is None:
            return "output"
        return "logit" if self.rather_than is None else "margin"

    @property
    def explained(self) -> float:
        """The number that maps and split explain: the logit, or its difference to another one."""
        return self.logit if self.rather_than is None else self.rather_than.margin

    @property
    def map(self) -> MethodMap:
        """The first map.

        Raises:
            ValueError: no map was asked for.
        """
        if not self.maps:
            raise ValueError('no map was asked for: explain with "map" among the parts')
        return self.maps[0]

    @property
    def saliency(self) -> Array:
        """The numbers of the first map, float32 of shape (height, width).

        Raises:
            ValueError: there is no map.
        """
        if self.map.values is None:
            raise ValueError(f"{self.map.label} has no map: {self.map.reason}")
        return self.map.values

    @property
    def areas(self) -> Areas | None:
        """The areas of the first map, if it is a complete one."""
        found = self.map
        if found.values is None or not found.method.complete:
            return None
        return Areas.of(found.values, self.explained, found.cell)

    @property
    def areas_text(self) -> str:
        """The areas in a sentence; empty without them."""
        if self.areas is None:
            return ""
        settings = self.map.settings
        split = settings.get("baseline") is not None
        return self.areas.text(self.quantity, self.explained, settings.get("terms") == "all", split)

    def image_info(self) -> ImageInfo:
        """Return the image's file, for records."""
        from fullgrad.vision.schema import ImageInfo

        width, height = self.photograph.size
        return ImageInfo(
            path=printable(self.photograph.path),
            sha256=self.photograph.sha256,
            width=width,
            height=height,
            mode=self.photograph.mode,
            frames=self.photograph.frames,
        )

    def target_info(self, name: str | None) -> TargetInfo:
        """Return the explained class under a name, for records."""
        from fullgrad.vision.schema import TargetInfo

        return TargetInfo(
            index=self.target,
            name=name,
            chosen=self.chosen,
            logit=self.logit,
            probability=self.probability,
            rather_than=None if self.rather_than is None else self.rather_than.info(),
            described=self.words or None,
        )

    def record(self, provenance: Provenance) -> ImageRecord:
        """Return all that is needed to trust and to repeat the result with its first map.

        Args:
            provenance: see :func:`provenance`.

        Raises:
            ValueError: there is no map.
        """
        from fullgrad.vision import schema

        found = self.saliency
        return schema.ImageRecord(
            image=self.image_info(),
            target=self.target_info(self.name),
            top=tuple(schema.ClassInfo(**score._asdict()) for score in self.top),
            decomposition=None if self.split is None else self.split.info(self.explained),
            saliency=schema.SaliencyInfo(
                method=self.map.method.name,
                options=self.map.settings,
                height=found.shape[0],
                width=found.shape[1],
                least=float(found.min()),
                most=float(found.max()),
                chosen="default" if self.by_default else "given",
                reason=methods.REASON if self.by_default else None,
                areas=None if self.areas is None else self.areas.info(),
            ),
            notes=tuple(self.notes.values()),
            **dict(provenance),
        )


def explain_images(
    model: LoadedModel,
    images: Sequence[Photograph | AnyPath],
    *,
    names: Sequence[str] | None = None,
    target: Target = None,
    rather_than: int | None = None,
    method: str | Method | Sequence[MethodChoice | str] | None = None,
    options: Mapping[str, Any] | None = None,
    parts: Collection[Part] = ("map", "split"),
    depth: int | None = 1,
    top: int = 5,
    cell: int = CELL,
    on_stage: Callable[[Stage, str], None] = lambda stage, text: None,
) -> list[ImageResult]:
    """Explain images, all of them in one batch.

    Of one method an error is raised. Of several methods each image has a cell for each: a map, or
    the reason why there is none. The decomposition can fail where a method other than FullGrad
    works; the result then has a note instead. Likewise for the maps of single stages.

    Args:
        model: the classifier.
        images: files, or images that were read already; at least one.
        names: of the model's classes, one for each; None for those that the model brings.
        target: class to explain in every image, or any other target (:mod:`fullgrad.targets`);
            None for the predicted class.
        rather_than: a class to compare it with: the difference of their outputs is explained.
        method: one method, or several: their texts as :meth:`MethodChoice.parse` reads them, or
            choices with options; None for ``fullgrad.methods.RECOMMENDED``.
        options: of the one method.
        parts: what is computed: ``map``, ``split`` (the decomposition of the logit) and
            ``layers`` (the stages with their maps).
        depth: components of the module path that make a stage; None for a depth that gives a few
            stages.
        top: how many of the most probable classes are kept.
        cell: pixels along the side of the cells in which complete maps are shown and summed up.
        on_stage: called with each stage of the work and a text for people before it begins; what
            it raises ends the work.

    Returns:
        One result for each image.

    Raises:
        ImageError: an image cannot be read.
        ModelLoadError: a class is explained, and the model is not an image classifier.
        OutputError: the model's output is not finite.
        TargetError: an unknown class, one that is compared with itself, or another target with
            ``rather_than``.
        ValueError: no image; an unknown part, method or option; options of several methods;
            another number of names than of classes; or a cell below 1.
        FullGradError: see :func:`fullgrad.decompose` and :func:`fullgrad.methods.attribute`.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from fullgrad.vision.models import load_model
        >>> model = load_model("torchvision:squeezenet1_1", weights="none")
        >>> image = Image.new("RGB", (300, 300), "red")
        >>> photograph = Photograph(image, Path("red.png"), "", image.size, "RGB", 1)
        >>> (found,) = explain_images(model, [photograph], target=3)
        >>> found.label, found.saliency.shape, found.split.residual < 1e-3
        ('class 3', (224, 224), True)
    """
    began = time.perf_counter()
    if unknown := set(parts) - set(get_args(Part)):
        raise ValueError(f"parts are {', '.join(get_args(Part))}, not {min(unknown)!r}")
    if cell < 1:
        raise ValueError(f"cell must be at least 1, not {cell}")
    single, asked = asked_methods(method, options)
    photographs = [p if isinstance(p, Photograph) else read_photograph(p) for p in images]
    if not photographs:
        raise ValueError("at least one image is needed")
    on_stage("classes", "asking the model for its classes")
    views = [display_image(p.image, model.preprocessing) for p in photographs]
    inputs = torch.stack([input_of(p, model.preprocessing) for p in photographs])
    inputs = inputs.to(model.device)
    classes = model.class_names if names is None else names
    found = explained_by(model, inputs, target, rather_than)
    explained, targets, logits = found.target, found.classes, found.logits
    if classes is not None and logits is not None and len(classes) != (count := logits.shape[1]):
        if names is not None:
            raise OptionError(f"{len(classes)} names, but the model has {count} classes")
        classes = None
    notes: dict[Part, str] = {}
    decomposition = None
    if not {"split", "layers"}.isdisjoint(parts):
        on_stage("split", "splitting the logit into its terms")
        settings = asked[0][0].settings(asked[0][1])
        maps_of: Any = getattr(settings, "linearization", "jacobian")
        if linearization_of(maps_of).needs_baseline:  # which a split does not have
            maps_of = "jacobian"
        try:
            decomposition = decompose(model.module, inputs, explained, linearization=maps_of)
        except FullGradError as error:
            if any(m.name == "fullgrad" for m, _, _ in asked):
                raise
            notes["split"] = f"There is no split of the logit: {error}"
    maps: list[list[MethodMap]] = []
    for one in asked if "map" in parts else ():
        column = maps_by(model, inputs, explained, one, decomposition, on_stage, single)
        maps.append([replace(m, cell=cell) for m in column])
    splits: Sequence[Split | None] = [None] * len(photographs)
    layers: Sequence[tuple[Layer, ...] | None] = [None] * len(photographs)
    if decomposition is not None:
        on_stage("layers", "adding up the stages")
        depth = fitting_depth(decomposition) if depth is None else depth
        splits = splits_of(decomposition, depth)
        if "layers" in parts:
            complete = asked[0][0].complete
            psi: Any = "signed" if complete else asked[0][1].get("psi") or "layer"
            try:
                layers = [
                    layers_of(decomposition, depth=depth, psi=psi, sample=i)
                    for i in range(len(photographs))
                ]
            except LayoutError as error:
                notes["layers"] = f"There are no maps of single stages: {error}"
    probabilities = None if logits is None else logits.double().softmax(1).cpu()

    def name_of(index: int | None) -> str | None:
        return classes[index] if classes and index is not None else None

    def result(i: int) -> ImageResult:
        index = None if targets is None else int(targets[i])
        own = decomposition if rather_than is None else None
        top_scores: tuple[ClassScore, ...] = ()
        if probabilities is not None:
            values, places = probabilities[i].topk(min(top, probabilities.shape[1]))
            scores = zip(places.tolist(), values.tolist(), strict=True)
            top_scores = tuple(ClassScore(k, name_of(k), p) for k, p in scores)
        likely = probabilities is not None and index is not None
        return ImageResult(
            photograph=photographs[i],
            view=views[i],
            target=index,
            name=name_of(index),
            chosen="predicted" if target is None else "given",
            logit=float(found.numbers[i] if own is None else own.output[i]),
            probability=float(probabilities[i, index]) if likely else None,  # type: ignore[index]
            top=top_scores,
            maps=tuple(column[i] for column in maps),
            split=splits[i],
            layers=layers[i],
            notes=notes,
            seconds=time.perf_counter() - began,
            rather_than=None if rather_than is None else compared(i, rather_than),
            words="" if index is not None else words(target, classes),
            by_default=method is None,
        )

    def compared(i: int, other: int) -> RatherThan:
        assert logits is not None
        margin = found.numbers[i] - logits[i, other]
        return RatherThan(
            index=other,
            name=name_of(other),
            logit=float(logits[i, other]),
            margin=float(margin if decomposition is None else decomposition.output[i]),
        )

    return [result(i) for i in range(len(photographs))]
