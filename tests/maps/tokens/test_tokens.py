"""Token attributions: exact sums, naive oracles, and the model given back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import CompletenessError, InputError, LayoutError, ModelError
from fullgrad.maps.tokens.attribution import attribute_tokens, token_saliency
from fullgrad.maps.tokens.embeddings import Embedded, embed, token_embedding
from fullgrad.maps.tokens.sinks import spread
from networks import CHANNELS, TOKENS, WORDS, Classifier, classifier, ids, mask_of
from snippets import check_sum

# -- models of one's own ---------------------------------------------------------------------


def naive(model: Classifier, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Gradient times embedding with a model that is the part after the embedding."""
    embedded = model.embed.weight.detach()[x].requires_grad_()

    class After(nn.Embedding):
        def forward(self, asked: Tensor) -> Tensor:
            return embedded.transpose(0, 1) if asked.shape != x.shape else embedded

    body, own = model.eval(), model.embed
    model.embed = After(1, 1)
    try:
        output = body(x)[:, target]
    finally:
        model.embed = own
    (gradient,) = torch.autograd.grad(output.sum(), embedded)
    return (gradient * embedded).sum(2).detach(), output.detach()


@pytest.mark.parametrize("kind", ["transformer", "mlp", "lstm", "gru", "conv"])
def test_own_models(kind: str) -> None:
    model, x = classifier(kind), ids()
    got = attribute_tokens(model, x, 1)
    scores, output = naive(model, x, 1)
    check_sum(got)
    torch.testing.assert_close(got.scores, scores)
    torch.testing.assert_close(got.output, output)
    alone = attribute_tokens(model, x[1:2], 1)
    torch.testing.assert_close(alone.total, got.total[1:2])
    torch.testing.assert_close(alone.elsewhere, got.elsewhere[1:2])


def test_bias_scores_are_sums_of_the_terms() -> None:
    model, x = classifier("mlp"), ids()
    got = attribute_tokens(model, x, 1)
    d = fullgrad.decompose(
        Embedded(model, model.embed), embed(model.embed, x), 1, additional_forward_args=x
    )
    here = torch.zeros(3, TOKENS, dtype=torch.float64)
    elsewhere = torch.zeros(3, dtype=torch.float64)
    for term in d.bias_terms:
        assert term.module.partition(".")[0] in ("body", "head")  # the user's paths
        if term.module.startswith("body"):
            here += term.value.reshape(3, TOKENS, -1).sum(2)
        else:
            elsewhere += term.value.sum(1)
    torch.testing.assert_close(got.bias_scores, here)
    torch.testing.assert_close(got.elsewhere, elsewhere)


def test_steps_of_a_recurrent_layer_lie_elsewhere() -> None:
    model, x = classifier("lstm"), ids()
    got = attribute_tokens(model, x, 1)
    d = fullgrad.decompose(
        Embedded(model, model.embed),
        embed(model.embed, x),
        1,
        additional_forward_args=x,
        layout="BTC",
    )
    # What a layer does with its input, of either direction of two layers; the rest is of steps.
    body = d.select("body")
    steps = [t for t in body if t.axes is not None and any(a.step for a in t.axes.groups[0])]
    whole = [t for t in body if t not in steps]
    assert all(t.shape[:2] == (TOKENS, 3) for t in steps)
    assert len(whole) == 4
    here = torch.stack([t.value.reshape(TOKENS, 3, -1).sum(2).t() for t in whole]).sum(0)
    torch.testing.assert_close(got.bias_scores, here)
    torch.testing.assert_close(got.elsewhere, d.bias_sums - here.sum(1))


def test_saliency_is_the_map_of_the_embedded_model() -> None:
    model, x = classifier(), ids()
    embedded, wrapped = embed(model.embed, x), Embedded(model, model.embed)
    for options in (
        {},
        {"psi": "channel"},
        {"psi": "signed"},
        {"terms": "input"},
        {"terms": "implicit"},
        {"terms": "body.linear1"},
    ):
        got = token_saliency(model, x, 1, **options)
        expected = fullgrad.saliency(
            wrapped, embedded, 1, additional_forward_args=x, layout="BTC", **options
        )
        torch.testing.assert_close(got, expected[:, 0])
    signed = token_saliency(model, x, 1, psi="signed")
    torch.testing.assert_close(signed, attribute_tokens(model, x, 1).total)
    strided = token_saliency(classifier("conv"), x, 1)
    assert strided.shape == x.shape
    assert (strided >= 0).all()


def test_one_token() -> None:
    got = attribute_tokens(classifier(), ids(2, 1), 1)
    check_sum(got)
    assert got.scores.shape == (2, 1)
    assert (got.bias_scores != 0).all()


def test_options_of_the_embedding() -> None:
    x = ids()
    x[:, 4:] = 0
    plain = attribute_tokens(classifier(padding_idx=0), x, 1)
    check_sum(plain)
    assert (plain.scores[:, 4:] == 0).all()  # the padding's embedding is zero
    assert (plain.bias_scores[:, 4:] != 0).all()
    sparse = attribute_tokens(classifier(padding_idx=0, sparse=True), x, 1)
    torch.testing.assert_close(sparse.total, plain.total)
    frozen = classifier(padding_idx=0).requires_grad_(False)
    torch.testing.assert_close(attribute_tokens(frozen, x, 1).total, plain.total)
    torch.testing.assert_close(attribute_tokens(frozen, x.int(), 1).total, plain.total)


def test_arguments_after_the_ids() -> None:
    model, x = classifier("mlp"), ids()
    mask = mask_of(x, 6, 4, 5).double()
    by_place = attribute_tokens(model, x, 1, additional_forward_args=mask)
    by_tuple = attribute_tokens(model, x, 1, additional_forward_args=(mask,))
    by_name = attribute_tokens(model, x, 1, forward_kwargs={"mask": mask})
    for got in (by_place, by_tuple, by_name):
        check_sum(got)
        torch.testing.assert_close(got.total, by_place.total)
    assert (by_place.total[1, 4:] == 0).all()


class Reader(nn.Module):
    """Looks tokens up in the way that a test asks for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.tokens, self.kinds = nn.Embedding(WORDS, 4), nn.Embedding(2, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        w = self.tokens.weight
        looked_up = {
            "module": lambda: self.tokens(x),
            "functional": lambda: F.embedding(x, w),
            "keywords": lambda: F.embedding(weight=w, input=x),
            "torch": lambda: torch.embedding(w, x),
            "flat": lambda: self.tokens(x.flatten()).view(*x.shape, 4),
            "twice": lambda: self.tokens(x).add_(1) * self.tokens(x),
            "indexed": lambda: w[x],
            "shifted": lambda: self.tokens(x.roll(1, 1)),
            "beheaded": lambda: self.tokens(x[:, 1:]),
            "mixed": lambda: self.tokens(x.t().contiguous()).transpose(0, 1),
            "failing": lambda: self.tokens(x) @ w,
        }[self.how]()
        return self.out((looked_up + self.kinds(torch.zeros_like(x[:, :1]))).tanh().mean(1))


def reader(how: str) -> Reader:
    torch.manual_seed(1)
    return Reader(how).double()


def test_ways_to_look_up() -> None:
    x = ids()
    expected = attribute_tokens(reader("module"), x, 1, embedding="tokens")
    check_sum(expected)
    for how in ("functional", "keywords", "torch", "flat", "mixed"):
        model = reader(how)
        got = attribute_tokens(model, x, 1, embedding=model.tokens)
        torch.testing.assert_close(got.total, expected.total)
    twice = reader("twice")
    got = attribute_tokens(twice, x, 1, embedding="tokens")
    check_sum(got)
    e = twice.tokens.weight.detach()[x].requires_grad_()
    kinds = twice.kinds.weight.detach()[0]
    out = twice.out(((e + 1) * e + kinds).tanh().mean(1))[:, 1]
    (gradient,) = torch.autograd.grad(out.sum(), e)
    torch.testing.assert_close(got.scores, (gradient * e).sum(2).detach())


@pytest.mark.parametrize(
    ("how", "asked"),
    [
        ("indexed", "it did not call it"),
        ("shifted", r"it asked for others, of shape \(3, 6\)"),
        ("beheaded", r"it asked for others, of shape \(3, 5\)"),
    ],
)
def test_ids_that_are_not_looked_up(how: str, asked: str) -> None:
    with pytest.raises(ModelError, match=asked) as caught:
        attribute_tokens(reader(how), ids(), 1, embedding="tokens")
    message = str(caught.value)
    assert "the given ids, of shape (3, 6), up in the embedding 'tokens'" in message
    assert "explain the embedded tokens yourself: fullgrad.decompose(" in message


def test_ids_of_one_sample_read_as_anothers() -> None:
    class Mixed(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            looked_up = self.embed(x.t().contiguous()).transpose(0, 1)
            return self.head((looked_up * torch.tensor([1, 3.0])[:, None]).tanh().sum(1))

    torch.manual_seed(0)
    model = Mixed().double()
    check_sum(attribute_tokens(model, torch.tensor([[1, 2], [3, 4]]), 1))
    # Symmetric ids: the transposed lookup looks like a plain one.
    with pytest.raises(CompletenessError, match="reads the ids of one sample as another's"):
        attribute_tokens(model, torch.tensor([[1, 2], [2, 3]]), 1)
    with pytest.raises((CompletenessError, LayoutError)):
        token_saliency(model, torch.tensor([[1, 2], [2, 3]]), 1)
    with pytest.raises(CompletenessError, match="reads the ids of one sample as another's"):
        token_saliency(model, torch.tensor([[1, 2], [2, 3]]), 1, terms="input")


def test_complex_numbers_and_half_precision() -> None:
    class Spectrum(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            waves = torch.fft.fft(self.embed(x), dim=2)
            return self.head((waves * (0.5 + 1j) + 2).abs().tanh().mean(1))

    torch.manual_seed(0)
    model, x = Spectrum("mlp").double(), ids()
    got = attribute_tokens(model, x, 1)
    check_sum(got)
    assert got.bias_scores.dtype == torch.float64
    half = attribute_tokens(classifier("mlp").bfloat16(), x, 1)
    check_sum(half, 3e-2)
    assert half.scores.dtype == torch.float64


# -- which embedding -------------------------------------------------------------------------


def test_which_embedding() -> None:
    model = reader("module")
    with pytest.raises(
        ModelError,
        match=r"which nn.Embedding holds the tokens\? The model has: "
        "'tokens', 'kinds'. Name the one",
    ):
        attribute_tokens(model, ids(), 1)
    with pytest.raises(ModelError, match="has: none"):
        token_embedding(nn.Linear(2, 2), None)
    with pytest.raises(
        ModelError, match=r"'out' is not an nn.Embedding of the model; it has: 'tok"
    ):
        attribute_tokens(model, ids(), 1, embedding="out")
    with pytest.raises(ModelError, match="the given embedding is no"):
        attribute_tokens(model, ids(), 1, embedding=nn.Embedding(2, 2))
    with pytest.raises(ModelError, match="'tokens' has max_norm, which rewrites its weight"):
        model.tokens.max_norm = 1.0
        attribute_tokens(model, ids(), 1, embedding="tokens")
    model = reader("module")
    nn.utils.parametrizations.orthogonal(model.tokens)
    with pytest.raises(ModelError, match="'tokens' is computed again at every lookup"):
        attribute_tokens(model, ids(), 1, embedding="tokens")


def test_what_the_model_declares() -> None:
    model = reader("module")
    model.get_input_embeddings = lambda: model.tokens
    assert token_embedding(model, None) is model.tokens

    def undeclared() -> nn.Module:
        raise NotImplementedError

    only = classifier()
    for declare in (undeclared, lambda: only.head):
        only.get_input_embeddings = declare
        assert token_embedding(only, None) is only.embed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 2]], "input_ids must be a tensor, not list"),
        (torch.rand(1, 2), r"input_ids must be integers \(int64 or int32\), not torch.float32"),
        (torch.ones(2, dtype=torch.long), r"\(batch, sentences, tokens\), not \(2,\)"),
        (
            torch.ones(2, 0, dtype=torch.long),
            r"must have shape \(batch, tokens\) or .* not \(2, 0\)",
        ),
        (torch.tensor([[1, WORDS]]), "run from 1 to 20, but the embedding has 20 rows"),
        (torch.tensor([[-1, 1]]), "run from -1 to 1, but the embedding has 20 rows"),
    ],
)
def test_ids_that_cannot_be_embedded(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attribute_tokens(classifier(), given, 1)


def test_other_errors() -> None:
    model, x = classifier(), ids()
    for name in ("input_ids", "inputs_embeds"):
        with pytest.raises(InputError, match=f"forward_kwargs holds '{name}', but the model is"):
            attribute_tokens(model, x, 1, forward_kwargs={name: x})
    with pytest.raises(ValueError, match="tolerance must be positive, not -1"):
        attribute_tokens(model, x, 1, tolerance=-1)
    with pytest.raises(CompletenessError, match="the terms do not sum to the output"):
        attribute_tokens(model, x, 1, tolerance=1e-30)
    with pytest.raises(ValueError, match="mode must be 'eval' or 'as_is', not 'train'"):
        attribute_tokens(model, x, 1, mode="train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="psi must be one of layer, channel, signed, not 'abs'"):
        token_saliency(model, x, 1, psi="abs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"terms must be one of .*, not 'model.body'"):
        token_saliency(model, x, 1, terms="model.body")
    with pytest.raises(ModelError, match=r"must be a torch.nn.Module"):
        attribute_tokens(len, x, 1)  # type: ignore[arg-type]


def test_errors_name_the_modules_of_the_user() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.detach()

    model = classifier("mlp")
    model.body.append(Cut())
    with pytest.raises(fullgrad.FullGradError, match=r"(?<![\w.])body\.3"):
        attribute_tokens(model, ids(), 1)


# -- the model is given back -----------------------------------------------------------------


def state(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    for name, m in model.named_modules():
        found.append(
            (
                name,
                id(m),
                m.training,
                sorted(m.__dict__),
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
            )
        )
    for name, p in (*model.named_parameters(), *model.named_buffers()):
        found.append((name, id(p), p.requires_grad, p._version, p.sum().item(), p.grad))
    return [*found, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("how", ["module", "shifted", "failing"])
@pytest.mark.parametrize("call", [attribute_tokens, token_saliency])
def test_the_model_is_given_back(how: str, call: Callable[..., Any]) -> None:
    model, x = reader(how).train(), ids()
    model.out.bias.requires_grad_(False)
    before, kept = state(model), x.clone()
    if how == "module":
        call(model, x, 1, embedding="tokens")
    else:
        with pytest.raises((ModelError, RuntimeError)):
            call(model, x, 1, embedding="tokens")
    assert state(model) == before
    assert torch.equal(x, kept)
    plain = reader("module")(x)
    assert torch.equal(reader("module")(x), plain)  # lookups are answered by the model again


def test_hooks_of_the_user_run() -> None:
    model, seen = classifier(), []
    model.embed.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    attribute_tokens(model, ids(), 1)
    assert seen == [(3, TOKENS, CHANNELS)]
    assert len(model.embed._forward_hooks) == 1


def test_spread() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    assert spread(values, [3]) is values
    torch.testing.assert_close(spread(values, [2]), torch.tensor([[2.0, 5.0]]).double())
    wide = spread(values, [5])
    # weights of the middle position: 1/2, 1, 1/2; of the outer ones: 1, 1/2
    expected = [1 * 2 / 3, 1 / 3 + 0.5, 1.0, 0.5 + 4 / 3, 4 * 2 / 3]
    torch.testing.assert_close(wide, torch.tensor([expected]).double())
    for tokens in (2, 4, 7, 11):
        torch.testing.assert_close(spread(values, [tokens]).sum(1), values.sum(1))
