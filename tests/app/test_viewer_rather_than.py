"""Why one class rather than another, in the viewer: numbers, maps, words and files."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fullgrad

pytest.importorskip("starlette")
from app_server import (
    CAPTUM,
    PHOTOGRAPH,
    Running,
    ask,
    error,
    expected,
    image_of,
    numbers_of,
    result,
)
from fullgrad.targets import margin
from fullgrad.viz.overlay import colors, normalize
from fullgrad.viz.style import limit_of, signed_colors

pytestmark = CAPTUM


def logits_of(server: Running, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    _, x = expected(server, PHOTOGRAPH, folder)
    with torch.no_grad():
        return x, server.models[0].module(x)[0]


def test_the_difference_of_two_logits_is_explained(small: Running, tmp_path: Path) -> None:
    x, logits = logits_of(small, tmp_path)
    found = result(small, method="fullgrad", target=2, rather_than=4)
    target, other = found["target"], found["target"]["rather_than"]
    assert (target["index"], target["name"]) == (2, "bird")
    assert (other["index"], other["name"]) == (4, "house")
    assert target["logit"] == pytest.approx(float(logits[2]), rel=1e-5)
    assert other["logit"] == pytest.approx(float(logits[4]), rel=1e-5)
    assert other["margin"] == pytest.approx(float(logits[2] - logits[4]), rel=1e-4)
    shown = found["waterfall"]
    parts = [shown["input"], *(s["value"] for s in shown["stages"])]
    assert math.fsum(parts) + shown["residual"] == pytest.approx(shown["output"], rel=1e-9)
    assert shown["output"] == other["margin"]
    heat = fullgrad.saliency(small.models[0].module, x, margin(2, 4))[0, 0]
    np.testing.assert_array_equal(image_of(found["map"]["png"]), colors(normalize(heat)))
    assert "rather_than" not in result(small, target=2, parts="map")["target"]


@pytest.mark.parametrize("method", ["complete_fullgrad", "grad_cam", "input_x_gradient"])
def test_every_method_explains_it(small: Running, tmp_path: Path, method: str) -> None:
    x, _ = logits_of(small, tmp_path)
    call = ask(small, PHOTOGRAPH, "/api/download/array", method=method, target=2, rather_than=4)
    wanted = fullgrad.methods.attribute(method, small.models[0].module, x, margin(2, 4))
    np.testing.assert_allclose(
        np.load(io.BytesIO(call.content)), wanted[0, 0].numpy(), rtol=1e-5, atol=1e-7
    )


def test_words_name_both_classes(small: Running) -> None:
    told = result(small, method="complete_fullgrad", target=2, rather_than=4)["map"]
    # The numbers are those that the colors stand for: the cells' sums, not the pixels'.
    assert (told["cell"], numbers_of(told).shape) == (16, (2, 2))
    assert (told["least"], told["most"]) == (numbers_of(told).min(), numbers_of(told).max())
    assert max(-told["least"], told["most"]) == pytest.approx(told["limit"], rel=0.01)
    says = told["says"]
    assert "Red areas speak for bird, blue ones for house; the colors end at" in says
    assert "of the margin " in says
    html = ask(
        small, PHOTOGRAPH, "/api/download/report", name="a.jpg", target=2, rather_than=4
    ).content.decode()
    assert "bird (class 2) rather than house (class 4)" in html
    assert "--target 2 --rather-than 4 --layers" in html
    picture = ask(small, PHOTOGRAPH, "/api/download/picture", target=2, rather_than=4)
    assert picture.content.startswith(b"\x89PNG")


def test_the_predicted_class_rather_than_another(small: Running, tmp_path: Path) -> None:
    _, logits = logits_of(small, tmp_path)
    best, least = int(logits.argmax()), int(logits.argmin())
    found = result(small, rather_than=least)["target"]
    assert (found["index"], found["chosen"]) == (best, "predicted")
    assert found["rather_than"]["margin"] > 0
    name = small.models[0].class_names[best]
    status, kind, message = error(small, PHOTOGRAPH, rather_than=best)
    assert (status, kind) == (200, "request")
    assert message == (
        f"The most probable class is {name} itself, so there is nothing to compare it with. Choose "
        "another class at 'Rather than', or none, or another class to explain."
    )
    assert "result" not in message
    assert result(small, rather_than=best, target=least)["target"]["rather_than"]["margin"] < 0
    assert result(small, rather_than="")["target"]["index"] == best


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"rather_than": "5"}, "rather_than must be a whole number from 0 to 4, not '5'."),
        ({"rather_than": "dog"}, "rather_than must be a whole number"),
        (
            {"rather_than": "1", "target": "1"},
            "target and rather_than are the same class, 1: choose another one, or leave "
            "rather_than out.",
        ),
    ],
    ids=str,
)
def test_refusals(small: Running, query: dict[str, str], message: str) -> None:
    status, kind, said = error(small, PHOTOGRAPH, **query)
    assert (status, kind) == (400, "request")
    assert message in said


def test_classes_of_a_photograph_share_a_scale(small: Running, tmp_path: Path) -> None:
    x, _ = logits_of(small, tmp_path)
    asked = {"method": "fullgrad", "options": '{"psi":"signed"}', "parts": "map"}
    first, second = (result(small, target=k, **asked)["map"] for k in (1, 2))
    assert first["limit"] != second["limit"]
    low, high = sorted((first["limit"], second["limit"]))
    weak = 1 if first["limit"] == low else 2
    shared = result(small, target=weak, limit=high, **asked)["map"]
    heat = fullgrad.saliency(small.models[0].module, x, weak, psi="signed")[0, 0].double().numpy()
    assert limit_of(heat) == pytest.approx(low)
    assert shared["limit"] == high
    np.testing.assert_array_equal(image_of(shared["png"]), signed_colors(heat, high))
    assert (
        "one scale for all classes that were explained so far in this photograph" in shared["says"]
    )
    assert "one scale" not in first["says"]
    grown = result(small, target=3 - weak, limit=low, **asked)["map"]  # the scale only grows
    assert grown["limit"] == high
    pair = result(small, target=1, rather_than=2, limit=9, **asked)["map"]
    assert "one scale for all pairs of classes that were" in pair["says"]
    assert result(small, method="fullgrad", target=1, parts="map")["map"]["limit"] is None
    pictures = [
        ask(
            small,
            PHOTOGRAPH,
            "/api/download/picture",
            target=weak,
            **more,
            method=asked["method"],
            options=asked["options"],
        )
        for more in ({}, {"limit": high})
    ]
    assert pictures[0].content != pictures[1].content


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            {"limit": "1", "method": "fullgrad"},
            "fullgrad makes a map without sign here: leave limit out.",
        ),
        ({"limit": "1", "method": "sobel"}, "sobel makes a map without sign here"),
        ({"limit": "0", "method": "complete_fullgrad"}, "limit must be greater than 0, not '0'."),
        ({"limit": "inf", "method": "complete_fullgrad"}, "limit must be a finite number"),
        ({"limit": "x", "method": "complete_fullgrad"}, "limit must be a valid number"),
    ],
    ids=str,
)
def test_limits_that_cannot_be(small: Running, query: dict[str, str], message: str) -> None:
    status, kind, said = error(small, PHOTOGRAPH, **query)
    assert (status, kind) == (400, "request")
    assert message in said
