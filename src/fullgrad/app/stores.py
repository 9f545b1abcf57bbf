"""The addresses of a store's pages: its samples filtered and sorted, pictures, means, clusters."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from anyio import CapacityLimiter, fail_after, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fullgrad._version import __version__
from fullgrad.app.refusal import Refusal, public
from fullgrad.app.responses import picture_url, strict_json
from fullgrad.datasets.analysis.choice import Choice
from fullgrad.datasets.analysis.clusters import cluster_maps
from fullgrad.datasets.analysis.means import check_positions, mean_maps
from fullgrad.datasets.analysis.pictures import READING, Pictures, encoded
from fullgrad.datasets.analysis.texts import colored_text
from fullgrad.datasets.index import SHARE
from fullgrad.errors import FullGradError, InputError
from fullgrad.report.stored import short_name
from fullgrad.viz.mixture import drawn

if TYPE_CHECKING:
    import pandas

PAGE = 60  # samples on a page
SIDES = (112, 448)  # pixels of pictures
_MOST, _LONGEST = 20, 500  # conditions, and characters of one
_MAPS, _PER_CLASS = 20_000, 400  # maps that are read for means and clusters at most
_EXAMPLES = 8
_TOKENS = 60  # of a text in a list, those around the one with the largest number
_AT_ONCE = 8  # requests that read and draw
_SENDING = 60.0  # seconds in which a client must take what it is sent
_SHORT = ("id", "rank", "label", "target", "prediction", "probability", "logit", "error")
_APART = ("shape", "tokens", "digest", "scale", "zero", "host", "attempt")


class StorePages:
    """Answers what the page of a store asks for; nothing in the store is changed.

    Args:
        pictures: of the store.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures, self._store = pictures, pictures.store
        self._limiter = CapacityLimiter(_AT_ONCE)
        self._drawing = threading.Lock()

    def routes(self) -> dict[str, ASGIApp]:
        """Return the addresses, with what answers there."""
        found: dict[str, tuple[tuple[str, ...], Callable[..., Response]]] = {
            "/api/store/about": ((), self.about),
            "/api/store/rows": (("where", "sort", "page"), self.rows),
            "/api/store/means": (("where",), self.means),
            "/api/store/clusters": ((), self.clusters),
            "/api/store/sample/{row:int}": ((), self.sample),
            "/api/store/picture/{row:int}": (("kind", "side"), self.picture),
        }
        return {path: _Get(self._limiter, *parts) for path, parts in found.items()}

    @cached_property
    def _index(self) -> pandas.DataFrame:
        return self._store.index

    def _chosen(self, words: Mapping[str, list[str]]) -> pandas.DataFrame:
        where = [text for text in words.get("where", ()) if text.strip()]
        if len(where) > _MOST or any(len(text) > _LONGEST for text in where):
            raise Refusal(f"At most {_MOST} conditions of {_LONGEST} characters are read.")
        try:
            choice = Choice.parse(where, _one(words, "sort", ""))
            return choice.rows(self._index, self._store.plan.class_names)
        except FullGradError as error:
            raise Refusal(str(error)) from error

    def about(self, words: Mapping[str, list[str]]) -> Response:
        """What the store holds."""
        plan, index = self._store.plan, self._index
        columns = [c for c in index.columns if c not in _APART]
        return _json(
            {
                "version": __version__,
                "method": plan.method,
                "model": public(str(plan.model["name"])),
                "data": short_name(plan.data["spec"]),
                "samples": plan.samples,
                "rows": len(index),
                "errors": int(index["error"].notna().sum()),
                "units": plan.units,
                "done": len(self._store.done),
                "positions": list(plan.positions),
                "signed": self._pictures.signed,
                "kind": self._pictures.kind,
                "reading": READING[self._pictures.kind],
                "images": self._pictures.samples is not None,
                "notes": [public(self._pictures.why)] if self._pictures.why else [],
                "classes": None if plan.class_names is None else list(plan.class_names),
                "labels": bool(index["label"].notna().any()),
                "columns": ["row", *columns],
            }
        )

    def rows(self, words: Mapping[str, list[str]]) -> Response:
        """One page of the chosen samples."""
        chosen = self._chosen(words)
        page = _whole(_one(words, "page", "0"), "page")
        part = chosen.iloc[page * PAGE : (page + 1) * PAGE]
        listed = [
            {"row": row, **{c: _plain(v) for c, v in zip(_SHORT, values, strict=True)}}
            for row, *values in part[list(_SHORT)].itertuples(name=None)
        ]
        if self._pictures.kind == "text":
            for each in listed:
                each["text"] = self._text(each["row"], _TOKENS)
        pages = -(-len(chosen) // PAGE)
        return _json({"total": len(chosen), "page": page, "pages": pages, "rows": listed})

    def sample(self, words: Mapping[str, list[str]], row: int) -> Response:
        """All that is known of one row."""
        own = self._row(row)
        shares = [
            {"name": c.removeprefix(SHARE), "sum": _plain(own[c])}
            for c in own.index
            if c.startswith(SHARE) and _plain(own[c]) is not None
        ]
        columns = {c: _plain(own[c]) for c in own.index if not c.startswith(SHARE)}
        place = int(self._index.index.get_loc(row))
        near = {
            "before": int(self._index.index[place - 1]) if place else None,
            "after": int(self._index.index[place + 1]) if place + 1 < len(self._index) else None,
        }
        text = self._text(row) if self._pictures.kind == "text" else None
        columns.pop("tokens", None)
        return _json({"row": row, "columns": columns, "shares": shares, "text": text, **near})

    def _text(self, row: int, most: int | None = None) -> dict[str, Any] | None:
        found = colored_text(self._store, row, most)
        return None if found is None else asdict(found)

    def _row(self, row: int) -> pandas.Series[Any]:
        if row not in self._index.index:
            raise Refusal(f"The store has no row {row}.", "request", 404)
        return self._index.loc[row]

    def picture(self, words: Mapping[str, list[str]], row: int) -> Response:
        """A row's image, its map, or its map over the image."""
        self._row(row)
        kind, side = _one(words, "kind", "both"), _one(words, "side", str(SIDES[0]))
        if kind not in {"image", "map", "both"} or side not in map(str, SIDES):
            raise Refusal(f"A picture is an image, a map, or both, of {SIDES} pixels.")
        found = self._pictures.small(row, kind, int(side))  # type: ignore[arg-type]
        if found is None:
            raise Refusal(f"Row {row} has no such picture.", "request", 404)
        content, media_type = encoded(found)
        return Response(content, media_type=media_type)

    def means(self, words: Mapping[str, list[str]]) -> Response:
        """Mean maps of the chosen samples, by class and outcome."""
        self._comparable()
        chosen = self._chosen(words)
        most = max(10, min(_PER_CLASS, _MAPS // max(1, chosen["target"].nunique())))
        groups = [
            {
                "target": m.target,
                "name": m.name,
                "outcome": m.outcome,
                "count": m.count,
                "picture": self._mean(m.values),
            }
            for m in mean_maps(self._store, chosen, most_maps=most)
        ]
        return _json({"groups": groups, "most": most})

    def clusters(self, words: Mapping[str, list[str]]) -> Response:
        """Classes with their clusters, the most distinct first; computed once."""
        self._comparable()
        with self._drawing:
            return _json(self._clusters)

    def _comparable(self) -> None:
        try:
            check_positions(self._store)
        except InputError as error:
            raise Refusal(str(error)) from error

    @cached_property
    def _clusters(self) -> dict[str, Any]:
        classes = max(1, self._index["target"].nunique())
        most = max(10, min(_PER_CLASS, _MAPS // classes))
        found = cluster_maps(self._store, most_maps=most)
        listed = [
            {
                "target": c.target,
                "name": c.name,
                "gap": c.gap,
                "left_out": c.left_out,
                "clusters": [
                    {
                        "count": k.count,
                        "right": k.right,
                        "rows": list(k.rows[:_EXAMPLES]),
                        "picture": self._mean(k.mean),
                    }
                    for k in c.clusters
                ],
            }
            for c in found
            if len(c.clusters) > 1
        ]
        return {"classes": listed, "looked_at": len(found)}

    def _mean(self, values: Any) -> str:
        return picture_url(drawn(self._pictures.shown(values), self._pictures.signed))


class _Get:
    """Answers GET: reads the query, computes in a thread, sends."""

    def __init__(
        self, limiter: CapacityLimiter, known: tuple[str, ...], answer: Callable[..., Response]
    ) -> None:
        self._limiter, self._known, self._answer = limiter, known, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            raise Refusal("This address answers GET only.", "request", 405)
        words: dict[str, list[str]] = {}
        for name, value in Request(scope).query_params.multi_items():
            if name not in self._known:
                raise Refusal(f"The request has an unknown part {name!r}.")
            words.setdefault(name, []).append(value)
        run = partial(self._answer, words, **scope.get("path_params", {}))
        response = await to_thread.run_sync(run, limiter=self._limiter)
        with fail_after(_SENDING):
            await response(scope, receive, send)


def _json(value: Any) -> Response:
    return Response(strict_json(value), media_type="application/json")


def _one(words: Mapping[str, list[str]], name: str, default: str) -> str:
    found = words.get(name, [default])
    if len(found) > 1:
        raise Refusal(f"{name} is given several times.")
    return found[0]


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise Refusal(f"{name} must be a whole number of at least 0, not {text!r}.")
    return int(text)


def _plain(value: Any) -> Any:
    """A cell of the index as JSON can hold it; None where there is no value."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or value is _missing():
        return None
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return public(str(value))


def _missing() -> Any:
    import pandas

    return pandas.NA
