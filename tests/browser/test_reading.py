"""The page for everyone: widths, colors, text size, keyboard, and a scan by axe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browser_steps import done, give, headline, overflow, scan, slide, waterfall

WIDTHS = (360, 768, 1440)
STAGES = 47


def compare(page: Any) -> None:
    page.locator("#second").select_option("grad_cam")
    done(page)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_widths_and_axe(
    width: int,
    dark: bool,
    open_page: Any,
    photographs: dict[str, Path],
    shot: Any,
    watched: Any,
    tmp_path: Path,
) -> None:
    watched.accept("Failed to load resource")
    colors = "dark" if dark else "light"
    page = open_page(width, dark, height=800)
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    problems = {"empty": (overflow(page), scan(page))}
    shot(page, f"empty-{width}-{colors}")
    give(page, photographs["chelsea"])
    problems["result"] = (overflow(page), scan(page))
    shot(page, f"result-{width}-{colors}")
    page.locator("#method").select_option("simple_fullgrad")
    for opened in page.locator("details").all():
        if opened.is_visible():
            opened.locator("summary").click()
    done(page)
    compare(page)
    slide(page, "#stage", 7)
    page.locator("#search").fill("dog")
    expect(page.locator("#found")).to_be_visible()
    page.locator("#search").press("ArrowDown")
    problems["comparing"] = (overflow(page), scan(page))
    shot(page, f"compare-{width}-{colors}")
    page.locator("#search").press("Escape")
    wrong = tmp_path / "letter.jpg"
    wrong.write_text("no photograph")
    page.set_input_files("#file", wrong)
    expect(page.get_by_role("alert")).to_be_visible()
    problems["error"] = (overflow(page), scan(page))
    shot(page, f"error-{width}-{colors}")
    assert {name: found for name, found in problems.items() if found != ([], [])} == {}


@pytest.mark.parametrize("width", WIDTHS)
def test_many_stages_and_long_names(
    width: int, open_page: Any, photographs: dict[str, Path], shot: Any
) -> None:
    page = open_page(width, hash="#model=1")
    give(page, photographs["rocket"])
    expect(page.locator("#notes")).to_be_hidden()
    rows = waterfall(page)
    assert len(rows) == 1 + STAGES + 2
    expect(page.locator("#stage")).to_have_attribute("max", str(STAGES))
    page.locator("#top button", has_text="markup").click()
    done(page)
    assert headline(page) == "a <b>class</b> & its 'markup'"
    page.locator("#top button", has_text="narrow").click()
    done(page)
    slide(page, "#stage", STAGES)
    expect(page.locator("#stage-says")).to_contain_text(f"Stage {STAGES} of {STAGES}: head; sum ")
    expect(page.locator("#no-position")).to_be_visible()
    expect(page.locator("#heat-first")).to_be_hidden()
    slide(page, "#stage", STAGES - 2)
    expect(page.locator("#heat-first")).to_be_visible()
    current, box = (page.locator(s).bounding_box() for s in ("tr.current", "#waterfall-box"))
    assert box["y"] < current["y"] < box["y"] + box["height"] - current["height"]
    assert overflow(page) == []
    assert scan(page) == []
    shot(page, f"many-stages-{width}-light")


@pytest.mark.parametrize("width", [768, 1440])
def test_text_of_twice_the_size(
    width: int, open_page: Any, photographs: dict[str, Path], shot: Any
) -> None:
    page = open_page(width)
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    give(page, photographs["chelsea"])
    compare(page)
    assert overflow(page) == []
    shot(page, f"text-200-{width}-light")


def test_another_model_has_other_classes_and_methods(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page(hash="#target=282")
    give(page, photographs["chelsea"])
    before = headline(page)
    refused = page.locator("#first-method details.refused")
    expect(refused.locator("summary")).to_have_text("4 methods do not apply to this model")
    refused.locator("summary").click()
    expect(refused).to_contain_text("attention_rollout found no attention in the model")
    expect(refused).to_contain_text("guided_backprop does not apply to the model: it replaces")
    expect(page.locator("#method option[value=deeplift]")).to_be_disabled()
    page.locator("#model").select_option("1")
    done(page)
    assert headline(page) != before
    expect(page.locator("#top button")).to_have_count(3)
    expect(page.locator("#method option[value=deeplift]")).to_be_enabled()
    page.locator("#method").select_option("deeplift")
    done(page)
    page.locator("#model").select_option("0")
    done(page)
    expect(page.locator("#method")).to_have_value("fullgrad")


def test_all_of_it_with_the_keyboard(open_page: Any, photographs: dict[str, Path]) -> None:
    page = open_page()
    # From now on, not from the key's press on: the listener takes effect a moment later.
    page.on("filechooser", lambda chooser: None)
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    keys = page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(120):
            keys.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab never reaches {selector}")

    tab_to("#skip")
    expect(page.locator("#skip")).to_be_visible()
    tab_to("#file")
    assert (
        page.locator("label[for=file]").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    )
    with page.expect_file_chooser() as chooser:
        keys.press("Enter")
    chooser.value.set_files(photographs["chelsea"])
    done(page)

    tab_to("#top button:not([aria-pressed=true])")
    keys.press("Enter")
    done(page)
    second = headline(page)
    assert page.evaluate("document.activeElement.matches('#top [aria-pressed=true]')")

    tab_to("#search")
    keys.type("siamese")
    keys.press("ArrowDown")
    expect(page.locator("#found [aria-selected=true]")).to_contain_text("Siamese cat")
    keys.press("Escape")
    expect(page.locator("#found")).to_be_hidden()
    keys.press("ArrowDown")
    keys.press("Enter")
    done(page)
    assert headline(page) == "Siamese cat" != second

    tab_to("#method")
    keys.type("Grad-CAM")
    done(page)
    tab_to("#second")
    keys.type("FullGrad")
    done(page)
    tab_to("#swipe")
    keys.press("Home")
    expect(page.locator("#sheet-second")).to_have_css("clip-path", "inset(0px 0px 0px 0%)")
    tab_to("#opacity")
    keys.press("End")
    expect(page.locator("#heat-first")).to_have_css("opacity", "1")
    tab_to("#stage")
    keys.press("ArrowRight")
    expect(page.locator("#stage-says")).to_contain_text("Stage 1 of")
    expect(page.locator("#stage")).to_have_attribute(
        "aria-valuetext",
        page.evaluate(
            """() => { const name = document.querySelector("tr.current th").textContent;
          const cells = document.querySelectorAll("tr.current td.n");
          return `stage ${name}, sum ${cells[0].textContent}, ${cells[1].textContent} of the logit`; }"""
        ),
    )
    tab_to("[data-download=array]")
    with page.expect_download() as waiting:
        keys.press("Enter")
    assert waiting.value.suggested_filename.endswith(".npy")
