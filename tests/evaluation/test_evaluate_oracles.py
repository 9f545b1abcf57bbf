"""Tests of maps on models and maps for which the right answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from evaluating import explained, pixels, small_net, subject_of, values_of
from fullgrad import methods
from fullgrad.evaluation import statistics
from fullgrad.evaluation.tests.evaluate.measure import correlation
from fullgrad.evaluation.tests.evaluate.measures import randomization, stability
from fullgrad.evaluation.tests.evaluate.measures.class_sensitivity import ClassSensitivity
from fullgrad.evaluation.tests.evaluate.measures.grid_pointing import GridPointing, mosaics
from fullgrad.evaluation.tests.evaluate.measures.randomization import Randomization
from fullgrad.evaluation.tests.evaluate.measures.relevance_gain import (
    RelevanceGain,
    cell_sums,
    removed,
)
from fullgrad.evaluation.tests.evaluate.measures.stability import LogitShift, Stability
from fullgrad.interop import quantus as adapter
from fullgrad.methods.controls import cells_of


class Linear(nn.Module):
    """Logits that are linear in the input, without a bias."""

    def __init__(self, shape: tuple[int, int], classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, 3, *shape).double())

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x.double(), self.weight)


@pytest.fixture
def own() -> Iterator[Any]:
    """Registers a method for one test."""
    names = []

    def register(name: str, function: Any, **more: Any) -> None:
        methods.register(name, function, **more)
        names.append(name)

    yield register
    for name in names:
        methods.unregister(name)


# -- cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cell"), [((16, 16), 4), ((13, 18), 4), ((5, 7), 1), ((3, 9), 8)])
def test_cells_and_their_sums_are_those_of_loops(size: tuple[int, int], cell: int) -> None:
    labels = cells_of(size, cell)
    sides = [max(1, round(n / cell)) for n in size]
    maps = torch.randn(2, 1, *size, dtype=torch.float64)
    sums = np.zeros((2, sides[0] * sides[1]))
    areas = np.zeros(sides[0] * sides[1])
    for i in range(size[0]):
        for j in range(size[1]):
            place = (i * sides[0] // size[0]) * sides[1] + j * sides[1] // size[1]
            assert labels[i, j] == place
            sums[:, place] += maps[:, 0, i, j].numpy()
            areas[place] += 1
    np.testing.assert_allclose(cell_sums(maps, labels).numpy(), sums)
    for n, count in zip(size, sides, strict=True):
        lengths = np.bincount(np.arange(n) * count // n)
        assert lengths.max() - lengths.min() <= 1
    assert areas.min() >= 1
    chosen = torch.tensor([[0, len(areas) - 1], [len(areas) // 2, 0]])
    gone = removed(chosen, labels, 2)
    for sample in range(2):
        expected = np.isin(labels.numpy(), chosen[sample].numpy())
        assert (gone[sample, 0].numpy() == expected).all()


# -- symmetric relevance gain -----------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "fill"), [(16, 16, "black"), (13, 18, "mean")])
def test_the_gain_of_a_linear_model_in_closed_form(
    own: Any, height: int, width: int, fill: str
) -> None:
    """Removing a cell takes away w·(x - fill) on it, so sorting these sums is all there is to do."""
    model = Linear((height, width))
    images = pixels(6, height, width)
    subject = subject_of(model, images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    full = x.mean((2, 3), keepdim=True).float() if fill == "mean" else torch.zeros(6, 3, 1, 1)

    def term(module: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        filling = inputs.mean((2, 3), keepdim=True) if fill == "mean" else 0
        return model.weight[target].detach() * (inputs - filling).double()

    own("term", term)
    fractions = (0.1, 0.25, 0.5, 0.75)
    test = RelevanceGain(cell=4, fills=(fill,), fractions=fractions)
    found = list(test.scores(explained(subject, "term:signed=True")))
    labels = cells_of((height, width), 4).numpy()
    count = labels.max() + 1
    for score, image, color in zip(found, x, full, strict=True):
        top = subject.predicted[score.number]
        parts = (model.weight[top].detach() * (image - color.double())).sum(0).numpy()
        effects = sorted(parts[labels == k].sum() for k in range(count))
        gains = []
        for fraction in fractions:
            k = max(1, round(fraction * count))
            gains.append(sum(effects[-k:]) - sum(effects[:k]))
        assert score.value == pytest.approx(np.mean(gains), rel=1e-5)
        assert score.scale == pytest.approx(abs(sum(effects)), rel=1e-5)
        assert score.more is not None
        assert score.more["most"] - score.more["least"] == pytest.approx(score.value, rel=1e-6)
        assert score.setting == f"{fill}, cells of 4"
    plain = list(replace(test, cell=1).scores(explained(subject, "term:signed=True")))
    assert {s.setting for s in plain} == {f"{fill}, pixels"}
    assert all(a.value > b.value for a, b in zip(plain, found, strict=True))  # finer cells, more


@pytest.mark.parametrize("number", ["logit", "log-probability", "margin"])
def test_a_maps_negative_has_the_negative_gain(own: Any, number: str) -> None:
    subject = subject_of(small_net(), pixels(8))
    own("turned", lambda m, x, t: -methods.attribute("input_x_gradient", m, x, t, signed=True))
    test = RelevanceGain(cell=2, fractions=(0.1, 0.3, 0.6))
    values = [
        values_of(test.scores(explained(subject, f"{name}:signed=True", number=number)))
        for name in ("input_x_gradient", "turned")
    ]
    torch.testing.assert_close(values[0], -values[1], rtol=0, atol=0)
    assert float(values[0].abs().min()) > 0
    assert float(values[0].mean()) > 0


def test_noise_holds_zero() -> None:
    """Symmetric noise of every kind, in simultaneous intervals, over several hundred images."""
    subject = subject_of(small_net(seed=4), pixels(400))
    names = ["random", "random_blobs:grid=4", "random_phase:of=input_gradient"]
    test = RelevanceGain(cell=2, fractions=(0.1, 0.3, 0.6))
    scores = [list(test.scores(explained(subject, name))) for name in names]
    scale = np.mean([s.scale for s in scores[0]])
    values = np.array([[s.value / scale for s in part] for part in scores]).T
    assert values.shape == (400, 3)
    low, high = statistics.simultaneous(values)
    assert (low < 0).all()
    assert (high > 0).all()
    assert float((high - low).max()) < 0.3
    good = values_of(test.scores(explained(subject, "input_x_gradient:signed=True"))) / scale
    low, _ = statistics.simultaneous(good.numpy()[:, None])
    assert low[0] > 0.1  # so the test can tell


# -- grid pointing ----------------------------------------------------------------------------

COLORS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 10], [10, 240, 240]])


class ByColor(nn.Module):
    """Knows five classes by one constant color each: it counts pixels near it."""

    def forward(self, x: Tensor) -> Tensor:
        colors = torch.tensor(COLORS, dtype=x.dtype) / 255
        away = (x[:, None] - colors.view(1, 5, 3, 1, 1)).abs().sum(2)
        near: Tensor = (1 - away).clamp_min(0).flatten(2).mean(2) * 50
        return near


def near(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
    """A mask of the pixels that have the class's color, made larger at edges that are smoothed."""
    color = torch.tensor(COLORS, dtype=inputs.dtype)[target] / 255
    away = (inputs - color.view(-1, 3, 1, 1)).abs().sum(1, keepdim=True)
    return (away < 0.1).to(inputs)


@pytest.mark.parametrize(("side", "members"), [(2, 4), (3, 9)])
def test_a_true_mask_points_at_its_image(own: Any, side: int, members: int) -> None:
    images = COLORS[np.arange(15) % 5].astype(np.uint8)[:, None, None].repeat(18, 1).repeat(18, 2)
    subject = subject_of(ByColor(), images)
    own("mask", near)
    own("reverse", lambda m, x, t: 1 - near(m, x, t))
    test = GridPointing(sides=(side,))
    assert test.cases(subject) == 15
    if members > 5:  # fewer classes than images in a mosaic
        assert list(test.scores(explained(subject, "mask"))) == []
        return
    assert values_of(test.scores(explained(subject, "mask"))).tolist() == [1.0] * 15
    assert values_of(test.scores(explained(subject, "reverse"))).tolist() == [0.0] * 15
    own("nothing", lambda m, x, t: -torch.ones_like(x))
    flat = values_of(test.scores(explained(subject, "nothing:signed=True")))
    assert flat.tolist() == [0.0] * 15  # no positive part
    own("flat", lambda m, x, t: torch.ones_like(x))
    flat = values_of(test.scores(explained(subject, "flat")))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.25))


def test_mosaics_hold_sure_images_of_other_classes() -> None:
    images = COLORS[np.arange(15) % 5].astype(np.uint8)[:, None, None].repeat(18, 1).repeat(16, 2)
    images[3] = 128  # of no class
    subject = subject_of(ByColor(), images)
    assert GridPointing().cases(subject) == 14
    made = mosaics(explained(subject, "sobel"), 2, 0.8)
    assert made is not None
    assert made.numbers == tuple(n for n in range(15) if n != 3)
    for number, x, own_place in zip(made.numbers, made.x, made.own, strict=True):
        corners = {tuple((x[:, i, j] * 255).round().tolist()) for i in (2, 15) for j in (2, 13)}
        assert len(corners) == 4
        assert float(own_place.mean()) == 0.25
        inside = (x * own_place).sum((1, 2)) / own_place.sum() * 255
        np.testing.assert_allclose(inside, COLORS[number % 5], atol=1)
    again = mosaics(explained(subject, "sobel", (4, 9)), 2, 0.8)
    assert again is not None
    torch.testing.assert_close(again.x, made.x[[3, 8]])  # whatever the batch
    other = mosaics(explained(subject, "sobel", seed=1), 2, 0.8)
    assert other is not None
    assert not torch.equal(other.own, made.own)
    assert mosaics(explained(subject, "sobel", (3,)), 2, 0.8) is None


# -- other classes, noise, shifted logits -----------------------------------------------------


def test_correlation_is_pearsons() -> None:
    a, b = torch.randn(2, 5, 1, 4, 6)
    expected = [np.corrcoef(u.flatten(), v.flatten())[0, 1] for u, v in zip(a, b, strict=True)]
    np.testing.assert_allclose(correlation(a, b), expected, rtol=1e-5)
    torch.testing.assert_close(correlation(a, 3 - 2 * a), -torch.ones(5).double())
    flat = torch.ones(2, 1, 2, 2)
    rising = torch.arange(4.0).view(1, 1, 2, 2).expand(2, 1, 2, 2)
    assert correlation(flat, flat).tolist() == [1, 1]
    assert correlation(flat, rising).tolist() == [0, 0]


def test_class_sensitivity_of_a_linear_model() -> None:
    model = Linear((8, 8), classes=7)
    subject = subject_of(model, pixels(12, 8, 8))
    scores = list(ClassSensitivity().scores(explained(subject, "input_gradient:signed=True")))
    weight = model.weight.detach().sum(1).flatten(1).numpy()
    pairs = np.corrcoef(weight)
    order = subject.logits.argsort(1)
    second = [s for s in scores if s.setting == "second class"]
    for score in second:
        classes = order[score.number, -1], order[score.number, -2]
        assert score.value == pytest.approx(pairs[classes], abs=1e-6)
    unlikely = [s for s in scores if s.setting == "unlikely class"]
    drawn = set()
    for score in unlikely:
        values = pairs[order[score.number, -1]][order[score.number, :3]]
        drawn.add(int(np.abs(values - score.value).argmin()))
        assert np.abs(values - score.value).min() < 1e-6
    assert len(unlikely) == len(second) == 12
    assert len(drawn) > 1
    same = values_of(ClassSensitivity().scores(explained(subject, "sobel")))
    assert same.tolist() == [1.0] * 24


def test_stability_of_maps_that_are_known(own: Any) -> None:
    """A gradient that does not depend on the input stays; the input as map follows its noise."""
    subject = subject_of(Linear((8, 8)), pixels(5, 8, 8))
    flat = values_of(Stability(noise=0.3).scores(explained(subject, "input_gradient:signed=True")))
    torch.testing.assert_close(flat, torch.ones(5, dtype=torch.float64))
    own("itself", lambda m, x, t: x)
    test = Stability(noise=0.3)
    part = explained(subject, "itself:signed=True")
    found = list(test.scores(part))
    assert {s.setting for s in found} == {"noise 0.3"}
    for i, (x, g) in enumerate(zip(part.x, part.generators(stability._SALT), strict=True)):
        noisy = x + 0.3 * (x.max() - x.min()) * torch.randn(x.shape, generator=g)
        expected = np.corrcoef(x.sum(0).flatten(), noisy.sum(0).flatten())[0, 1]
        assert found[i].value == pytest.approx(expected, rel=1e-5)
    less = values_of(Stability(noise=0.01).scores(part))
    assert bool((less > values_of(found)).all())


def test_a_shift_of_all_logits_changes_no_probability() -> None:
    subject = subject_of(small_net(), pixels(6))
    part = explained(subject, "input_x_gradient:signed=True")
    weights = stability.pattern(part.x, subject.logits, 0)
    shifted = stability.Shifted(subject.model.module, weights)
    found = subject.outputs(part.x, shifted)
    before = subject.outputs(part.x)
    torch.testing.assert_close(found.softmax(1), before.softmax(1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        found - before, (found - before)[:, :1].expand(-1, 6), rtol=1e-3, atol=1e-5
    )
    assert float((found - before).abs().mean()) > 0.1 * float(before.amax(1).abs().mean())
    assert torch.equal(weights, stability.pattern(part.x, subject.logits, 0))
    assert not torch.equal(weights, stability.pattern(part.x, subject.logits, 1))
    scores = list(LogitShift().scores(part))
    values = {n: values_of(scores, n) for n in ("logit", "log-probability", "margin")}
    assert float(values["logit"].max()) < 0.99
    for name in ("log-probability", "margin"):
        torch.testing.assert_close(
            values[name], torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-4
        )


# -- random weights ---------------------------------------------------------------------------


def test_entropy_and_score_are_quantus(monkeypatch: pytest.MonkeyPatch) -> None:
    quantus = pytest.importorskip("quantus")
    from quantus.functions.complexity_func import discrete_entropy
    from quantus.helpers.model.pytorch_model import PyTorchModel

    maps = torch.randn(4, 1, 16, 16) ** 3
    for bins in (10, 100):
        ours = randomization.entropy(maps, bins)
        theirs = [discrete_entropy(m.numpy(), m.numpy(), n_bins=bins) for m in maps]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    subject = subject_of(small_net(), pixels(6))
    part = explained(subject, "input_gradient")
    *_, (_, random) = PyTorchModel(subject.model.module).get_random_layer_generator("bottom_up", 42)
    monkeypatch.setattr(randomization, "randomized", lambda module, seed: random)
    ours = values_of(Randomization().scores(part), "eMPRT")
    metric = quantus.EfficientMPRT(disable_warnings=True, seed=42)
    theirs = metric(
        model=subject.model.module,
        x_batch=part.x.numpy(),
        y_batch=part.classes.numpy(),
        explain_func=adapter.explain,
        explain_func_kwargs={"method": "input_gradient"},
        device="cpu",
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert float(ours.abs().min()) > 1e-4


def test_smprt_is_quantus_for_the_methods_that_quantus_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantus' takes no other ones: it calls its own explain() whatever function is given."""
    quantus = pytest.importorskip("quantus")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    subject = subject_of(small_net(), pixels(5))
    part = explained(subject, "input_gradient")
    *_, (_, random) = PyTorchModel(subject.model.module).get_random_layer_generator("bottom_up", 42)
    monkeypatch.setattr(randomization, "randomized", lambda module, seed: random)
    ours = values_of(Randomization(copies=4).scores(part), "minus sMPRT, copies 4")
    generators = part.generators(randomization._SALT)
    drawn = [torch.stack([torch.randn(3, 16, 16, generator=g) for g in generators]) for _ in "abc"]
    noise = cycle([d.double().numpy() for d in drawn])
    monkeypatch.setattr(np.random, "randn", lambda *shape: next(noise))
    metric = quantus.SmoothMPRT(
        disable_warnings=True, seed=42, nr_samples=4, skip_layers=True, return_last_correlation=True
    )
    theirs = metric(
        model=subject.model.module,
        x_batch=part.x.numpy(),
        y_batch=part.classes.numpy(),
        explain_func=quantus.explain,
        explain_func_kwargs={"method": "Saliency"},
        device="cpu",
    )
    np.testing.assert_allclose(-ours, theirs, atol=1e-4)
    assert float(ours.abs().min()) > 1e-3
    one = values_of(Randomization(copies=1).scores(part), "minus sMPRT, copies 1")
    after = part.explain(module=random)
    plain = [
        scipy.stats.spearmanr(a.flatten(), b.flatten()).statistic
        for a, b in zip(part.maps, after, strict=True)
    ]
    np.testing.assert_allclose(-one, plain, atol=1e-6)


def test_random_weights_and_what_does_not_look_at_them(own: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 6),
    ).eval()
    model.register_parameter("scale", nn.Parameter(torch.arange(4.0)))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = randomization.randomized(model, 0)
    assert torch.equal(torch.rand(3), expected)  # the random state is left as it was
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    changed = {k for k, v in found.state_dict().items() if not torch.equal(v, state[k])}
    assert changed == {"0.weight", "0.bias", "4.weight", "4.bias", "scale"}
    assert not torch.equal(found[0].weight, randomization.randomized(model, 1)[0].weight)
    subject = subject_of(small_net(), pixels(4))
    scores = list(Randomization().scores(explained(subject, "sobel")))
    assert values_of(scores, "eMPRT").tolist() == [0] * 4
    assert values_of(scores, "minus correlation").tolist() == [-1] * 4
    scores = list(Randomization().scores(explained(subject, "input_x_gradient")))
    assert float(values_of(scores, "minus correlation").min()) > -0.99


def test_an_unknown_number_is_not_taken_for_the_logit() -> None:
    found = explained(subject_of(small_net(), pixels(1)), "sobel")
    with pytest.raises(ValueError, match=r"must be one of .*, margin, not 'log_probability'"):
        found.explain(number="log_probability")
    with pytest.raises(ValueError, match=r"must be one of .*, margin, not 'odds'"):
        replace(found, number="odds").measured(torch.zeros(1, 6))
