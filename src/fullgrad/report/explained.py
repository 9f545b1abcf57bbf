"""The part of a report on photographs that ``fullgrad explain`` explained."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fullgrad._files import printable
from fullgrad._html import Html, tag
from fullgrad.errors import InputError
from fullgrad.report.cards import Card, cards_of
from fullgrad.report.markup import Builder, details, facts, kind_of, small
from fullgrad.report.provenance import again, made, model_facts, version_facts
from fullgrad.report.values import ReportError, read_bytes, shown
from fullgrad.vision.images import OVERLAY_SUFFIX
from fullgrad.vision.layers import unpacked
from fullgrad.vision.schema import ClassInfo, ImageInfo, ImageRecord, RatherThanInfo, TargetInfo
from fullgrad.viz.heatmap import heatmap
from fullgrad.viz.images import LAYERS_SUFFIX, MAP_SUFFIX
from fullgrad.viz.layers import layer_strip
from fullgrad.viz.style import number, plane, saved, signed
from fullgrad.viz.waterfall import Part, Waterfall, gathered

_OPTIONS = {
    "psi": "how terms are rescaled before they are summed; none: by layer",
    "terms": "which terms the map is made of",
    "activation_layouts": "where terms lie, if that was stated; none: it was followed",
}
_SAME = 1e-4  # of the layers' sum to the record's, relative to the sizes: computed twice
_WIDEST, _THUMBNAIL = 1408, 320  # pixels of pictures; 1408: as wide as two-pixel screens show
_FOLDED = 4  # photographs and more are folded away below their thumbnails
_CLOSE = 1e-5  # of a map's least and most to the record's, relative


@dataclass(frozen=True, slots=True)
class Explained:
    """The record of one photograph, and where its files are.

    Args:
        path: of the record.
        record: what it says.
        files: contents of the files beside it by their endings, where they are in memory; None
            where they are on disk.
    """

    path: Path
    record: ImageRecord
    files: Mapping[str, bytes] | None = None

    def file(self, suffix: str) -> Path:
        """A file beside the record: its name, with another ending."""
        return self.path.with_name(self.path.name.removesuffix(".json") + suffix)

    def has(self, suffix: str) -> bool:
        """Whether there is a file beside the record with an ending."""
        return self.file(suffix).is_file() if self.files is None else suffix in self.files

    def content(self, suffix: str) -> bytes:
        """Return the content of a file beside the record.

        Raises:
            ReportError: it is not there, or cannot be read.
        """
        if self.files is None:
            return read_bytes(self.file(suffix))
        if suffix not in self.files:
            raise ReportError(f"{printable(self.file(suffix))} does not exist")
        return self.files[suffix]

    @property
    def name(self) -> str:
        """The name of the photograph's file."""
        text = self.record.image.path
        return text.replace("\\", "/").rpartition("/")[2] or text

    @property
    def run(self) -> str:
        """What photographs that were explained in the same way have in common."""
        return self.record.model_dump_json(
            include={"model": True, "versions": True, "command": True, "options": True}
            | {"saliency": {"method": True}}
        )


def section(builder: Builder, group: Sequence[Explained], problems: list[str]) -> Html:
    """All photographs of one run.

    Args:
        builder: of the page.
        group: at least one, with equal :attr:`Explained.run`.
        problems: to which what is missing or wrong is added.

    Raises:
        ReportError: a record is not what ``fullgrad explain`` writes.
    """
    articles: list[Html] = []
    cards: list[Card] = []
    folded = len(group) >= _FOLDED
    for e in group:
        name = builder.name("photograph")
        try:
            articles.append(_photograph(builder, e, problems, name, folded))
        except ReportError as error:
            problems.append(str(error))
        else:
            if folded:
                cards.append(_card(e, name))
    if not articles:
        raise ReportError(problems.pop())
    record = group[0].record
    method, spec = record.saliency.method, record.model.spec
    count = f"{len(articles)} photographs" if len(articles) > 1 else "One photograph"
    content = [
        tag("h2", f"{count} explained: {method} on {spec}", id=builder.name("explained")),
        cards_of(builder, cards) if folded else "",
        *articles,
    ]
    rows = [
        ("method", method, "how the map is made ('fullgrad methods' lists them)"),
        *(
            (f"method: {k}", shown(v), _OPTIONS.get(k, ""))
            for k, v in record.saliency.options.items()
        ),
        *model_facts(record.model),
        *version_facts(record.versions),
    ]
    files = "The photographs' SHA-256 digests above tell whether they are the same files."
    content += [
        made(rows, "h3"),
        again(record.command, "h3", f"In the folder where it was run. {files}"),
    ]
    return tag("section", *content)


def _card(e: Explained, link: str) -> Card:
    target = e.record.target
    try:
        picture = small(e.content(OVERLAY_SUFFIX), _THUMBNAIL)
    except ReportError:  # which the photograph itself says
        picture = None
    label = target.name or _label(target)
    return Card(e.name, link, label, target.probability, target.likely, picture)


def _photograph(
    builder: Builder, e: Explained, problems: list[str], name: str, folded: bool
) -> Html:
    record, target = e.record, e.record.target
    label = _label(target)
    chosen = (
        "the class that the model predicts"
        if target.chosen == "predicted"
        else "the class that was asked for"
    )
    said = (
        f", {chosen}. Its logit, the number before softmax, is {number(target.logit)}; its "
        f"probability, the softmax of all logits, is {target.likely}."
        if target.described is None
        else f", which was asked for. It is {number(target.logit)}."
    )
    if (other := target.rather_than) is not None:
        label = f"{label} rather than {_label(other)}"
        said += (
            f" The logit of the class that it is compared with is {number(other.logit)}. The "
            f"difference of the two, {number(other.margin)}, is what maps and parts explain: what "
            "raises it speaks for the first class more than for the second."
        )
    heading = tag("h3", f"{e.name}: {label}", id=None if folded else name)
    parts = [
        _overlay(builder, e, label, problems),
        _classes(builder, record.top),
        tag("h4", f"Where the {_number_name(target)} comes from"),
        tag("p", "This explains ", tag("strong", label), said),
        *(tag("p", note) for note in record.notes),
        *_waterfall(builder, e, problems),
        *_layers(builder, e, problems),
        *_map(builder, e, problems),
        details("The photograph's file", facts(_file_facts(record.image))),
    ]
    if folded:  # a browser opens it where a link leads to the name within
        inner = tag("div", *parts, id=name)
        return tag("article", tag("details", tag("summary", heading), inner, class_="photograph"))
    return tag("article", heading, *parts)


def _number_name(target: TargetInfo) -> str:
    if target.described is not None:
        return "output"
    return "logit" if target.rather_than is None else "difference of the logits"


def _label(target: TargetInfo | RatherThanInfo) -> str:
    index = target.index
    if index is None and isinstance(target, TargetInfo):
        return target.described or ""
    return f"{target.name} (class {index})" if target.name else f"class {index}"


def _warning(text: str, problems: list[str]) -> Html:
    problems.append(text)
    return tag("p", text, class_="warn")


def _overlay(builder: Builder, e: Explained, label: str, problems: list[str]) -> Html:
    method, path = e.record.saliency.method, e.file(OVERLAY_SUFFIX)
    try:
        content = e.content(OVERLAY_SUFFIX)
    except ReportError as error:
        return _warning(f"No overlay: {error}", problems)
    kind = kind_of(content)
    if kind != "image/png":
        return _warning(f"No overlay: {printable(path)} is no PNG file", problems)
    try:
        content, kind = small(content, _WIDEST, printable(path))
    except ReportError as error:
        return _warning(f"No overlay: {error}", problems)
    alt = f"Photograph {e.name} as the model sees it, and beside it the {method} map for {label}"
    meaning = (
        "red pixels raise the output, blue ones lower it, the stronger the color, the more. The "
        "scale is made for each picture, so colors cannot be compared between pictures."
        if _has_sign(e)
        else "the brighter, the larger the map's number. Brightness is stretched for each picture, "
        "so it cannot be compared between pictures."
    )
    caption = (
        f"Left what the model sees, right the same in gray with the {method} map over it: {meaning}"
    )
    return builder.picture(content, kind, alt, caption)


def _has_sign(e: Explained) -> bool:
    """Whether the map's numbers have a sign; a complete map has areas in its record."""
    found = e.record.saliency
    return found.areas is not None or found.options.get("psi") == "signed"


def _classes(builder: Builder, top: Sequence[ClassInfo]) -> Html:
    if not top:
        return Html("")
    rows = [
        (place, c.name or "not known", c.index, f"{c.probability:.2%}")
        for place, c in enumerate(top, 1)
    ]
    caption = (
        "The most probable classes. Probability is the softmax of the model's outputs: over all "
        "classes it sums to 100 %."
    )
    return builder.table(caption, ("place", "class", "index", "probability"), rows, numeric=(2, 3))


def _waterfall(builder: Builder, e: Explained, problems: list[str]) -> list[Html]:
    d, target = e.record.decomposition, e.record.target
    if d is None:
        return []
    name = _number_name(target)
    intro = (
        f"The {name} is the exact sum of what the input contributes (gradient times input) and "
        "of what each stage's biases contribute (gradient times bias)"
        f"{'' if d.linearization is None else f', by linearization={d.linearization!r}'}:"
    )
    try:
        parts = tuple(Part(s.of, s.sum) for s in d.shares)
        found = Waterfall(parts, target.explained, d.residual)
    except InputError as error:
        return [_warning(f"The record of {e.name} does not add up: {error}", problems)]
    relative, tolerance = d.relative_residual, d.tolerance
    said = (
        f"Residual: the {name} minus all parts is {found.residual:.1e}, which is {relative:.1e} "
        f"of their sizes; up to {tolerance:.0e} counts as rounding."
    )
    table = [tag("p", intro), waterfall_table(builder, found, name)]
    if relative > tolerance:
        text = f"The split of {e.name} is not complete ({said} It is more.) Do not trust it."
        return [*table, _warning(text, problems)]
    return [*table, tag("p", f"{said} So the split is complete: nothing is missing.")]


def waterfall_table(builder: Builder, found: Waterfall, name: str) -> Html:
    """A waterfall as a table with bars, which fits any width and both color schemes.

    Args:
        builder: of the page.
        found: the parts.
        name: of the number that they are parts of.
    """
    parts = gathered(found.parts)
    ends = np.cumsum([p.value for p in parts])
    starts = ends - np.array([p.value for p in parts])
    low, high = min(0.0, *starts, *ends), max(0.0, *starts, *ends, found.output)
    low = min(low, found.output)
    span = (high - low) or 1.0

    def bar(start: float, end: float, kind: str) -> Html:
        left, right = sorted(((start - low) / span, (end - low) / span))
        zero = tag("span", class_="zero", style=f"left:{-100 * low / span:.3f}%")
        own = tag(
            "span", class_=kind, style=f"left:{100 * left:.3f}%;width:{100 * (right - left):.3f}%"
        )
        return tag("span", own, zero, class_="bar", aria_hidden="true")

    rows: list[tuple[Any, ...]] = []
    for part, start, end in zip(parts, starts, ends, strict=True):
        share = found.share(part)
        rows.append(
            (
                part.name,
                bar(start, end, "raises" if part.value > 0 else "lowers"),
                signed(part.value),
                "" if share is None else f"{signed(float(f'{share:.3g}'))} %",
            )
        )
    residual = f"{found.residual:+.1e}".replace("-", "−", 1) if found.residual else "0"
    rows.append(("residual", bar(ends[-1], ends[-1], "none"), residual, ""))
    whole = "" if not found.output else "100 %"
    rows.append((f"= {name}", bar(0, found.output, "total"), signed(found.output), whole))
    caption = (
        "Each bar begins where the one above it ends; the thin line is zero. Red and + raise the "
        f"{name}, blue and − lower it. Shares are of the {name}, so they can exceed 100 %."
    )
    if len(parts) < len(found.parts):
        caption += " 'n stages': neighbors with small sums, put together."
    heads = ("part", "running sum", "sum", "share")
    return builder.table(caption, heads, rows, numeric=(2, 3), class_="waterfall")


def _layers(builder: Builder, e: Explained, problems: list[str]) -> list[Html]:
    path = e.file(LAYERS_SUFFIX)
    split = e.record.decomposition
    if split is None or not e.has(LAYERS_SUFFIX):
        return []
    try:
        layers = unpacked(e.content(LAYERS_SUFFIX))
        shares = [s.sum for s in split.shares[1:]]
        gap = math.fsum(s.sum for s in layers) - math.fsum(shares)
        if abs(gap) > _SAME * math.fsum(map(abs, shares)):
            raise ReportError(
                f"{printable(path)} holds the layers of something else, such as an earlier run: "
                "delete it, or explain the photograph again with --layers --replace"
            )
        content = saved(layer_strip(layers, e.record.target.explained, sign=_has_sign(e)), "png")
        content, kind = small(content, _WIDEST)
    except (InputError, ReportError) as error:
        return [_warning(f"No layers of {e.name}: {error}", problems)]
    names = ", ".join(s.name for s in layers[:12])
    name = _number_name(e.record.target)
    caption = (
        "Where in the image each stage's biases count, from the first stage to the last. The sum "
        f"below each map is the stage's part of the {name}, as in the table above."
    )
    alt = f"A map for each of {len(layers)} stages, from early to late: {names}"
    return [tag("h4", "Layer by layer"), builder.picture(content, kind, alt, caption, True)]


def _map(builder: Builder, e: Explained, problems: list[str]) -> list[Html]:
    path, saliency = e.file(MAP_SUFFIX), e.record.saliency
    try:
        values = plane(np.load(io.BytesIO(e.content(MAP_SUFFIX)), allow_pickle=False))
    except ReportError as error:
        return [_warning(f"No map: {error}", problems)]
    except Exception as error:  # whatever numpy raises on what is no array, or no map
        return [_warning(f"No map: {printable(path)} holds none ({error})", problems)]
    ends = saliency.least, saliency.most
    close = _CLOSE * max(abs(ends[0]), abs(ends[1]))
    if abs(values.min() - ends[0]) > close or abs(values.max() - ends[1]) > close:
        text = f"{printable(path)} is not the map that the record of {e.name} tells of"
        return [_warning(text, problems)]
    method, sign = saliency.method, _has_sign(e)
    content, kind = small(saved(heatmap(values, method=method, sign=sign), "png"), _WIDEST)
    units = (
        "They have a sign: those above 0 raise the output, those below lower it."
        if sign
        else "They are in the method's own units and do not sum to the logit."
    )
    caption = (
        f"The map by itself, {values.shape[1]} x {values.shape[0]} pixels; its numbers go from "
        f"{number(float(values.min()))} to {number(float(values.max()))}. {units}"
    )
    alt = f"Heat map of {method} for {e.name}, without the photograph"
    return [details("The map alone", builder.picture(content, kind, alt, caption))]


def _file_facts(image: ImageInfo) -> list[tuple[Any, Any, Any]]:
    size = f"{image.width} x {image.height} pixels"
    return [
        ("path", image.path, "as it was given"),
        ("size", size, "as stored, before the model's preparation"),
        ("SHA-256", tag("code", image.sha256), "equal digests, equal files"),
    ]
