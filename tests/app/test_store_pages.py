"""The viewer of a store: what its addresses answer, and what they refuse."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

pytest.importorskip("starlette")
import stored_images
import stored_maps
from app_server import Call, strict
from fullgrad import datasets
from fullgrad.app.pool import Pool
from fullgrad.app.server import build
from fullgrad.app.stores import PAGE, StorePages
from fullgrad.app.upload import Limits
from fullgrad.cli.app import add_arguments, run
from fullgrad.cli.main import main
from fullgrad.datasets.analysis.pictures import Pictures


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A viewer of a store of 25 maps and their images, without models."""
    store = stored_images.write(tmp_path_factory.mktemp("store"))
    pool = Pool([], 1)
    pages = StorePages(Pictures.of(datasets.open(store)))
    yield build([], pool, Limits(), loopback=True, store=pages)
    assert pool.close(5)


def ask(app: Any, path: str, *words: tuple[str, Any], **more: Any) -> Call:
    async def go() -> Call:
        return (
            await Call(app, path, urlencode(words), **{"method": "GET", **more}).body(b"").ended(60)
        )

    return asyncio.run(go())


def told(app: Any, path: str, *words: tuple[str, Any]) -> Any:
    call = ask(app, f"/api/store/{path}", *words)
    assert call.status == 200, call.content
    return strict(call.content)


def refused(app: Any, path: str, *words: tuple[str, Any], **more: Any) -> tuple[int, str]:
    call = ask(app, f"/api/store/{path}", *words, **more)
    return call.status, strict(call.content)["error"]


def test_the_page_and_what_the_store_is(app: Any) -> None:
    for path in ("/", "/store"):
        call = ask(app, path)
        assert call.status == 200
        assert b"/static/store.js" in call.content
        assert "script-src 'self'" in call.headers["content-security-policy"]
    found = told(app, "about")
    assert (found["rows"], found["errors"], found["units"], found["done"]) == (25, 1, 3, 3)
    assert (found["data"], found["classes"], found["images"]) == ("data", ["cat", "dog"], True)
    assert found["signed"] is True
    assert {"row", "probability", "share.stem"} <= set(found["columns"])
    assert ask(app, "/api/about").status == 404  # there is no model


def test_rows_are_filtered_sorted_and_cut_into_pages(app: Any) -> None:
    found = told(app, "rows", ("where", "target = dog"), ("where", "prediction != label"))
    assert [r["row"] for r in found["rows"]] == [4, 10, 16, 22]
    assert (found["total"], found["pages"]) == (4, 1)
    found = told(app, "rows", ("sort", "-logit"))
    logits = [r["logit"] for r in found["rows"][:-1]]
    assert logits == sorted(logits, reverse=True)
    last = found["rows"][-1]
    assert (last["row"], last["logit"], last["error"]) == (
        3,
        None,
        "photos/003.png is empty (0 bytes)",
    )
    assert told(app, "rows", ("page", 1)) == {"total": 25, "page": 1, "pages": 1, "rows": []}
    assert PAGE >= 25


def test_a_sample_and_its_pictures(app: Any) -> None:
    found = told(app, "sample/10")
    assert found["columns"]["id"] == "photos/010.png"
    assert [s["name"] for s in found["shares"]] == ["input", "stem", "head"]
    parts = sum(s["sum"] for s in found["shares"])
    assert parts == pytest.approx(found["columns"]["logit"], abs=1e-6)
    assert (found["before"], found["after"]) == (9, 11)
    assert told(app, "sample/0")["before"] is None
    assert told(app, "sample/3")["columns"]["logit"] is None
    for kind in ("image", "map", "both"):
        call = ask(app, "/api/store/picture/10", ("kind", kind), ("side", 448))
        assert call.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(call.content)) as picture:
            assert max(picture.size) == 448


def test_means_and_clusters(app: Any) -> None:
    found = told(app, "means", ("where", "row < 20"))
    assert {(g["name"], g["outcome"]) for g in found["groups"]} == {
        (c, o) for c in ("cat", "dog") for o in ("right", "wrong")
    }
    assert sum(g["count"] for g in found["groups"]) == 19
    assert found["groups"][0]["picture"].startswith("data:image/png;base64,")
    found = told(app, "clusters")
    assert found["looked_at"] == 1  # a class of ten maps
    assert found == told(app, "clusters")


def test_texts(tmp_path: Path) -> None:
    stored_maps.write(tmp_path, stored_maps.plan(positions=(4,), dims=("token",)))
    pool = Pool([], 1)
    pages = StorePages(Pictures.of(datasets.open(tmp_path)))
    app = build([], pool, Limits(), loopback=True, store=pages)
    assert told(app, "about")["kind"] == "text"
    found = told(app, "rows", ("sort", "-logit"))["rows"]
    assert found[-1]["text"] is None and found[-1]["row"] == 3
    one = told(app, f"sample/{found[0]['row']}")
    assert one["text"] == found[0]["text"] and "tokens" not in one["columns"]
    assert [t["text"] for t in one["text"]["tokens"]] == [f"w{found[0]['row']}"] * 4
    for path in ("means", "clusters"):
        status, message = refused(app, path)
        assert status == 400 and message.startswith("maps of texts have no positions in common")
    assert pool.close(5)


@pytest.mark.parametrize(
    ("path", "words", "status", "message"),
    [
        ("rows", [("where", "size > 3")], 400, "there is no column 'size' to filter or sort by"),
        ("rows", [("where", "row > 1")] * 21, 400, "At most 20 conditions of 500 characters"),
        ("rows", [("where", "id ~ " + "x" * 500)], 400, "At most 20 conditions of 500 characters"),
        ("rows", [("page", "-1")], 400, "page must be a whole number of at least 0, not '-1'"),
        ("rows", [("page", 1), ("page", 2)], 400, "page is given several times"),
        ("rows", [("order", "logit")], 400, "The request has an unknown part 'order'"),
        ("sample/25", [], 404, "The store has no row 25."),
        ("sample/x", [], 404, "There is nothing at this address."),
        ("picture/25", [], 404, "The store has no row 25."),
        ("picture/3", [], 404, "Row 3 has no such picture."),
        (
            "picture/1",
            [("side", 5000)],
            400,
            "A picture is an image, a map, or both, of (112, 448)",
        ),
        ("picture/1", [("kind", "film")], 400, "A picture is an image, a map, or both"),
    ],
)
def test_refusals(
    app: Any, path: str, words: list[tuple[str, Any]], status: int, message: str
) -> None:
    found, text = refused(app, path, *words)
    assert found == status
    assert text.startswith(message)


def test_other_methods_and_other_hosts_are_refused(app: Any) -> None:
    assert refused(app, "rows", method="PUT") == (405, "This address answers GET only.")
    status, text = refused(app, "rows", headers={"host": "evil.example"})
    assert status == 403
    assert text.startswith("This viewer answers to names of its own machine only")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x"], "--data belongs to a store: name it with --store, or leave --data out"),
        (
            ["--store", "maps", "--labels", "x"],
            "--weights, --labels and --methods belong to a model: name it with",
        ),
        (["--store", "nowhere"], "holds no maps (it has no plan.json)"),
        (["--store", "maps", "--data", "nowhere"], "nowhere does not exist: give an image folder"),
    ],
    ids=["data", "labels", "store", "moved"],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    stored_images.write(tmp_path)
    assert main(["app", "--port", "0", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_store_is_served_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    monkeypatch.chdir(tmp_path)
    stored_images.write(tmp_path)
    served: list[Any] = []
    monkeypatch.setattr(
        "fullgrad.cli.app._serve", lambda *call: served.append(SimpleNamespace(url=call[2]))
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["--store", "maps", "--port", "0"])) == 0
    assert served[0].url.endswith("/store")
    assert "loading" not in capsys.readouterr().err
