"""Token attributions of models of the transformers package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError, TargetError
from fullgrad.maps.tokens.attribution import attribute_tokens, token_saliency
from fullgrad.maps.tokens.embeddings import embed, token_embedding
from networks import CHANNELS, WORDS, ids, mask_of
from snippets import check_sum

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
    got = attribute_tokens(model, x, (1, 3), forward_kwargs=kwargs)
    check_sum(got, 1e-5)
    assert (got.elsewhere != 0).all()
    # The decoder's tokens are looked up in the same embedding, and are constants: what is
    # computed there lies at none of the encoder's tokens.
    model.eval()
    embedded = model.shared.weight.detach()[x].requires_grad_()
    logits = model(inputs_embeds=embedded, **kwargs).logits
    (gradient,) = torch.autograd.grad(logits[:, 1, 3].sum(), embedded)
    torch.testing.assert_close(got.scores, (gradient * embedded).sum(2).detach())
    assert token_saliency(model, x, (1, 3), forward_kwargs=kwargs).shape == x.shape


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
    got = attribute_tokens(model, x, 1, activation_layouts=places)
    check_sum(got)
    assert (got.bias_scores != 0).all()
    assert token_saliency(model, x, 1, activation_layouts=places).shape == x.shape


def test_the_declared_embedding_of_a_transformer() -> None:
    assert token_embedding(bert(), None).num_embeddings == WORDS
