"""The worked example: its regions against brute force, its properties, its picture, its command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullgrad
from fullgrad.cli.main import main
from fullgrad.evaluation.theory.figure import figure
from fullgrad.evaluation.theory.linear_regions import (
    EXTENT,
    affine,
    crossings,
    linear_regions,
    patterns,
    pre_activations,
    zero_line,
)
from fullgrad.evaluation.theory.properties import (
    Measured,
    Theory,
    integrated_gradients,
    marked_points,
    measure,
    represent,
    theory,
    train,
    two_moons,
)

captum = pytest.importorskip("captum.attr")
Text = pytest.importorskip("matplotlib.text").Text


@pytest.fixture(scope="module")
def result() -> Theory:
    return theory(0)


def deep(seed: int) -> nn.Sequential:
    """Three hidden layers of different widths, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(3, 1)).double()


def scattered(count: int, seed: int = 7) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    left, right, bottom, top = EXTENT
    return random.uniform((left, bottom), (right, top), (count, 2))


def brute_patterns(model: nn.Sequential, points: np.ndarray[Any, Any]) -> list[tuple[bool, ...]]:
    """Which ReLUs are on, read off hooks."""
    seen: list[torch.Tensor] = []
    relus = [m for m in model if isinstance(m, nn.ReLU)]
    handles = [m.register_forward_hook(lambda m, i, out: seen.append(out > 0)) for m in relus]
    model(torch.from_numpy(points))
    for handle in handles:
        handle.remove()
    return [tuple(row) for row in torch.cat(seen, 1).tolist()]


def inside(region: Any, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whether points lie in a convex polygon: all on one side of every edge."""
    v = region.vertices
    edges = np.roll(v, -1, 0) - v
    to = points[:, None] - v[None]
    side = edges[None, :, 0] * to[..., 1] - edges[None, :, 1] * to[..., 0]
    return (side >= -1e-12).all(1) | (side <= 1e-12).all(1)


# The regions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_regions_are_those_of_brute_force(seed: int, result: Theory) -> None:
    model = result.trained.model if seed == 0 else deep(seed)
    regions = linear_regions(model)
    assert sum(r.area for r in regions) == pytest.approx(4.2 * 2.8, rel=1e-12)
    by_pattern = {r.pattern: r for r in regions}
    assert len(by_pattern) == len(regions) > 5
    points = scattered(20000)
    found = brute_patterns(model, points)
    assert found == patterns(model, points)
    assert set(found) <= set(by_pattern)
    large = {r.pattern for r in regions if r.area > 0.01}
    assert large <= set(found)
    for pattern in set(found):
        its_own = np.array([p == pattern for p in found])
        np.testing.assert_array_equal(inside(by_pattern[pattern], points), its_own)


@pytest.mark.parametrize("seed", [0, 3])
def test_slopes_and_offsets_are_the_networks(seed: int, result: Theory) -> None:
    model = result.trained.model if seed == 0 else deep(seed)
    for region in linear_regions(model):
        x = torch.from_numpy(region.center[None]).requires_grad_()
        output = model(x)
        (gradient,) = torch.autograd.grad(output.sum(), x)
        np.testing.assert_allclose(region.slope, gradient[0].numpy(), rtol=0, atol=1e-12)
        assert float(region.output(region.center[None])[0]) == pytest.approx(
            float(output.detach()), rel=1e-10, abs=1e-12
        )
        assert affine(model, region.pattern)[1] == region.offset


def test_the_decision_boundary_is_where_f_is_zero(result: Theory) -> None:
    lines = [(r, zero_line(r)) for r in result.regions]
    drawn = [(r, line) for r, line in lines if line is not None]
    assert len(drawn) >= 3
    for region, line in drawn:
        along = line[0] + np.linspace(0, 1, 5)[:, None] * (line[1] - line[0])
        values = pre_activations(result.trained.model, along)[-1][:, 0]
        np.testing.assert_allclose(values, 0, atol=1e-11)
        assert inside(region, along.mean(0)[None])[0]
    for region, line in lines:
        if line is None:
            values = region.output(region.vertices)
            assert values.min() >= 0 or values.max() <= 0


@pytest.mark.parametrize("seed", [0, 5])
def test_crossings_are_where_the_pattern_changes(seed: int, result: Theory) -> None:
    model = result.trained.model if seed == 0 else deep(seed)
    start, end = np.array([-2.0, -1.3]), np.array([1.9, 1.2])
    at = crossings(model, start, end)
    assert list(at) == sorted(at)
    assert len(at) > 3
    for a, b in pairwise([0.0, *at, 1.0]):
        t = a + (b - a) * np.linspace(1e-6, 1 - 1e-6, 9)
        assert len(set(brute_patterns(model, start + t[:, None] * (end - start)))) == 1
    either = start + (np.array(at)[:, None] + [[-1e-9, 1e-9]]).reshape(-1, 1) * (end - start)
    found = brute_patterns(model, either)
    assert all(a != b for a, b in zip(found[::2], found[1::2], strict=True))


# The properties


def test_one_region_one_full_gradient_other_integrated_gradients(result: Theory) -> None:
    """For every region with several of 150 points, by fullgrad and plain Captum alone."""
    model, points = result.trained.model, scattered(150, seed=3)
    found = brute_patterns(model, points)
    d = fullgrad.decompose(model, torch.from_numpy(points), 0)
    ig = captum.IntegratedGradients(model).attribute(
        torch.from_numpy(points).requires_grad_(), target=0, n_steps=40
    )
    full = torch.cat([d.input_gradients[0], *(t.gradient for t in d.bias_terms)], 1)
    assert full.shape == (150, 2 + 5 + 5 + 1)
    several = [p for p in set(found) if found.count(p) > 1]
    assert len(several) > 10
    for pattern in several:
        group = torch.tensor([i for i, p in enumerate(found) if p == pattern])
        torch.testing.assert_close(
            full[group], full[group[:1]].expand(len(group), -1), rtol=0, atol=1e-12
        )
        assert float((ig[group] - ig[group[:1]]).detach().abs().max()) > 1e-3
    assert float((full.amax(0) - full.amin(0)).max()) > 1


def test_sums_are_complete(result: Theory) -> None:
    for seen in (result.marked, result.walk.seen):
        with torch.no_grad():
            output = result.trained.model(torch.from_numpy(seen.points))[:, 0].numpy()
        np.testing.assert_allclose(seen.output, output, rtol=1e-12, atol=1e-12)
        total = seen.input_term + sum(t.sum(1) for t in seen.bias_terms)
        np.testing.assert_allclose(total, seen.output, atol=1e-12)
        np.testing.assert_allclose(
            seen.integrated.sum(1), seen.output - result.origin_output, atol=1e-12
        )
        biases = [
            layer.bias.detach().numpy()
            for layer in result.trained.model
            if isinstance(layer, nn.Linear)
        ]
        for gradient, term, bias in zip(seen.bias_gradients, seen.bias_terms, biases, strict=True):
            np.testing.assert_allclose(gradient * bias, term, atol=1e-12)


def test_integrated_gradients_are_captums(result: Theory) -> None:
    model, points = result.trained.model, scattered(5)
    fine = captum.IntegratedGradients(model).attribute(
        torch.from_numpy(points).requires_grad_(), target=0, n_steps=1500, method="riemann_middle"
    )
    np.testing.assert_allclose(
        integrated_gradients(model, points), fine.detach().numpy(), atol=4e-2
    )


def test_marked_points(result: Theory) -> None:
    a, b, c = brute_patterns(result.trained.model, result.marked.points)
    assert a == b != c
    assert [result.regions[i].pattern for i in result.homes] == [a, b, c]
    assert result.names == ("A", "B", "C")
    x = result.marked.points
    area = (x[1] - x[0])[0] * (x[2] - x[0])[1] - (x[1] - x[0])[1] * (x[2] - x[0])[0]
    assert area == pytest.approx(0, abs=1e-12)  # on one line
    assert np.linalg.norm(x[1] - x[0]) > 0.2
    assert result.marked.output[2] > 0 > result.marked.output[0]
    np.testing.assert_array_equal(marked_points(result.regions)[0], x)


def test_the_walk(result: Theory) -> None:
    walk = result.walk
    np.testing.assert_allclose(walk.seen.points[0], result.marked.points[0], atol=0.05)
    assert len(walk.borders) >= 2
    found = brute_patterns(result.trained.model, walk.seen.points)
    for piece in range(len(walk.borders) + 1):
        own = np.flatnonzero(walk.pieces == piece)
        assert len({found[i] for i in own}) == 1
        assert float(np.ptp(walk.seen.gradient[own], axis=0).max()) <= 1e-12
        assert float(np.ptp(walk.seen.integrated[own], axis=0).max()) > 1e-4
    for border in range(len(walk.borders)):
        left = np.flatnonzero(walk.pieces == border)[-1]
        everything = np.concatenate([walk.seen.gradient, *walk.seen.bias_gradients], 1)
        assert float(np.abs(everything[left + 1] - everything[left]).max()) > 1e-6


def test_the_table_is_the_papers(result: Theory) -> None:
    said = {m.name: (m.complete, m.weakly_dependent) for m in result.measured}
    assert said == {
        "full-gradient": (True, True),
        "input-gradient": (False, True),
        "integrated gradients": (True, False),
    }
    for m in result.measured:
        assert m.limit < 1e-6
        for number in (m.gap, m.change):
            assert number < m.limit / 100 or number > 1


def test_measures_can_fail(result: Theory) -> None:
    model, points = result.trained.model, scattered(300)
    seen, where = represent(model, points), patterns(model, points)
    worse = replace(seen, bias_terms=(seen.bias_terms[0] * 1.01, *seen.bias_terms[1:]))
    assert not measure(worse, where, result.origin_output)[0].complete
    moved = seen.gradient.copy()
    group = [i for i, p in enumerate(where) if where.count(p) > 1]
    moved[group[0]] += 0.1
    full, plain, _ = measure(replace(seen, gradient=moved), where, result.origin_output)
    assert not full.weakly_dependent
    assert not plain.weakly_dependent
    assert plain.change == pytest.approx(0.1, rel=1e-6)
    assert not measure(seen, where, result.origin_output + 1)[2].complete


@pytest.mark.parametrize(
    ("gap", "change", "said"),
    [(0.5, 2.0, (True, False)), (2.0, 1.0, (False, True)), (float("nan"), 0.0, (False, True))],
)
def test_verdicts(gap: float, change: float, said: tuple[bool, bool]) -> None:
    m = Measured("name", "f(x)", gap, change, 1.0)
    assert (m.complete, m.weakly_dependent) == said


def test_deterministic_and_without_side_effects(result: Theory) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = theory(0)
    assert torch.equal(torch.rand(1), expected)
    assert again.measured == result.measured
    np.testing.assert_array_equal(again.walk.seen.integrated, result.walk.seen.integrated)
    for a, b in zip(again.regions, result.regions, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
    points, labels = two_moons(1)
    assert not np.array_equal(points, two_moons(2)[0])
    assert labels.tolist() == [0] * 120 + [1] * 120


@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds(seed: int) -> None:
    trained = train(seed)
    assert trained.accuracy > 0.85
    points, _ = marked_points(linear_regions(trained.model))
    a, b, c = brute_patterns(trained.model, points)
    assert a == b != c


# The picture


def test_no_text_is_cut_off_or_overlaps(result: Theory) -> None:
    page = figure(result)
    page.canvas.draw()
    renderer, width, height = page.canvas.get_renderer(), *page.canvas.get_width_height()
    beyond = set()  # labels of ticks outside their axes, which are not drawn
    for axes in page.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in axis.get_major_ticks():
                if not limits[0] <= tick.get_loc() <= limits[1]:
                    beyond |= {tick.label1, tick.label2}
    boxes = {}
    for text in page.findobj(match=Text):
        if text in beyond or not text.get_visible() or not text.get_text().strip():
            continue
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
        boxes[text] = box
    assert len(boxes) > 60
    page_texts = [t for t in boxes if t in page.texts]
    assert len(page_texts) > 20
    for i, text in enumerate(page_texts):
        for other in [*page_texts[i + 1 :], *(t for t in boxes if t not in page.texts)]:
            assert not boxes[text].overlaps(boxes[other]), (text, other)


def test_picture_says_what_was_measured(result: Theory) -> None:
    def words(shown: Theory) -> list[str]:
        return [t.get_text() for t in figure(shown).texts]

    assert words(result).count("yes") == 4
    assert words(result).count("NO") == 2
    assert words(result).count("constant within\neach region") == 2
    broken = tuple(replace(m, gap=9.0, change=9.0) for m in result.measured)
    other = words(replace(result, measured=broken))
    assert other.count("NO") == 6
    assert other.count("changes within\nregions") == 3


# The command


def test_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    result: Theory,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fullgrad.cli.theory.theory", {0: result}.__getitem__)
    assert main(["theory", "--out", "shown"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("-> shown/theory.png\n-> shown/theory.json\n")
    assert sorted(p.name for p in Path("shown").iterdir()) == ["theory.json", "theory.png"]
    with Image.open("shown/theory.png") as picture:
        assert picture.size == (1100, 1562)
    values = json.loads(Path("shown/theory.json").read_text())
    assert len(values["regions"]) == len(result.regions)
    for stated, m in zip(values["measured"]["representations"], result.measured, strict=True):
        assert (stated["gap"], stated["change"]) == (m.gap, m.change)
        (line,) = [line for line in out.splitlines() if line.startswith(m.name + " ")]
        cells = line.removeprefix(m.name).split()
        yes = {True: "yes", False: "no"}
        assert cells == [
            yes[m.complete],
            f"{m.gap:.1e}",
            yes[m.weakly_dependent],
            f"{m.change:.1e}",
        ]
    for point in (*values["marked"], *values["path"]["points"]):
        biases = sum(sum(terms) for terms in point["bias_terms"].values())
        total = point["input_term"] + biases + point["residual"]
        assert total == pytest.approx(point["output"], abs=1e-12)
    assert f"A (region {result.homes[0]}): f = {result.marked.output[0]:.4g} = input " in out
    assert values["command"] == "fullgrad theory --out shown"
    assert values["versions"]["captum"]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("captum.attr", "pip install 'fullgrad[baselines]'"),
        ("matplotlib", "pip install 'fullgrad[cli]'"),
    ],
)
def test_missing_packages(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["theory", "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 to 2^63 - 1"),
        (["--seed", "x"], "argument --seed: 'x' is not a whole number from 0 to 2^63 - 1"),
        (["--out", "file"], "the output folder file cannot be made: file is not a folder"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["theory", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_results_that_cannot_be_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    result: Theory,
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fullgrad.cli.theory.theory", lambda seed: result)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["theory", "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "fullgrad: error: the results cannot be written: No space left on device\n"
    assert list(tmp_path.iterdir()) == []
