"""Contrasts between classes: what they are, that they are exact, and that every call takes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import MethodError, TargetError
from fullgrad.interop import grad_cam, quantus
from fullgrad.maps import tokens
from fullgrad.targets import against_rest, log_probability, margin
from networks import ResNetLike, classifier, ids, seeded, vgg_like
from snippets import Snippet, batch, check_sum

X = batch(3, 3, 32, 32)
PER_SAMPLE = [4, 0, 9]


def at(y: Tensor, c: Any) -> Tensor:
    """The output of each sample's class, by a loop."""
    classes = y.argmax(1).tolist() if c is None else [c] * len(y) if isinstance(c, int) else c
    return torch.stack([row[k] for row, k in zip(y, classes, strict=True)])


def naive_margin(y: Tensor, a: Any, b: Any) -> Tensor:
    return at(y, a) - at(y, b)


def naive_log_probability(y: Tensor, c: Any) -> Tensor:
    return at(y, c) - y.exp().sum(1).log()


def naive_against_rest(y: Tensor, c: Any) -> Tensor:
    p = at(y, c).exp() / y.exp().sum(1)
    return (p / (1 - p)).log()


CASES: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "margin": (margin(3, 5), partial(naive_margin, a=3, b=5)),
    "margin of each": (margin(PER_SAMPLE, 5), partial(naive_margin, a=PER_SAMPLE, b=5)),
    "margin of a tensor": (
        margin(2, torch.tensor(PER_SAMPLE)),
        partial(naive_margin, a=2, b=PER_SAMPLE),
    ),
    "margin of the predicted": (margin(None, 6), partial(naive_margin, a=None, b=6)),
    "log-probability": (log_probability(2), partial(naive_log_probability, c=2)),
    "of each": (
        log_probability(np.array(PER_SAMPLE)),
        partial(naive_log_probability, c=PER_SAMPLE),
    ),
    "of the predicted": (log_probability(), partial(naive_log_probability, c=None)),
    "log odds": (against_rest(0), partial(naive_against_rest, c=0)),
    "log odds of each": (against_rest(PER_SAMPLE), partial(naive_against_rest, c=PER_SAMPLE)),
    "log odds of the predicted": (against_rest(), partial(naive_against_rest, c=None)),
    "of contrasts": (
        margin(log_probability(1), against_rest(PER_SAMPLE)),
        lambda y: naive_log_probability(y, 1) - naive_against_rest(y, PER_SAMPLE),
    ),
}


@pytest.mark.parametrize("build", [vgg_like, ResNetLike])
@pytest.mark.parametrize("case", CASES)
def test_a_contrast_is_decomposed_exactly(case: str, build: Any) -> None:
    target, naive = CASES[case]
    model = seeded(build).eval()
    d = fullgrad.decompose(model, X, target)
    leaf = X.clone().requires_grad_()
    output = naive(model(leaf))
    (gradient,) = torch.autograd.grad(output.sum(), leaf)
    torch.testing.assert_close(d.output, output.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(d.input_gradients[0], gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        d.bias_sums, output.detach() - (gradient * X).flatten(1).sum(1), rtol=1e-9, atol=1e-11
    )
    assert d.target is None
    assert float(d.relative_residual.max()) <= 1e-10


@pytest.mark.parametrize("case", ["margin of each", "of the predicted", "log odds of each"])
def test_each_sample_has_its_own_terms(case: str) -> None:
    target, _ = CASES[case]
    model = seeded(vgg_like)
    together = fullgrad.saliency(model, X, target, psi="signed")
    for i in range(len(X)):
        one = {
            "margin of each": margin(PER_SAMPLE[i], 5),
            "of the predicted": log_probability(),
            "log odds of each": against_rest(PER_SAMPLE[i]),
        }[case]
        alone = fullgrad.saliency(model, X[i : i + 1], one, psi="signed")
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-10, atol=1e-13)
    for size in (1, 2):
        parts = fullgrad.saliency(model, X, target, psi="signed", batch_size=size)
        torch.testing.assert_close(parts, together, rtol=1e-10, atol=1e-13)


def test_a_margins_terms_are_differences() -> None:
    model = seeded(vgg_like)
    both, a, b = (fullgrad.decompose(model, X, t) for t in (margin(3, 5), 3, 5))
    assert len(both) == len(a) == len(b)
    for whole, first, second in zip(both, a, b, strict=True):
        torch.testing.assert_close(whole.value, first.value - second.value, rtol=1e-9, atol=1e-13)
    maps = [fullgrad.saliency(model, X, t, psi="signed") for t in (margin(3, 5), 3, 5)]
    torch.testing.assert_close(maps[0], maps[1] - maps[2], rtol=1e-9, atol=1e-13)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.integers(0, 5))
def test_numbers_of_any_logits(logits: list[float], number: int) -> None:
    y = torch.tensor([logits, logits[::-1]], dtype=torch.float64)
    c = number % len(logits)
    log_p = log_probability(c)(y)
    torch.testing.assert_close(log_p, naive_log_probability(y, c), rtol=1e-9, atol=1e-11)
    rest = torch.cat([y[:, :c], y[:, c + 1 :]], 1)
    odds = against_rest(c)(y)
    torch.testing.assert_close(odds, y[:, c] - rest.exp().sum(1).log(), rtol=1e-9, atol=1e-11)
    if len(logits) == 2:
        torch.testing.assert_close(odds, margin(c, 1 - c)(y))


def test_dense_outputs_have_margins() -> None:
    model = Snippet(lambda m, x: m.fc(x).tanh()[:, :, None] * torch.arange(1.0, 5.0))
    x = batch(3, 4)
    y = model(x).detach()
    d = fullgrad.decompose(model, x, margin((2, 3), [(0, 1), (1, 1), (2, 1)]))
    assert d.output.tolist() == [float(y[i, 2, 3] - y[i, i, 1]) for i in range(3)]
    for target in (log_probability(1), against_rest(1)):
        with pytest.raises(TargetError, match=r"shape \(batch, classes\), not \(3, 3, 4\): pass a"):
            fullgrad.decompose(model, x, target)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (margin(3, 5), "class 3 rather than class 5"),
        (margin(None, 5), "the predicted class rather than class 5"),
        (margin((5, 80, 120), (3, 80, 120)), "output (5, 80, 120) rather than output (3, 80, 120)"),
        (margin([1, 2], 5), "classes 1, 2 rather than class 5"),
        (margin(torch.arange(6), [7]), "classes 0, 1, 2, 3, … rather than class 7"),
        (margin(range(2), 5), "classes 0, 1 rather than class 5"),
        (margin(log_probability(1), 2), "log-probability of class 1 rather than class 2"),
        (margin(len, 2), "len rather than class 2"),
        (log_probability(3), "log-probability of class 3"),
        (against_rest(), "log odds of the predicted class against all others"),
    ],
    ids=str,
)
def test_words(target: Any, words: str) -> None:
    assert str(target) == words


def test_words_are_in_the_results() -> None:
    model, x = seeded(vgg_like), X[:1]
    d = fullgrad.decompose(model, x, margin(3, 5))
    assert d.output_source == "class 3 rather than class 5"
    assert "class 3 rather than class 5 = " in d.summary(1)
    assert "class 3 rather than class 5" in d._repr_html_()
    predicted = int(model(x).argmax())
    source = fullgrad.decompose(model, x, log_probability()).output_source
    assert source == f"log-probability of class {predicted}"


def test_contrasts_are_values() -> None:
    assert margin(1, 2) == margin(1, 2) != margin(2, 1)
    assert log_probability(torch.tensor([1, 2])) == log_probability([1, 2])
    assert hash(against_rest()) == hash(against_rest(None))
    with pytest.raises(AttributeError):
        margin(1, 2).a = 3


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: margin(10, 1), "target 10 is out of range for an output of size 10"),
        (lambda: margin(1, -1), "target -1 is out of range for an output of size 10"),
        (lambda: log_probability(10), "target 10 is out of range"),
        (lambda: against_rest([0, 1]), "2 targets for a batch of 3"),
        (lambda: margin(1.0, 2), "must be an integer, not 1.0"),
        (lambda: log_probability("dog"), "not str"),
        (lambda: margin(4, 4), "two classes, not class 4 twice"),
        (lambda: margin(None, None), "two classes, not the predicted class twice"),
        (lambda: margin(4, PER_SAMPLE), "two classes, but sample 0 has class 4 twice"),
        (lambda: against_rest(lambda y: y[:, 0]), "needs class indices, not a callable"),
    ],
)
def test_contrasts_that_do_not_fit(target: Callable[[], Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        fullgrad.decompose(seeded(vgg_like), X, target())


def test_outputs_that_have_no_contrast() -> None:
    x = batch(3, 4)
    with pytest.raises(TargetError, match="at least two classes, and the output has one"):
        fullgrad.decompose(Snippet(lambda m, x: m.fc(x)[:, :1]), x, against_rest(0))
    with pytest.raises(TargetError, match="no class to choose"):
        fullgrad.decompose(Snippet(lambda m, x: m.fc(x)[:, 0]), x, margin(0, 1))
    with pytest.raises(TargetError, match="no class to choose"):
        fullgrad.decompose(Snippet(lambda m, x: m.fc(x)[:, 0]), x, margin(None, 1))


# -- wherever a target is taken ----------------------------------------------------------------

NAMES = (
    "fullgrad",
    "simple_fullgrad",
    "smooth_fullgrad",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "guided_backprop",
    "deeplift",
    "grad_cam",
)


@pytest.mark.parametrize("name", NAMES)
def test_methods_take_contrasts(name: str) -> None:
    model = seeded(vgg_like)
    options: dict[str, Any] = {"samples": 3} if "smooth" in name else {}
    run = partial(methods.attribute, name, model, X, signed=name != "grad_cam")
    whole = run(margin(PER_SAMPLE, 5), **options)
    called = run(lambda y: y[range(len(y)), (PER_SAMPLE * len(y))[: len(y)]] - y[:, 5], **options)
    torch.testing.assert_close(whole, called, rtol=1e-9, atol=1e-12)
    parts = run(margin(PER_SAMPLE, 5), batch_size=2, **options)
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)
    if name == "deeplift":
        with pytest.raises(MethodError, match="every non-linearity to be a module of its own"):
            run(log_probability())
        return
    # Also where inputs are changed, the predicted class is that of the input itself.
    own = model(X).argmax(1)
    by_itself, given_ = (run(log_probability(c), **options) for c in (None, own))
    torch.testing.assert_close(by_itself, given_, rtol=1e-9, atol=1e-12)


def test_smooth_copies_have_the_class_of_the_sample() -> None:
    model = seeded(vgg_like)
    noise = fullgrad.Noise(samples=4, scale=2.0)
    run = partial(fullgrad.saliency, model, X, method="smooth_fullgrad", noise=noise)
    own = model(X).argmax(1)
    torch.testing.assert_close(run(against_rest()), run(against_rest(own)), rtol=1e-10, atol=1e-13)
    assert not torch.equal(run(against_rest()), run(against_rest(0)))


def test_tokens_take_contrasts() -> None:
    model, x = classifier(), ids()
    found = tokens.attribute_tokens(model, x, margin([0, 1, 2], [1, 2, 0]))
    first, second = (tokens.attribute_tokens(model, x, t) for t in ([0, 1, 2], [1, 2, 0]))
    torch.testing.assert_close(found.scores, first.scores - second.scores)
    check_sum(found)
    assert tokens.token_saliency(model, x, log_probability()).shape == x.shape
    with pytest.raises(TargetError, match=re.escape("explain one in each call, or draw all")):
        tokens.attribute_tokens(model, x, [[0, 1]] * 3)


def test_other_libraries_take_contrasts() -> None:
    model, target = seeded(vgg_like), margin(3, 5)
    wanted = fullgrad.saliency(model, X, target)
    through = fullgrad.FullGrad(model).attribute(X, target, shape="map")
    torch.testing.assert_close(through, wanted)
    tunnel = captum.attr.NoiseTunnel(fullgrad.FullGrad(model))
    assert tunnel.attribute(X, nt_samples=2, target=target).shape == X.shape
    np.testing.assert_allclose(quantus.explain(model, X, target), wanted.cpu())
    cam = grad_cam.FullGrad(model)
    each = [margin(3, 5), margin(4, 1), log_probability()]
    found = cam(X, each)
    for i, one in enumerate(each):
        np.testing.assert_allclose(found[i : i + 1], cam(X[i : i + 1], [one]), atol=1e-6)
    plain = cam(X[:1], [lambda y: y[3] - y[5]])
    np.testing.assert_allclose(found[:1], plain, atol=1e-6)


def test_own_functions_get_the_contrast() -> None:
    seen = []

    def mine(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        seen.append(target)
        return inputs

    methods.attribute(mine, seeded(vgg_like), X, margin(PER_SAMPLE, 5), batch_size=2)
    assert seen == [margin(PER_SAMPLE[:2], 5), margin(PER_SAMPLE[2:], 5)]


def test_a_callable_with_words_of_its_own() -> None:
    class Half:
        def __call__(self, y: Tensor) -> Tensor:
            return y[:, 0] / 2

        def __str__(self) -> str:
            return "half of class 0"

    model = seeded(vgg_like)
    assert fullgrad.decompose(model, X, Half()).output_source == "half of class 0"
    assert fullgrad.decompose(model, X, partial(at, c=0)).output_source == "partial"
    assert fullgrad.decompose(model, X, lambda y: y[:, 0]).output_source == "<lambda>"
