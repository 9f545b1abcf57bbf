"""A person's way through the viewer, from a photograph to a report that is opened again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

import fullgrad
from browser_steps import PATIENT, done, fact, give, headline, read, scan, slide, waterfall
from fullgrad import methods
from fullgrad.app.names import method_title
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.labels import imagenet_names
from fullgrad.vision.models import load_model


@pytest.fixture(scope="module")
def cat(photographs: dict[str, Path]) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The default model, the cat as it sees it, and its logits, computed without the viewer."""
    model = load_model()
    x = preprocess(read_image(photographs["chelsea"]), model.preprocessing)[None]
    with torch.no_grad():
        return model, x, model.module.eval()(x)[0]


def test_the_whole_way(
    open_page: Any,
    photographs: dict[str, Path],
    cat: Any,
    shot: Any,
    tmp_path: Path,
    browser: Any,
    watched: Any,
) -> None:
    model, x, logits = cat
    names = imagenet_names()
    order = logits.argsort(descending=True).tolist()
    page = open_page()
    expect(page.locator("#empty")).to_contain_text("Choose a photograph to begin")
    shot(page, "1-empty-1440-light")

    # A photograph: the predicted class, its probability and its logit.
    give(page, photographs["chelsea"])
    expect(page.locator("#file-name")).to_contain_text("chelsea.jpg, 451 × 300 pixels")
    assert headline(page) == names[order[0]]
    assert read(fact(page, "Logit")) == pytest.approx(float(logits[order[0]]), rel=1e-3)
    probability = float(logits.double().softmax(0)[order[0]])
    assert read(fact(page, "Probability")) == pytest.approx(100 * probability, abs=0.06)
    top = page.locator("#top button .name").all_inner_texts()
    assert top == [names[i] for i in order[:10]]
    expect(page.locator("#top button").first).to_have_attribute("aria-pressed", "true")
    adds_up(page)
    why = page.locator("#reason")
    expect(why).to_have_text(f"Why {method_title(methods.RECOMMENDED)}? It is {methods.REASON}.")
    shot(page, "2-result-1440-light")

    # Another class, by search.
    before = page.locator("#heat-first").get_attribute("src")
    page.get_by_role("combobox", name="Any other class").fill("egyptian")
    expect(page.locator("#found").get_by_role("option")).to_have_count(1)
    page.locator("#found").get_by_role("option", name="Egyptian cat").click()
    done(page)
    assert headline(page) == "Egyptian cat"
    assert read(fact(page, "Logit")) == pytest.approx(float(logits[285]), rel=1e-3)
    after = page.locator("#heat-first").get_attribute("src")
    assert after != before
    adds_up(page)
    assert "target=285" in page.url

    # Another method, with an option.
    page.get_by_role("combobox", name="Method", exact=True).select_option("simple_fullgrad")
    done(page)
    expect(why).to_be_hidden()
    assert page.locator("#heat-first").get_attribute("src") != after
    page.get_by_text("Options of Simple FullGrad").click()
    page.get_by_label("psi").select_option("channel")
    done(page)
    assert '{"psi":"channel"}' in page.evaluate("decodeURIComponent(location.hash)")
    page.get_by_role("combobox", name="Method", exact=True).select_option("fullgrad")
    done(page)

    # A stage: its own map, its name and its number, without asking the server.
    asked: list[str] = []
    page.on("request", lambda r: r.url.startswith("http") and asked.append(r.url))
    whole = page.locator("#heat-first").get_attribute("src")
    slide(page, "#stage", 4)
    said = page.locator("#stage-says").inner_text()
    rows = waterfall(page)
    name = list(rows)[4]  # the first row is the input's
    assert f": {name};" in said
    assert read(said.split("sum ")[1]) == rows[name]
    assert page.locator("#heat-first").get_attribute("src") != whole
    expect(page.locator("#tag-first")).to_have_text(f"FullGrad, stage {name}")
    expect(page.locator("tr.current th")).to_have_text(name)
    page.get_by_role("button", name="Next stage").click()
    expect(page.locator("tr.current th")).to_have_text(list(rows)[5])

    # Opacity.
    slide(page, "#opacity", 30)
    expect(page.locator("#heat-first")).to_have_css("opacity", "0.3")
    expect(page.locator("#opacity-says")).to_have_text("30 %")
    expect(page.locator("#photo-first")).to_have_css("filter", "grayscale(1)")
    page.get_by_label("Photograph in gray").uncheck()
    expect(page.locator("#photo-first")).to_have_css("filter", "none")
    page.get_by_label("Photograph in gray").check()
    shot(page, "3-stage-1440-light")
    slide(page, "#stage", 0)
    slide(page, "#opacity", 70)
    assert page.locator("#heat-first").get_attribute("src") == whole
    assert asked == []

    # Two methods with a swipe.
    page.get_by_role("combobox", name="Compare with").select_option("grad_cam")
    done(page)
    assert len(asked) == 1
    expect(page.locator("#tag-first")).to_have_text("FullGrad")
    expect(page.locator("#tag-second")).to_have_text("Grad-CAM")
    expect(page.locator("#swipe-note")).to_contain_text("equal colors do not mean equal numbers")
    expect(page.locator("#sheet-second")).to_have_css("clip-path", "inset(0px 0px 0px 50%)")
    slide(page, "#swipe", 20)
    expect(page.locator("#sheet-second")).to_have_css("clip-path", "inset(0px 0px 0px 20%)")
    box = page.locator("#picture").bounding_box()
    line = page.locator("#divider").bounding_box()
    assert line["x"] + line["width"] / 2 == pytest.approx(box["x"] + 0.2 * box["width"], abs=1.5)
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 50, steps=4)
    page.mouse.up()
    expect(page.locator("#swipe")).to_have_value("60")
    shot(page, "4-compare-1440-light")

    # The files.
    files = {kind: downloaded(page, kind, tmp_path) for kind in ("picture", "array", "report")}
    array = np.load(files["array"], allow_pickle=False)
    expected = fullgrad.saliency(model.module, x, 285)[0, 0].numpy()
    assert array.shape == expected.shape == (224, 224)
    np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6 * expected.max())
    with Image.open(files["picture"]) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 224
    report = browser.new_context(java_script_enabled=False).new_page()
    watched.watch(report)
    report.goto(files["report"].as_uri())
    text = report.locator("body").inner_text()
    assert "Egyptian cat (class 285)" in text
    logit = fact(page, "Logit")
    assert f"is {logit.replace('−', '-')};" in text
    total = report.locator("table.waterfall tbody tr").last.locator("td.n").first.inner_text()
    assert read(total) == read(logit) == waterfall(page)["sum = logit"]
    for picture_of in report.locator("img").all():
        assert picture_of.evaluate("e => e.complete && e.naturalWidth > 0")
    shot(report, "5-report-1440-light")
    report.context.close()

    # Another photograph: the earlier result says whose it is, and its class is not asked for.
    page.set_input_files("#file", photographs["coffee"])
    expect(page.locator("#stale")).to_have_text(
        "Still the earlier result: FullGrad for Egyptian cat in chelsea.jpg."
    )
    expect(page.locator("#top button")).to_have_count(0)
    done(page)
    assert "Egyptian" not in headline(page)
    assert "target=" not in page.url
    expect(page.locator("#tag-second")).to_have_text("Grad-CAM")


def adds_up(page: Any) -> None:
    """The waterfall's numbers sum to the logit that is shown beside it, as far as they are shown."""
    rows = waterfall(page)
    total = rows.pop("sum = logit")
    assert total == read(fact(page, "Logit"))
    parts = list(rows.values())
    assert len(parts) > 5
    assert sum(parts) == pytest.approx(total, abs=6e-4 * max(map(abs, parts)) * len(parts))
    assert abs(rows["residual"]) < 1e-4


def downloaded(page: Any, kind: str, folder: Path) -> Path:
    with page.expect_download(timeout=PATIENT) as waiting:
        page.locator(f"[data-download={kind}]").click()
    name = waiting.value.suggested_filename
    assert name.startswith("chelsea")
    expect(page.locator("#download-says")).to_have_text(f"{name} is ready.")
    waiting.value.save_as(folder / name)
    return folder / name


def test_a_quick_second_choice_aborts_the_first(
    open_page: Any, photographs: dict[str, Path], shot: Any
) -> None:
    page = open_page()
    give(page, photographs["rocket"])
    was = headline(page)
    answers = page.evaluate_handle(
        """() => { const seen = [], tag = document.querySelector("#tag-first");
          new MutationObserver(() => seen.push(tag.textContent)).observe(tag, {childList: true});
          return seen; }"""
    )
    page.locator("#method").select_option("integrated_gradients")
    expect(page.locator("#stale")).to_contain_text(
        f"Still the earlier result: Combined FullGrad for {was}"
    )
    expect(page.locator("#progress")).to_be_visible()
    expect(page.locator("#answer")).to_be_visible()
    page.get_by_text("Options of Integrated gradients").click()
    steps = page.locator("#method-n_steps")
    steps.fill("300")
    with page.expect_request(lambda r: "300" in r.url) as slow:
        steps.press("Enter")
    expect(page.locator("#status")).to_have_text("Computing the Integrated gradients map")
    assert scan(page) == []
    shot(page, "6-computing-1440-light")
    with page.expect_event("requestfailed", lambda r: r == slow.value, timeout=2000) as aborted:
        page.locator("#method").select_option("input_gradient")
    assert aborted.value.failure == "net::ERR_ABORTED"
    done(page)
    expect(page.locator("#tag-first")).to_have_text("Input gradient")
    page.wait_for_timeout(2000)
    assert answers.json_value() == ["Input gradient"]


def test_an_answer_that_comes_too_late_is_never_shown(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page()
    page.evaluate("AbortController.prototype.abort = () => {}")  # so that it does come
    give(page, photographs["rocket"])
    over: list[Any] = []
    for event in ("requestfinished", "requestfailed"):  # Chromium reports streams as either
        page.on(event, lambda r: over.append(r))
    with page.expect_request(lambda r: "integrated_gradients" in r.url) as slow:
        page.locator("#method").select_option("integrated_gradients")
    page.locator("#method").select_option("input_gradient")
    done(page)
    assert slow.value not in over
    for _ in range(150):
        if slow.value in over:
            break
        page.wait_for_timeout(200)
    assert slow.value in over
    page.wait_for_timeout(500)
    expect(page.locator("#tag-first")).to_have_text("Input gradient")
    expect(page.locator("#method")).to_have_value("input_gradient")
    done(page)


def test_stop_keeps_the_earlier_result_and_says_so(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page()
    give(page, photographs["rocket"])
    page.get_by_role("combobox", name="Method", exact=True).select_option("integrated_gradients")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Stopped. Any choice starts again.")
    expect(page.locator("#stale")).to_contain_text("Still the earlier result: Combined FullGrad")
    expect(page.locator("#tag-first")).to_have_text("Combined FullGrad")
    page.get_by_role("combobox", name="Method", exact=True).select_option("combined_fullgrad")
    done(page)


def test_the_address_keeps_the_choice(open_page: Any, photographs: dict[str, Path]) -> None:
    page = open_page(hash='#model=0&target=282&method=fullgrad&options={"psi":"signed"}&with=sobel')
    give(page, photographs["chelsea"])
    assert headline(page) == "tiger cat"
    expect(page.get_by_label("psi").first).to_be_visible()
    expect(page.locator("#tag-second")).to_have_text("Sobel edges")
    expect(page.locator(".ramp.diverging")).to_have_count(1)
    page.get_by_role("button", name="Back to the most probable").click()
    done(page)
    assert "target" not in page.url


def test_an_address_that_names_what_is_not_here(open_page: Any) -> None:
    page = open_page(hash="#model=7&method=magic&target=99999")
    expect(page.locator("#notice")).to_have_text(
        "The address names what this viewer does not have (model=7, target=99999, method=magic); "
        "the default is used instead."
    )


@pytest.mark.parametrize("options", ["5", "[]", "null", "true", '"x"'])
def test_options_of_an_address_are_a_plain_object(
    options: str, open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page(hash=f"#method=random&options={options}")
    expect(page.locator("#notice")).to_have_text(
        f"The address names what this viewer does not have (options={options}); the default is used "
        "instead."
    )
    give(page, photographs["rocket"])
    assert "options" not in page.url


def test_another_first_method_leaves_the_second_map(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page(hash="#with=random_blobs")
    give(page, photographs["chelsea"])
    asked: list[str] = []
    page.on("request", lambda r: r.method == "POST" and asked.append(r.url))
    gone = page.evaluate_handle(
        """() => { const seen = [], sheet = document.querySelector("#sheet-second");
          new MutationObserver(() => seen.push(sheet.hidden))
            .observe(sheet, {attributeFilter: ["hidden"]});
          return seen; }"""
    )
    second = page.locator("#heat-second").get_attribute("src")
    slide(page, "#swipe", 30)

    def now(methods: list[str]) -> None:
        """The page is done, and these were asked for since."""
        done(page)
        assert [re.findall(r"method=(\w+)", url)[0] for url in asked] == methods
        asked.clear()

    # Another first method: the second map, and the swipe, stay.
    page.locator("#method").select_option("input_gradient")
    now(["input_gradient"])
    expect(page.locator("#tag-first")).to_have_text("Input gradient")
    expect(page.locator("#tag-second")).to_have_text("Random blobs")
    expect(page.locator("#swipe")).to_have_value("30")
    expect(page.locator("#scales .scale-name")).to_have_text(
        ["Left: Input gradient", "Right: Random blobs"]
    )
    assert page.locator("#heat-second").get_attribute("src") == second
    assert True not in gone.json_value()

    # Options of the second, another class, another model: it is computed again.
    page.get_by_text("Options of Random blobs").click()
    page.locator("#second-seed").fill("1")
    page.locator("#second-seed").press("Enter")
    now(["random_blobs"])
    assert page.locator("#heat-second").get_attribute("src") != second
    page.locator("#top button").nth(1).click()
    now(["input_gradient", "random_blobs"])
    page.locator("#model").select_option("1")
    now(["input_gradient", "random_blobs"])
    expect(page.locator("#heat-second")).to_be_visible()

    # No second method, and then none beside the next first one.
    page.locator("#second").select_option("")
    now([])
    page.locator("#method").select_option("random")
    now(["random"])
    expect(page.locator("#sheet-second")).to_be_hidden()


def test_controls_are_not_described_as_explanations(
    open_page: Any, photographs: dict[str, Path], shot: Any
) -> None:
    page = open_page(hash="#method=random_blobs&with=sobel")
    give(page, photographs["rocket"])
    expect(page.locator("#says")).to_have_text(
        "The network sees 224 × 224 pixels: the photograph resized and cropped."
    )
    expect(page.locator("#method-about")).to_contain_text("the floor for methods that mark areas")
    expect(page.locator("#scales")).to_contain_text("Random blobs: Noise as coarse as the maps")
    expect(page.locator("#scales")).to_contain_text("which look plausible and explain nothing")
    expect(page.locator("#answer")).not_to_contain_text("each pixel counts")
    page.get_by_text("Options of Random blobs").click()
    expect(page.locator("#method-grid-hint")).to_have_text(
        "Random numbers along each side of the map; more make smaller blobs. Default: 7."
    )
    expect(page.locator("#method-seed-hint")).to_contain_text("the same seed gives the same map")
    before = page.locator("#heat-first").get_attribute("src")
    page.locator("#method-grid").fill("1")
    page.locator("#method-grid").press("Enter")
    expect(page.locator("#method-grid-hint")).to_contain_text("a whole number from 2 to 256.")
    shot(page, "8-controls-1440-light")
    page.locator("#method-grid").fill("3")
    page.locator("#method-grid").press("Enter")
    done(page)
    assert page.locator("#heat-first").get_attribute("src") != before
