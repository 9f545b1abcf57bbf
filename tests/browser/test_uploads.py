"""Ways to bring a photograph, and what is said where it cannot be used."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from browser_steps import PATIENT, done, give, headline, overflow

DROP = """([name, text, kind]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: kind}));
  const on = document.querySelector("#drop");
  for (const what of ["dragenter", "dragover", "drop"]) {
    on.dispatchEvent(new DragEvent(what, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}"""
PASTE = """([name, text, kind]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: kind}));
  document.body.dispatchEvent(
    new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
}"""


@pytest.mark.parametrize("how", [DROP, PASTE], ids=["drop", "paste"])
def test_a_photograph_can_be_dropped_and_pasted(
    how: str, open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page()
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    content = base64.b64encode(photographs["coffee"].read_bytes()).decode()
    page.evaluate(how, ["coffee.jpg", content, "image/jpeg"])
    done(page)
    expect(page.locator("#file-name")).to_contain_text("coffee.jpg, 600 × 400 pixels")
    assert headline(page) == "espresso"


def test_a_file_that_is_no_photograph(
    open_page: Any, photographs: dict[str, Path], tmp_path: Path, shot: Any, watched: Any
) -> None:
    watched.accept("Failed to load resource")  # Chromium says so of every status above 399
    page = open_page()
    give(page, photographs["coffee"])
    wrong = tmp_path / "letter.jpg"
    wrong.write_text("Dear reader, this is no photograph.")
    page.set_input_files("#file", wrong)
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text("The file is not an image of a known format")
    expect(alert).to_contain_text("letter.jpg: ")
    expect(page.locator("#file-name")).to_contain_text("coffee.jpg")  # what there was is back
    expect(page.locator("#status")).to_have_text("Still shown: coffee.jpg.")
    expect(page.locator("#stale")).to_be_hidden()
    assert headline(page) == "espresso"
    expect(page.locator("#top button")).to_have_count(10)
    expect(page.locator("#strip button")).to_have_count(4)  # with three samples
    with page.expect_download() as waiting:
        page.locator("[data-download=array]").click()
    assert waiting.value.suggested_filename == "coffee.saliency.npy"
    shot(page, "7-error-1440-light")
    page.set_input_files("#file", photographs["rocket"])
    done(page)
    expect(alert).to_be_hidden()


def test_a_photograph_beyond_the_limits_is_not_sent(
    open_page: Any, photographs: dict[str, Path], tmp_path: Path
) -> None:
    page = open_page()
    expect(page.locator("#limits")).to_have_text("Up to 10 MB and 25 megapixels each.")
    give(page, photographs["coffee"])
    asked: list[str] = []
    page.on("request", lambda r: r.method == "POST" and asked.append(r.url))
    wide = tmp_path / "wide.png"
    Image.new("1", (6000, 5000)).save(wide)
    page.set_input_files("#file", wide)
    expect(page.get_by_role("alert")).to_contain_text(
        "wide.png has 6000 × 5000 pixels (30 megapixels); at most 25 megapixels can be sent."
    )
    heavy = tmp_path / "heavy.jpg"
    heavy.write_bytes(photographs["coffee"].read_bytes() + bytes(10_500_000))
    page.set_input_files("#file", heavy)
    expect(page.get_by_role("alert")).to_contain_text(
        "heavy.jpg has 11 MB; at most 10 MB can be sent."
    )
    empty = tmp_path / "empty.jpg"
    empty.touch()
    page.set_input_files("#file", empty)
    expect(page.get_by_role("alert")).to_contain_text("empty.jpg is empty.")
    assert asked == []
    assert headline(page) == "espresso"  # what there was is still there
    expect(page.locator("#answer")).to_be_visible()


def test_a_server_that_is_gone(open_page: Any, photographs: dict[str, Path], watched: Any) -> None:
    watched.accept("Failed to load resource")
    page = open_page()
    give(page, photographs["coffee"])
    page.route("**/api/explain*", lambda route: route.abort("connectionrefused"))
    page.locator("#top button").nth(1).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server does not answer. Is `fullgrad app` still running?")
    expect(page.locator("#stale")).to_contain_text(
        "Still the earlier result: Combined FullGrad for espresso."
    )
    page.unroute("**/api/explain*")
    page.get_by_role("button", name="Try again").click()
    done(page)
    assert headline(page) == page.locator("#top [aria-pressed=true] .name").inner_text()


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "gone"])
def test_the_start_can_be_tried_again(
    busy: bool, open_page: Any, photographs: dict[str, Path], watched: Any
) -> None:
    watched.accept("Failed to load resource")
    page = open_page()
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    page.route(
        "**/api/about",
        lambda route: (
            route.fulfill(status=503, json={"error": "All seats taken.", "kind": "busy"})
            if busy
            else route.abort("connectionrefused")
        ),
    )
    page.reload()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("All seats taken." if busy else "The server does not answer.")
    expect(page.locator("#status")).to_have_text("")
    with page.expect_response("**/api/about") if busy else page.expect_event("requestfailed"):
        page.get_by_role("button", name="Try again").click()
    expect(alert.get_by_role("button")).to_have_count(1)  # once more in vain
    page.unroute("**/api/about")
    page.get_by_role("button", name="Try again").click()
    give(page, photographs["coffee"])
    expect(alert).to_be_hidden()
    assert headline(page) == "espresso"
    expect(page.locator("#model option")).to_have_count(2)
    expect(page.locator("#method")).to_have_count(1)


def test_a_failed_download_can_be_tried_again(
    open_page: Any, photographs: dict[str, Path], watched: Any
) -> None:
    watched.accept("Failed to load resource")
    page = open_page()
    give(page, photographs["coffee"])
    page.route("**/api/download/*", lambda route: route.abort("connectionrefused"))
    page.locator("[data-download=array]").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server does not answer.")
    expect(page.locator("#download-says")).to_have_text("")
    page.unroute("**/api/download/*")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Try the array again").click()
    assert waiting.value.suggested_filename == "coffee.saliency.npy"
    expect(page.locator("#download-says")).to_have_text("coffee.saliency.npy is ready.")
    expect(alert).to_be_hidden()


def test_a_download_leaves_the_error_of_a_result(
    open_page: Any, photographs: dict[str, Path], watched: Any, shot: Any
) -> None:
    watched.accept("Failed to load resource")
    page = open_page()
    give(page, photographs["coffee"])
    down = '{"error": "Down for now.", "kind": "busy"}'
    page.route("**/api/explain*", lambda route: route.fulfill(status=503, body=down))
    page.route("**/api/download/picture*", lambda route: route.abort("connectionrefused"))
    page.locator("#top button").nth(1).click()
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("Down for now.Try again")
    with page.expect_download():
        page.locator("[data-download=array]").click()
    expect(page.locator("#download-says")).to_have_text("coffee.saliency.npy is ready.")
    expect(alert).to_have_text("Down for now.Try again")
    page.locator("[data-download=picture]").click()  # both fail: both are said
    expect(alert.locator("p")).to_have_text(["Down for now.", re.compile("does not answer")])
    expect(alert.locator("button")).to_have_text(["Try again", "Try the picture again"])
    assert overflow(page) == []
    shot(page, "9-two-errors-1440-light")
    page.unroute("**/api/explain*")
    alert.get_by_role("button", name="Try again", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Done", timeout=PATIENT)
    expect(alert.locator("p")).to_have_text([re.compile("does not answer")])
    page.locator("#method").select_option("random")  # another choice, another download
    done(page)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            '{"progress": {"stage": "waiting", "text": "two wait before you"}}\n',
            "ended before the result",
        ),
        (
            '{"progress": {"stage": "reading", "text": "reading"}}\n{"error": "The <b>map</b> failed.", '
            '"kind": "method"}\n',
            "The <b>map</b> failed.",
        ),
        ('{"progress"', "The server does not answer"),
    ],
    ids=["cut", "error", "damaged"],
)
def test_an_answer_without_a_result_is_an_error(
    body: str, said: str, open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page()
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    page.route(
        "**/api/explain*",
        lambda route: route.fulfill(status=200, content_type="application/x-ndjson", body=body),
    )
    page.set_input_files("#file", photographs["coffee"])
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.locator("#answer")).to_be_hidden()
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#empty")).to_be_visible()


def test_options_that_cannot_be_used_are_said(
    open_page: Any, photographs: dict[str, Path], watched: Any
) -> None:
    watched.accept("Failed to load resource")
    page = open_page(hash='#method=smooth_fullgrad&options={"samples":2}')
    give(page, photographs["coffee"])
    samples = page.locator("#method-samples")
    samples.fill("1000")
    samples.press("Enter")
    expect(samples).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#method-samples-hint")).to_contain_text(
        "This must be a whole number from 1 to 100. Until then, changes of options have no effect."
    )
    asked: list[str] = []
    page.on("request", lambda r: r.method == "POST" and asked.append(r.url))
    seed = page.locator("#method-seed")
    seed.fill("3")
    seed.press("Enter")
    page.wait_for_timeout(500)
    assert asked == []
    assert '{"samples":2}' in page.evaluate("decodeURIComponent(location.hash)")
    expect(samples).to_have_attribute("aria-invalid", "true")
    expect(samples).to_have_value("1000")
    samples.fill("1")
    samples.press("Enter")
    done(page)
    assert '{"samples":1,"seed":3}' in page.evaluate("decodeURIComponent(location.hash)")
    assert len(asked) == 1
    terms = page.locator("#method-terms")
    terms.fill("no_such_stage")
    terms.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no_such_stage")
    expect(page.locator("#stale")).to_be_visible()
    assert overflow(page) == []


def test_an_option_of_an_address_that_cannot_be_used_is_marked(
    open_page: Any, photographs: dict[str, Path], watched: Any
) -> None:
    watched.accept("Failed to load resource")
    page = open_page(hash='#method=smooth_fullgrad&options={"samples":1000}')
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    expect(page.locator("#method-samples")).to_have_attribute("aria-invalid", "true")
    page.set_input_files("#file", photographs["coffee"])
    expect(page.get_by_role("alert")).to_contain_text(
        "samples must be a whole number from 1 to 100 here"
    )
    page.locator("#method-seed").fill("3")
    page.locator("#method-seed").press("Enter")
    page.locator("#method-samples").fill("1")
    page.locator("#method-samples").press("Enter")
    done(page)
    expect(page.locator("#method-samples")).to_have_attribute("aria-invalid", "false")
    assert '{"samples":1,"seed":3}' in page.evaluate("decodeURIComponent(location.hash)")
