"""Terms of some of the tokens lie at those, and texts may come sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import ModelError
from fullgrad.maps.tokens import attribute_tokens, token_saliency
from snippets import check_sum


class Cut(nn.Module):
    """Reads some tokens, of which the first one's term alone counts."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.function = nn.Embedding(9, 4), function
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        y = F.silu(self.function(self.embed(ids)))
        out: Tensor = y[:, :1].sum((1, 2)) + 0 * y.sum((1, 2))
        return out[:, None]


IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]])
CUTS: dict[str, tuple[Callable[[Tensor], Tensor], list[int]]] = {
    "all": (lambda y: y, [0, 0]),
    "without the first": (lambda y: y[:, 1:], [1, 1]),
    "the middle": (lambda y: y[:, 2:4], [2, 2]),
    "reversed": (lambda y: y.flip(1), [5, 5]),
    "chosen by sample": (
        lambda y: y[torch.arange(2)[:, None], torch.tensor([[2, 4], [3, 1]])],
        [2, 3],
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_terms_of_some_tokens_lie_at_those(name: str) -> None:
    function, first = CUTS[name]
    got = attribute_tokens(Cut(function), IDS, 0)
    check_sum(got)
    assert got.bias_scores.abs().gt(1e-12).nonzero().tolist() == [
        [i, t] for i, t in enumerate(first)
    ]
    drawn = token_saliency(Cut(function), IDS, 0, terms="bias")
    assert drawn.abs().gt(1e-12).nonzero().tolist() == [[i, t] for i, t in enumerate(first)]


class Hierarchical(nn.Module):
    """Words make sentences, sentences make the text."""

    def __init__(self, how: str = "whole") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.embed = nn.Embedding(20, 6)
        self.words, self.sentences = nn.Linear(6, 5), nn.Linear(5, 4)
        self.head = nn.Linear(4, 2)
        self.double()

    def looked_up(self, ids: Tensor) -> Tensor:
        if self.how == "flat":
            return self.embed(ids.flatten()).view(*ids.shape, 6)
        if self.how == "folded":
            return self.embed(ids.flatten(0, 1)).view(*ids.shape, 6)
        if self.how == "one by one":
            return torch.stack([self.embed(ids[:, i]) for i in range(ids.shape[1])], 1)
        return self.embed(ids)

    def forward(self, ids: Tensor) -> Tensor:
        words = F.silu(self.words(self.looked_up(ids)))
        sentences = F.silu(self.sentences(words.mean(2)))
        out: Tensor = self.head(sentences.mean(1))
        return out


def texts() -> Tensor:
    return torch.randint(
        20, (2, 3, 4), generator=torch.Generator(torch.get_default_device()).manual_seed(1)
    )


@pytest.mark.parametrize("how", ["whole", "flat", "folded"])
def test_ids_of_sentences(how: str) -> None:
    model, x = Hierarchical(how), texts()
    got = attribute_tokens(model, x, 1)
    check_sum(got)
    assert got.scores.shape == got.bias_scores.shape == got.total.shape == x.shape
    assert "tokens=3x4" in repr(got) and "token 2.3" in got._repr_html_()
    embedded = model.embed(x).detach().requires_grad_()
    words = F.silu(model.words(embedded))
    inner = words.mean(2).detach().requires_grad_()
    sentences = F.silu(model.sentences(words.mean(2)))
    out = model.head(sentences.mean(1))[:, 1]
    (gradient,) = torch.autograd.grad(out.sum(), embedded, retain_graph=True)
    torch.testing.assert_close(got.scores, (gradient * embedded).sum(-1).detach())
    # All but the words' own terms: those of a sentence are shared evenly among its words.
    head = model.head(F.silu(model.sentences(inner)).mean(1))[:, 1]
    (slope,) = torch.autograd.grad(head.sum(), inner)
    share = slope[:, :, None] / 4
    own = (share * words).sum(-1) - (gradient * embedded).sum(-1)
    last = model.head.weight[1] / 3
    whole = (last * sentences).sum(-1) - (slope * inner).sum(-1)
    torch.testing.assert_close(got.bias_scores, (own + whole[:, :, None] / 4).detach())
    torch.testing.assert_close(got.elsewhere, model.head.bias[1].detach().expand(2))


def test_saliency_of_sentences_is_the_map_of_the_embedded_text() -> None:
    model, x = Hierarchical(), texts()
    got = token_saliency(model, x, 1)
    assert got.shape == x.shape and float(got.min()) >= 0

    class After(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, embedded: Tensor) -> Tensor:
            words = F.silu(self.model.words(embedded))
            out: Tensor = self.model.head(F.silu(self.model.sentences(words.mean(2))).mean(1))
            return out

    embedded = model.embed(x).detach()
    expected = fullgrad.saliency(After(), embedded, 1, layout="BPTC")
    torch.testing.assert_close(got, expected[:, 0])


def test_sentences_that_are_looked_up_one_by_one_are_refused() -> None:
    with pytest.raises(ModelError, match=r"of shape \(2, 3, 4\), .*of shape \(2, 4\).*'BPTC'"):
        attribute_tokens(Hierarchical("one by one"), texts(), 1)
