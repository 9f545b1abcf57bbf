"""Why one class rather than another: chosen, read and undone on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browser_steps import PATIENT, done, fact, give, headline, overflow, read, scan, waterfall

RATHER = "Rather than"


@pytest.mark.parametrize("width", [390, 1440])
def test_one_class_rather_than_another(
    width: int, open_page: Any, photographs: dict[str, Path], shot: Any
) -> None:
    page = open_page(width)
    give(page, photographs["chelsea"])
    best = headline(page)
    rather = page.get_by_role("combobox", name=RATHER)
    offered = rather.locator("option").all_inner_texts()
    assert offered[0] == "no other class"
    assert len(offered) == 10  # the class itself is not offered
    assert not any(text.startswith(best) for text in offered)
    logit = read(fact(page, "Logit"))

    rather.select_option(index=1)
    done(page)
    other = offered[1].rpartition(" (")[0]
    assert headline(page) == f"{best} rather than {other}"
    first, second = (read(part) for part in fact(page, "Logits").split(" and "))
    margin = read(fact(page, "Margin"))
    assert first == logit
    assert margin == pytest.approx(first - second, abs=2e-3)
    rows = waterfall(page)
    assert rows.pop("sum = margin") == margin
    assert sum(rows.values()) == pytest.approx(margin, abs=0.02)
    expect(page.locator("#waterfall-title")).to_have_text("Where the margin comes from")
    assert "rather_than=" in page.url

    page.locator("#method").select_option("complete_fullgrad")
    done(page)
    ends = page.locator("#scales .ends span")
    expect(ends).to_have_text([f"for {other}", "0", f"for {best}"])
    expect(page.locator("#scales")).to_contain_text(f"Red areas speak for {best}, blue ones for")
    page.locator("#second").select_option("grad_cam")
    done(page)
    page.locator("#rather-search").fill("dog")
    expect(page.locator("#rather-found")).to_be_visible()
    page.locator("#rather-search").press("ArrowDown")
    shot(page, f"rather-{width}-light")
    assert overflow(page) == []
    assert scan(page) == []
    page.locator("#rather-search").press("Enter")
    done(page)
    assert headline(page).startswith(f"{best} rather than ")
    assert not headline(page).endswith(other)
    rather.select_option("")
    done(page)
    assert headline(page) == best
    assert "rather_than" not in page.url
    expect(ends.first).to_have_text("lowers the logit")


def test_a_class_is_not_compared_with_itself(open_page: Any, photographs: dict[str, Path]) -> None:
    page = open_page(hash="#rather_than=282&target=285")
    give(page, photographs["chelsea"])
    assert headline(page) == "Egyptian cat rather than tiger cat"
    page.locator("#top button", has_text="tiger cat").click()
    done(page)
    assert headline(page) == "tiger cat"
    expect(page.locator("#notice")).to_contain_text("it is compared with no other")
    expect(page.locator("#rather")).to_have_value("")
    page.locator("#rather-search").fill("282")
    page.locator("#rather-search").press("Enter")
    expect(page.locator("#notice")).to_contain_text("That is the class that is explained")
    assert headline(page) == "tiger cat"
    page.locator("#rather").select_option("285")
    done(page)
    page.set_input_files("#file", photographs["coffee"])  # has other classes
    expect(page.locator("#headline")).not_to_contain_text("rather than", timeout=PATIENT)
    done(page)
    assert "rather than" not in headline(page)
    assert "rather_than" not in page.url


def test_an_address_that_compares_the_predicted_class_with_itself(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page(hash="#rather_than=282")
    page.set_input_files("#file", photographs["chelsea"])
    expect(page.get_by_role("alert")).to_contain_text(
        "The most probable class is tiger cat itself", timeout=PATIENT
    )
    page.get_by_role("combobox", name=RATHER).select_option("")
    done(page)
    assert headline(page) == "tiger cat"
    again = open_page(hash="#rather_than=282&target=282")
    expect(again.locator("#notice")).to_contain_text("which is the target itself")


def test_classes_of_one_photograph_share_a_color_scale(
    open_page: Any, photographs: dict[str, Path]
) -> None:
    page = open_page(hash="#method=complete_fullgrad")
    asked: list[str] = []
    page.on("request", lambda r: "/api/explain" in r.url and asked.append(r.url))
    give(page, photographs["chelsea"])
    said = page.locator("#scales")
    expect(said).not_to_contain_text("one scale")

    def end() -> float:
        return read(said.inner_text().split("the colors end at -")[1])

    before = end()
    for place in (1, 2, 3, 0):
        page.locator("#top button").nth(place).click()
        done(page)
        expect(said).to_contain_text("one scale for all classes that were explained so far")
        assert end() >= before
        before = end()
    assert len(asked) == 5
    assert ["limit=" in url for url in asked] == [False, True, True, True, True]
    page.locator("#method").select_option("fullgrad")  # without sign
    done(page)
    assert "limit=" not in asked[-1]
    page.set_input_files("#file", photographs["coffee"])
    expect(page.locator("#headline")).to_have_text("espresso", timeout=PATIENT)
    done(page)
    page.locator("#method").select_option("complete_fullgrad")
    done(page)
    assert "limit=" not in asked[-1]
    expect(said).not_to_contain_text("one scale")
