"""The part of a report on a store of maps: classes in clusters, mean maps, samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullgrad._files import printable
from fullgrad._html import Html, joined, tag
from fullgrad._optional import require
from fullgrad.datasets import Opened
from fullgrad.datasets import open as open_store
from fullgrad.datasets.analysis.choice import CLASSES, Choice
from fullgrad.datasets.analysis.clusters import ClassClusters, cluster_maps
from fullgrad.datasets.analysis.means import MeanMap, class_label, mean_maps, outcomes
from fullgrad.datasets.analysis.pictures import READING, SIDE, Pictures, colored, encoded, in_a_row
from fullgrad.datasets.analysis.texts import ColoredText, colored_text
from fullgrad.datasets.index import SHARE
from fullgrad.datasets.plan import TEXT
from fullgrad.report.markup import Builder, details, facts
from fullgrad.report.provenance import version_facts
from fullgrad.report.values import shown
from fullgrad.viz.style import number

if TYPE_CHECKING:
    import pandas

MOST = 120  # samples of a contact sheet
_CLASSES, _GROUPS, _EXAMPLES = 6, 40, 8  # of clusters, of mean maps, of samples in a cluster
_SIZES = ("numbers of each map", "numbers of each map at most, one for each token")
_TOKENS = 120  # of a text, those around the one with the largest number
_APART = ("data", "model", "environment", "class_names", "positions", "sizes", "options")


@dataclass(frozen=True, slots=True)
class Look:
    """What is shown of a store.

    Args:
        choice: which samples are on the contact sheet.
        most: of them.
        data: where the images lie now, if they were moved.
    """

    choice: Choice = field(default_factory=Choice)
    most: int = MOST
    data: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A store, and what is shown of it.

    Args:
        folder: of the store.
        store: that was opened.
        look: what is shown.
    """

    folder: Path
    store: Opened
    look: Look


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of maps."""
    return (folder / "maps.zarr").is_dir()


def found_in(folder: Path, look: Look) -> Stored | None:
    """The store that a folder is, if it is one.

    Raises:
        StoreError: it is damaged.
    """
    if not is_store(folder):
        return None
    return Stored(folder, open_store(folder), look)


def section(builder: Builder, found: Stored, problems: list[str]) -> Html:
    """One store: what it holds, clusters, mean maps, a contact sheet, how it was made.

    Maps of texts have no means and no clusters.

    Args:
        builder: of the page.
        found: the store.
        problems: to which what is missing is added.

    Raises:
        UsageError: a condition that does not fit the store.
        InputError: its maps have more than three axes.
    """
    store, look = found.store, found.look
    pictures = Pictures.of(store, look.data)
    rows = look.choice.rows(store.index, store.plan.class_names)
    if pictures.why:
        problems.append(pictures.why)
    if not store.complete:
        problems.append(
            f"{printable(found.folder)} is not complete: {len(store.done)} of {store.units} units "
            "are there"
        )
    method, model = store.plan.method, short_name(store.plan.model["name"])
    heading = f"{len(store.index):,} maps of a data set: {method} on {model}"
    return tag(
        "section",
        tag("h2", heading, id=builder.name("stored")),
        facts(_facts(store)),
        *_errors(builder, store),
        *([] if pictures.kind == "text" else _together(builder, pictures, rows)),
        *_sheet(builder, pictures, rows, look),
        *_made(store),
    )


def _together(builder: Builder, pictures: Pictures, rows: pandas.DataFrame) -> list[Html]:
    """What maps have in common."""
    require("sklearn", "datasets")
    found = cluster_maps(pictures.store, rows)
    means = mean_maps(pictures.store, rows)
    return [*_clusters(builder, pictures, found), *_means(builder, pictures, means)]


def _facts(store: Opened) -> list[tuple[Any, Any, Any]]:
    index, data = store.index, store.plan.data
    outcome = outcomes(index)
    known = int((outcome != "not known").sum())
    right = int((outcome == "right").sum())
    failed = int(index["error"].notna().sum())
    found: list[tuple[Any, Any, Any]] = [
        ("data", short_name(data["spec"]), f"{store.plan.samples:,} samples"),
        ("explained", _target(store), "the output that each map is of"),
        ("maps", " x ".join(map(str, store.plan.positions)), _SIZES[store.plan.dims == TEXT]),
        ("without a map", f"{failed:,}", "samples that could not be read or explained"),
    ]
    if known:
        text = f"{right / known:.1%} of {known:,}"
        found.append(("right", text, "the predicted class is the true one"))
    residual = (index["residual"] / index["logit"]).abs().max()
    if not math.isnan(residual):
        what = "largest residual, relative to its logit: what the sums leave over"
        found.append(("exact to", f"{residual:.1e}", what))
    return found


def short_name(spec: str) -> str:
    """Return the name of data or of a model, without the path to it."""
    return spec.replace("\\", "/").rstrip("/").rpartition("/")[2] or spec


def title_of(found: Stored) -> str:
    """A title for the page of one store."""
    plan = found.store.plan
    return f"{plan.method} maps of {short_name(plan.data['spec'])}"


def _target(store: Opened) -> str:
    target = store.plan.target
    if isinstance(target, str):
        return {"predicted": "the predicted class", "true": "the true class"}.get(target, target)
    if isinstance(target, dict):
        if all(isinstance(one, int) for one in target.values()):
            return f"a class of its own for each sample ({len(target)} given)"
        kind = str(target.get("", "")).partition(" ")[0]  # of a target with settings
        return f"a function of the output{f', {kind}' if kind else ''}"
    if isinstance(target, int):
        return class_label(store, target)
    return f"classes {', '.join(class_label(store, one) for one in target)}"


def _errors(builder: Builder, store: Opened) -> list[Html]:
    failed = store.index[store.index["error"].notna()]
    if failed.empty:
        return []
    rows = [(i, e) for i, e in zip(failed["id"], failed["error"], strict=True)][:50]
    caption = f"Samples without a map: {len(failed):,}, the first {len(rows)} of them."
    return [
        tag("h3", "Errors"),
        details("Samples without a map", builder.table(caption, ("sample", "why"), rows)),
    ]


def _clusters(builder: Builder, pictures: Pictures, found: Sequence[ClassClusters]) -> list[Html]:
    several = [c for c in found if len(c.clusters) > 1]
    intro = (
        "Maps of a class that are alike form a cluster (spectral relevance analysis, Lapuschkin et "
        "al. 2019). A class that the model recognizes in several ways, by the object and by a "
        "watermark, has several. Classes with the most distinct clusters come first: the gap is "
        "that of the graph's eigenvalues, 0 where nothing is apart. Every class has some gap, so "
        "look at the pictures before you believe in clusters."
    )
    parts = [tag("h3", "Classes whose maps form clusters"), tag("p", intro)]
    if not several:
        what = "No class" if found else "No class has ten maps, so none"
        return [*parts, tag("p", f"{what} has more than one cluster.")]
    for one in several[:_CLASSES]:
        sizes = " and ".join(str(c.count) for c in one.clusters)
        parts.append(tag("h4", f"{one.name}: {sizes} maps, gap {one.gap:.2f}"))
        if one.left_out:
            total = sum(c.count for c in one.clusters)
            parts.append(tag("p", f"{total} of {total + one.left_out} maps, drawn at random."))
        for place, cluster in enumerate(one.clusters, 1):
            right = "" if cluster.right is None else f", {cluster.right:.0%} predicted right"
            images = [colored(pictures.shown(cluster.mean), pictures.signed)]
            images += [pictures.small(row) for row in cluster.rows[:_EXAMPLES]]  # type: ignore[misc]
            content, kind = encoded(in_a_row(images))
            caption = (
                f"Cluster {place}: {cluster.count} maps{right}. Left the mean map, then the "
                f"samples nearest to it: rows {', '.join(map(str, cluster.rows[:_EXAMPLES]))}."
            )
            alt = f"Mean map and samples of cluster {place} of {one.name}"
            parts.append(builder.picture(content, kind, alt, caption, True))
    if len(several) > _CLASSES:
        names = ", ".join(c.name for c in several[_CLASSES : _CLASSES + 20])
        parts.append(tag("p", f"{len(several)} classes have clusters; also: {names}."))
    return parts


def _means(builder: Builder, pictures: Pictures, found: Sequence[MeanMap]) -> list[Html]:
    if not found:
        return []
    most = sorted(found, key=lambda m: -m.count)[:_GROUPS]
    kept = [m for m in found if m in most]
    said = (
        "The mean of each class's maps, of right and of wrong predictions by themselves; every map "
        "counts alike. Each picture has its own scale. A bright spot at one place in all samples "
        "of a class is no object: objects move."
    )
    cards = [
        _card(
            encoded(colored(pictures.shown(m.values), pictures.signed)),
            f"Mean map of {m.name}, {m.outcome}",
            [tag("strong", m.name), m.outcome, f"{m.count:,} maps"],
        )
        for m in kept
    ]
    left = f" The {len(kept)} largest of {len(found)} groups are shown." * (len(kept) < len(found))
    return [tag("h3", "Mean maps"), tag("p", said + left), tag("ul", *cards, class_="cards")]


def _sheet(builder: Builder, pictures: Pictures, rows: pandas.DataFrame, look: Look) -> list[Html]:
    store, choice = pictures.store, look.choice
    where = " and ".join(map(str, choice.where)) or "all"
    order = f"{choice.sort}, {'largest' if choice.descending else 'smallest'} first"
    said = (
        f"{min(look.most, len(rows)):,} of {len(rows):,} samples ({where}), ordered by "
        f"{order if choice.sort else 'their place in the data'}. "
        "fullgrad report --where and --sort choose others; fullgrad app --store shows all."
    )
    texts, reading = pictures.kind == "text", READING[pictures.kind]
    cards = []
    for row in rows.index[: look.most].tolist():
        words = [tag("strong", _short(rows.at[row, "id"])), *_words(store, rows, row)]
        if texts:
            cards.append(_text(colored_text(store, row, _TOKENS), words))
            continue
        image = pictures.small(row)
        picture = None if image is None else encoded(image)
        cards.append(_card(picture, f"Map of {rows.at[row, 'id']}", words))
    return [
        tag("h3", "Texts" if texts else "Contact sheet", id=builder.name("sheet")),
        tag("p", said),
        *([tag("p", reading)] if reading else []),
        tag("ul", *cards, class_="texts" if texts else "cards"),
    ]


def _text(found: ColoredText | None, words: Sequence[Any]) -> Html:
    """A text's tokens in colors, each above its number."""
    head = tag("p", words[0], *(part for word in words[1:] for part in (" · ", word)))
    if found is None:
        return tag("li", head)
    tokens = [
        tag(
            "span",
            token.text,
            tag("small", token.score),
            class_="token",
            style=f"background: {token.color}; color: {token.ink}",
        )
        for token in found.tokens
    ]
    before = [f"{found.before:,} tokens before … "] if found.before else []
    after = [f" … {found.after:,} tokens after"] if found.after else []
    return tag("li", head, tag("p", *before, *tokens, *after))


def _words(store: Opened, rows: pandas.DataFrame, row: int) -> list[str]:
    """What is said below a sample's picture."""
    own = rows.loc[row]
    if isinstance(own["error"], str):
        return [own["error"]]
    values = {
        c: None if own[c] is None or own[c] != own[c] else own[c] for c in ("probability", "logit")
    }
    classes = {c: _class(own[c]) for c in CLASSES}
    said = [f"{class_label(store, classes['target'])}"]
    if values["probability"] is not None:
        said[0] += f" {values['probability']:.0%}"
    if classes["label"] is not None and classes["label"] != classes["prediction"]:
        said.append(f"wrong: is {class_label(store, classes['label'])}")
    if values["logit"] is not None:
        said.append(f"logit {number(float(values['logit']))}")
    return [f"row {row}", *said]


def _class(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else f"…{text[-most + 1 :]}"


def _card(picture: tuple[bytes, str] | None, alt: str, words: Sequence[Any]) -> Html:
    image = tag("span", "no map", class_="missing")
    if picture is not None:
        content, kind = picture
        image = tag("img", src=Builder.source(content, kind), alt=alt, width=SIDE)
    lines = joined(part for word in words for part in (word, tag("br")))
    return tag("li", image, tag("span", lines))


def _made(store: Opened) -> list[Html]:
    plan, model = asdict(store.plan), store.plan.model
    kind, _, rest = str(model["weights"]).partition(" ")  # as in: checkpoint FILE
    rows: list[tuple[Any, Any, Any]] = [
        ("model", short_name(model["name"]), f"weights {kind} {short_name(rest)}".rstrip()),
        *((f"method: {k}", shown(v), "") for k, v in store.plan.options.items()),
        *(
            (k, shown(v), "")
            for k, v in plan.items()
            if k not in _APART and v not in (None, (), {})
        ),
        ("columns", ", ".join(c for c in store.index.columns if not c.startswith(SHARE)), ""),
        *version_facts(json.loads(json.dumps(store.plan.environment))),
    ]
    return [tag("h3", "How it was made"), details("The plan of the store", facts(rows))]
