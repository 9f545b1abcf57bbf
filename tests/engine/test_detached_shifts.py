"""Detached values that only shift others, such as the maximum before a softmax written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import BlockedGradientError
from snippets import DOUBLE, Snippet, assert_exact, batch

REFUSED = r"leave the autograd graph in .*pass detached='constant'"
Softmax = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


def taken_out(m: Tensor) -> Tensor:
    return m.detach()


def kept(m: Tensor) -> Tensor:
    return m


def by_amax(s: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    e = (s - cut(s).amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def by_max(s: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    e = torch.exp(-torch.sub(cut(s.max(-1, keepdim=True).values), s))
    return e / e.sum(-1, keepdim=True)


def in_place(s: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    most, s = cut(s)[..., 1:].amax(-1, keepdim=True), s.clone()
    s[..., 1:].sub_(most)
    e = s[..., 1:].exp()
    return nn.functional.pad(e / e.sum(-1, keepdim=True), (1, 0))


def by_all(s: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    e = torch.rsub(cut(s).max(), s, alpha=1).neg().exp()
    return e / e.sum(-1, keepdim=True)


def by_logsumexp(s: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    m = cut(s).amax(-1)
    return (s - (m + (s - m[..., None]).exp().sum(-1).log())[..., None]).exp()


SOFTMAXES: dict[str, Softmax] = {
    f.__name__: f for f in (by_amax, by_max, in_place, by_all, by_logsumexp)
}


class Attention(nn.Module):
    """Attention over the patches of an image, its softmax written by hand."""

    def __init__(self, softmax: Softmax, cut: Callable[[Tensor], Tensor] = taken_out) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.softmax, self.cut = softmax, cut
        self.patch, self.heads = nn.Conv2d(3, 6, 3, 3), nn.Linear(6, 18)
        self.classes = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch(x).relu().flatten(2).transpose(1, 2)
        q, k, v = self.heads(z).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        w = self.softmax(q @ k.transpose(-2, -1), self.cut)
        return self.classes((w @ v).transpose(1, 2).flatten(2).mean(1))


def images(count: int = 3, dtype: torch.dtype = DOUBLE) -> Tensor:
    return batch(count, 3, 9, 12).to(dtype)


def named_sums(d: fullgrad.Decomposition) -> list[tuple[str, str, Tensor]]:
    return [(t.module, t.op, t.sums) for t in d.bias_terms]


@pytest.mark.parametrize("name", SOFTMAXES)
def test_the_terms_are_those_of_the_model_without_detach(name: str) -> None:
    x = images()
    own = assert_exact(Attention(SOFTMAXES[name]).double(), x)
    whole = assert_exact(Attention(SOFTMAXES[name], kept).double(), x)
    biases = {k: v for k, v in _by_name(own).items() if v.abs().max() > 1e-12}
    others = {k: v for k, v in _by_name(whole).items() if v.abs().max() > 1e-12}
    torch.testing.assert_close(biases, others)


def _by_name(d: fullgrad.Decomposition) -> dict[tuple[str, str], Tensor]:
    found: dict[tuple[str, str], Tensor] = {}
    for module, op, sums in named_sums(d):
        found[module, op] = found.get((module, op), 0) + sums
    return found


@pytest.mark.parametrize("linearization", ["jacobian", "balanced"])
def test_maps_are_those_of_the_softmax_of_pytorch(linearization: Any) -> None:
    x, own = images(), Attention(by_amax).double()
    plain = Attention(lambda s, cut: s.softmax(-1)).double()
    for call in (
        lambda m: fullgrad.complete_map(m, x, 1, linearization=linearization).map,
        lambda m: fullgrad.saliency(m, x, [[1, 2]] * 3, linearization=linearization, terms="input"),
        lambda m: methods.attribute("input_x_gradient", m, x, 1),
    ):
        torch.testing.assert_close(call(own), call(plain))
    if linearization == "balanced":
        heat = methods.attribute("balanced_fullgrad", own, x, 1)
        torch.testing.assert_close(heat, methods.attribute("balanced_fullgrad", plain, x, 1))


@pytest.mark.parametrize("name", SOFTMAXES)
def test_saliency_is_that_of_the_model_without_detach(name: str) -> None:
    x, own = images(), Attention(SOFTMAXES[name]).double()
    heat = fullgrad.saliency(own, x, 1)
    torch.testing.assert_close(heat, fullgrad.saliency(Attention(own.softmax, kept).double(), x, 1))
    torch.testing.assert_close(heat, methods.attribute("fullgrad", own, x, 1))
    if name != "by_all":  # whose maximum is the batch's
        torch.testing.assert_close(heat, fullgrad.saliency(own, x, 1, batch_size=2))


def test_the_sum_of_the_batch_and_several_targets() -> None:
    model, x = Attention(by_all).double(), images()
    whole = fullgrad.decompose(model, x, 1, per_sample=False)
    each = fullgrad.decompose(model, x, 1)
    torch.testing.assert_close(whole.bias_sums, each.bias_sums.sum(0, keepdim=True))
    heat = fullgrad.saliency(model, x, [[0, 1], [2, 1], [3, 1]])
    torch.testing.assert_close(heat[:, 1:2], fullgrad.saliency(model, x, 1))


class Words(nn.Module):
    def __init__(self, shift: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.score, self.classes = nn.Embedding(9, 5), nn.Linear(5, 1), nn.Linear(5, 3)
        self.shift = shift

    def forward(self, ids: Tensor) -> Tensor:
        z = self.words(ids)
        s = self.score(z)
        e = (s - self.shift(s.detach())).exp()
        return self.classes((e / e.sum(1, keepdim=True) * z).sum(1))


def test_tokens() -> None:
    ids = torch.arange(12).view(3, 4) % 9
    shifted, plain = (
        fullgrad.maps.tokens.attribute_tokens(Words(shift).double(), ids, 1)
        for shift in (lambda s: s.amax(1, keepdim=True), torch.zeros_like)
    )
    torch.testing.assert_close(shifted.scores, plain.scores)


def test_time_first_and_heads_on_the_batch_axis() -> None:
    def run(m: Snippet, x: Tensor) -> Tensor:  # (T, B, C)
        s = m.fc(x).tanh()
        e = (s - s.detach().amax(0)).exp()
        folded = (e / e.sum(0)).transpose(0, 1).flatten(0, 1)  # (B T, K)
        e = (folded - folded.detach().amax(-1, keepdim=True)).exp()
        p = (e / e.sum(-1, keepdim=True)).unflatten(0, (x.shape[1], -1))
        return (p * s.transpose(0, 1)).sum(1)

    for layout, heat in (("TBC", 5), (None, 0)):
        x = batch(5, 2, 4) if layout else batch(5, 5, 4)
        if layout:
            assert fullgrad.saliency(Snippet(run), x, 1, layout=layout).shape == (2, 1, heat)
        d = fullgrad.decompose(Snippet(run), x, 1, layout="TBC")
        assert d.relative_residual.max() < 1e-10


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.bfloat16, 1), (torch.float32, 1), (torch.float32, 1e3), (DOUBLE, 1), (DOUBLE, 1e5)],
)
def test_every_precision_also_where_one_number_is_chosen(dtype: torch.dtype, scale: float) -> None:
    def softmax(s: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
        return by_amax(scale * s, cut)

    fullgrad.decompose(Attention(softmax).to(dtype), images(dtype=dtype), 1)


# -- values on which the output depends -----------------------------------------------------------


def opposite(m: Snippet, x: Tensor) -> Tensor:
    """What arrives at the mean is zero for the two samples together, not for each."""
    z = x - x.detach().mean()
    return z.sum(1, keepdim=True) * torch.tensor([[1.0], [-1.0]], dtype=DOUBLE) * torch.ones(3)


def centered(m: Snippet, x: Tensor) -> Tensor:
    """The mean is zero, and so would be its bias."""
    x = torch.cat([x, -x], 1)
    return m.fc((x - x.detach().mean(1, keepdim=True))[:, :4].exp())


def cut_short(m: Snippet, x: Tensor) -> Tensor:
    """Invariant but for the first two numbers, which read the maximum as well."""
    s = m.fc(x)
    most = s.detach().amax(1, keepdim=True)
    e = (s - most).exp()
    return e / e.sum(1, keepdim=True) + torch.cat([s[:, :2] - most, s[:, 2:]], 1)


def then_multiplied(m: Snippet, x: Tensor) -> Tensor:
    most = x.detach().amax(1, keepdim=True)
    return m.fc((x - most).softmax(1)) * most


def then_returned(m: Snippet, x: Tensor) -> Any:
    most = x.detach().amax(1, keepdim=True)
    return m.fc((x - most).softmax(1)), most.expand(-1, 3)


def then_overwritten(m: Snippet, x: Tensor) -> Tensor:
    most = x.detach().amax(1, keepdim=True)
    s = (x - most).softmax(1)
    most.mul_(2)
    return m.fc((x - most).softmax(1) + s)


def seen_twice(m: Snippet, x: Tensor) -> Tensor:
    """Once by a softmax and once by a sum, through views of one memory."""
    most = x.detach().amax(1)
    return m.fc((x - most[:, None]).softmax(1)) + (m.fc(x) + most.view(-1, 1))


def without_axes(m: Snippet, x: Tensor) -> Tensor:
    s = torch.fft.fft(m.fc(x), dim=0).abs() * 0 + m.fc(x).sort(0).values
    return (s - s.detach().amax(1, keepdim=True)).softmax(1)


DEPENDS = {
    "mean": lambda m, x: m.fc(x - x.detach().mean(1, keepdim=True)),
    "itself": lambda m, x: m.fc(x - x.detach() + x),
    "one sample's number": lambda m, x: m.fc(x) + x.detach().amax(1, keepdim=True),
    "opposite": opposite,
    "centered": centered,
    "cut short": cut_short,
    "then multiplied": then_multiplied,
    "then overwritten": then_overwritten,
    "seen twice": seen_twice,
}


@pytest.mark.parametrize("linearization", ["jacobian", "balanced"])
@pytest.mark.parametrize("name", DEPENDS)
def test_values_on_which_the_output_depends_are_refused(name: str, linearization: Any) -> None:
    model, x = Snippet(DEPENDS[name]), batch(2, 4)
    with pytest.raises(BlockedGradientError, match=REFUSED):
        fullgrad.decompose(model, x, 1, linearization=linearization)
    fullgrad.decompose(model, x, 1, linearization=linearization, detached="constant")


def test_each_target_is_proved() -> None:
    model, x = Snippet(cut_short), batch(2, 4)
    fullgrad.decompose(model, x, 2)
    with pytest.raises(BlockedGradientError, match=REFUSED):
        fullgrad.saliency(model, x, [[2, 0], [2, 0]], layout="BT")


def test_a_detached_output_is_refused() -> None:
    with pytest.raises(BlockedGradientError, match=REFUSED):
        fullgrad.decompose(
            Snippet(then_returned), batch(2, 4), lambda out: out[0][:, 1] + out[1][:, 0]
        )


def test_the_balanced_maps_of_a_logsumexp_are_not_shift_invariant() -> None:
    model, x = Attention(by_logsumexp).double(), images()
    with pytest.raises(BlockedGradientError, match=REFUSED):
        fullgrad.saliency(model, x, 1, linearization="balanced")
    fullgrad.saliency(model, x, 1, linearization="balanced", detached="constant")


def test_where_the_samples_lie_must_be_known() -> None:
    model, x = Snippet(without_axes), batch(2, 4)
    with pytest.raises(BlockedGradientError, match=REFUSED):
        fullgrad.decompose(model, x, 1)
    fullgrad.decompose(model, x[:1], 1)


def test_a_rule_of_the_users_for_sums_takes_the_value_for_a_constant() -> None:
    half = fullgrad.Rule(
        apply=lambda call: call.args[0] / 2, transpose=lambda call, gradient: [gradient / 2]
    )
    model = Attention(by_amax).double()
    choice = fullgrad.Linearization(operations={"sub": half})
    with pytest.raises(BlockedGradientError, match=REFUSED):
        fullgrad.decompose(model, images(), 1, linearization=choice)
    fullgrad.decompose(model, images(), 1, linearization=choice, detached="constant")
