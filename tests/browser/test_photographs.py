"""Several photographs in a strip, the samples, and what the picture says under the pointer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from browser_steps import done, give, headline, overflow, read, scan, slide, waterfall


def test_a_sample_then_several_photographs(
    open_page: Any, photographs: dict[str, Path], shot: Any, tmp_path: Path, watched: Any
) -> None:
    watched.accept("Failed to load resource")
    page = open_page(360)
    strip = page.locator("#strip button")
    expect(strip).to_have_count(3)
    page.get_by_role("button", name="Sample: a rocket").click()
    done(page)
    expect(page.locator("#file-name")).to_have_text("rocket.jpg, 640 × 427 pixels")
    expect(strip.nth(2)).to_have_attribute("aria-pressed", "true")
    # On a telephone the result begins on the first screen, before the questions.
    top = page.locator("#result-title").bounding_box()["y"] + page.evaluate("scrollY")
    assert top < 640
    assert top < page.locator("#model").bounding_box()["y"]

    wrong = tmp_path / "empty.jpg"
    wrong.touch()
    page.set_input_files("#file", [photographs["chelsea"], wrong, photographs["coffee"]])
    done_with = page.get_by_role("alert")
    expect(done_with).to_have_text("empty.jpg is empty.")  # and the others are taken
    expect(page.locator("#headline")).to_have_text("tiger cat", timeout=60_000)
    expect(strip).to_have_count(5)
    page.locator("#top button", has_text="Egyptian cat").click()
    done(page)
    asked: list[str] = []
    page.on("request", lambda r: r.method == "POST" and asked.append(r.url))
    page.get_by_role("button", name="coffee.jpg").click()
    done(page)
    assert headline(page) == "espresso"
    assert len(asked) == 1
    page.get_by_role("button", name="chelsea.jpg").click()
    done(page)
    assert headline(page) == "Egyptian cat"  # with its class, and without the server
    assert "target=285" in page.url
    assert len(asked) == 1
    assert overflow(page) == []
    assert scan(page) == []
    shot(page, "strip-360-light")


def test_the_number_under_the_pointer_and_the_whole_frame(
    open_page: Any, photographs: dict[str, Path], tmp_path: Path, shot: Any
) -> None:
    page = open_page(hash="#method=grad_cam&with=path_fullgrad")
    give(page, photographs["chelsea"])
    frame, box = (page.locator(s).bounding_box() for s in ("#frame", "#frame-box"))
    assert box["width"] / frame["width"] == pytest.approx(224 / (256 * 451 / 300), abs=0.02)
    assert box["height"] / frame["height"] == pytest.approx(224 / 256, abs=0.04)
    with page.expect_download() as waiting:
        page.locator("[data-download=array]").click()
    waiting.value.save_as(tmp_path / "map.npy")
    values = np.load(tmp_path / "map.npy")

    def told() -> tuple[int, int, float, str]:
        text = page.locator("#under").inner_text()
        found = re.match(r"Column (\d+), row (\d+) of the whole map: Grad-CAM (\S+);(.*)", text)
        assert found, text
        return int(found[1]), int(found[2]), read(found[3]), found[4]

    picture = page.locator("#picture").bounding_box()

    def point(x: float, y: float) -> None:
        page.mouse.move(picture["x"] + x * picture["width"], picture["y"] + y * picture["height"])

    page.locator("#picture").scroll_into_view_if_needed()
    picture = page.locator("#picture").bounding_box()
    point(0.3, 0.4)
    column, row, value, rest = told()
    assert (column, row) == (pytest.approx(67, abs=1), pytest.approx(89, abs=1))
    assert value == pytest.approx(float(values[row, column]), rel=2e-3)
    assert "Path FullGrad" in rest
    assert "in this cell of about 16 × 16 pixels" in rest

    # Enlarged, the point under the pointer stays where it is, and dragging moves the picture.
    page.mouse.dblclick(
        picture["x"] + 0.3 * picture["width"], picture["y"] + 0.4 * picture["height"]
    )
    expect(page.locator("#zoom-says")).to_have_text("2×")
    point(0.3, 0.4)
    assert told()[:2] == (column, row)
    page.mouse.down()
    point(0.5, 0.5)
    page.mouse.up()
    assert told()[:2] == (pytest.approx(column, abs=2), pytest.approx(row, abs=2))
    expect(page.locator("#swipe")).to_have_value("30")  # where the click put it
    shot(page, "enlarged-1440-light")
    assert scan(page) == []

    # By keyboard.
    page.locator("#picture").focus()
    page.keyboard.press("0")
    expect(page.locator("#zoom-says")).to_have_text("1×")
    page.mouse.move(5, 5)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#under")).to_contain_text("Column 120, row 112")
    page.keyboard.press("Shift+ArrowUp")
    expect(page.locator("#under")).to_contain_text("Column 120, row 111")
    expect(page.locator("#cross")).to_be_visible()
    page.keyboard.press("+")
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    column, row, value, _ = told()
    assert (column, row) == (223, 111)
    assert value == pytest.approx(float(values[row, column]), rel=2e-3, abs=1e-6)
    cross = page.locator("#cross").bounding_box()
    assert picture["x"] < cross["x"] + 8 <= picture["x"] + picture["width"]


def test_a_row_of_the_waterfall_shows_its_stage(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page(768)
    give(page, photographs["chelsea"])
    name = list(waterfall(page))[5]
    button = page.locator("table.waterfall").get_by_role("button", name=name, exact=True)
    button.click()
    expect(page.locator("#tag-first")).to_have_text(f"FullGrad, stage {name}")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#picture")).to_be_in_viewport()
    page.keyboard.press("Enter")  # the button keeps the focus: back to the whole map
    expect(page.locator("#tag-first")).to_have_text("Combined FullGrad")
    expect(page.locator("#stage")).to_have_value("0")
    slide(page, "#stage", 2)
    expect(page.locator("table.waterfall [aria-pressed=true]")).to_have_count(1)


def test_the_list_of_classes_opens_where_there_is_room(open_page: Any) -> None:
    page = open_page(360, height=640)
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    for place, above in (("end", True), ("start", False)):
        page.locator("#search").evaluate(
            "(field, place) => scrollTo(0, scrollY + field.getBoundingClientRect().top - "
            "(place === 'end' ? innerHeight - 150 : 60))",
            place,
        )
        page.locator("#search").fill("dog")
        found = page.locator("#found")
        expect(found).to_be_visible()
        box, field = found.bounding_box(), page.locator("#search").bounding_box()
        assert (box["y"] < field["y"]) is above
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= page.locator(".state").bounding_box()["y"] + 1
        page.locator("#search").fill("")
