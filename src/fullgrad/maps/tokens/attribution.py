"""Token attributions of text models, exact: they sum to the explained output.

The full-gradient (Srinivas & Fleuret 2019, proposition 1) with the token embedding's output as the
input: f = sum over tokens of <grad f, embedding> + sum of the bias terms. Everything that is added
after the lookup (position and token type embeddings, layer-norm and other layers' biases) is bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts
from fullgrad.engine.inputs import check_keywords
from fullgrad.engine.lending import as_tuple
from fullgrad.engine.pipeline import explain
from fullgrad.engine.request import Detached, Mode, Request
from fullgrad.engine.targets import Target
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError
from fullgrad.maps.aggregation import Psi, check_psi
from fullgrad.maps.selection import Terms, paths_in, selection
from fullgrad.maps.tokens.embeddings import Embedded, embed, token_embedding
from fullgrad.maps.tokens.sinks import DrawTokens, SumTokens, TokenScores
from fullgrad.operations.linearization import Linearization, Named


@takes_options("attribute_tokens", places="activation_layouts")
def attribute_tokens(
    model: nn.Module,
    input_ids: Tensor | Mapping[str, Any],
    target: Target = None,
    *,
    embedding: nn.Embedding | str | None = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "eval",
    detached: Detached = "error",
    tolerance: float | None = None,
    activation_layouts: ActivationLayouts | None = None,
    linearization: Named | Linearization = "jacobian",
) -> TokenScores:
    """Split a text model's output exactly over the tokens of its input.

    Args:
        model: takes ``input_ids`` first and looks them up in an ``nn.Embedding``. It is given
            back as it was, after failures too.
        input_ids: integers, shape (B, T); (B, sentences, T) of a model that reads texts sentence
            by sentence and looks all of them up in one call. A term of a whole sentence is shared
            among its tokens. Or what a tokenizer returns, with ``input_ids`` and all else that the
            model takes by keyword.
        target: the explained scalar, as for :func:`fullgrad.decompose`; for logits of shape
            (B, T, vocabulary) a tuple (position, token), or one per sample.
        embedding: of the tokens: a module of the model or its path; None for what
            ``model.get_input_embeddings()`` returns, or else for the only ``nn.Embedding``. Every
            lookup of ``input_ids`` in it is explained; lookups of other ids (a decoder's that
            shares it) are constants.
        additional_forward_args: a value or tuple passed after the ids.
        forward_kwargs: keyword arguments, ``attention_mask`` for example.
        mode: see :func:`fullgrad.decompose`.
        detached: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        activation_layouts: layouts that axis propagation cannot follow, in the letters of
            ``BTC`` (``BPTC`` with P sentences); see :func:`fullgrad.decompose`.
        linearization: see :func:`fullgrad.decompose`.

    Returns:
        The scores, their sum proved. A term on a coarser or finer sequence (strided convolutions)
        is spread linearly over the tokens that it lies between, its sum kept.

    Raises:
        InputError: ids that are not integers of such a shape, or out of range.
        ModelError: no such embedding, or the model does not look the ids up in it.
        LayoutError: it is not known at which token a term lies.
        CompletenessError: the terms do not sum to the output.
        FullGradError: as :func:`fullgrad.decompose`.

    Example:
        >>> import torch
        >>> from fullgrad.maps.tokens import attribute_tokens
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)
        ...     def forward(self, ids):
        ...         return self.head(self.embed(ids).mean(1))
        >>> scores = attribute_tokens(Model(), torch.tensor([[3, 1, 4]]), target=0)
        >>> scores.total.shape
        torch.Size([1, 3])
        >>> torch.allclose(scores.sums, scores.output.double(), atol=1e-5)
        True
    """
    request = _request(
        model,
        input_ids,
        target,
        embedding=embedding,
        additional_forward_args=additional_forward_args,
        forward_kwargs=forward_kwargs,
        mode=mode,
        detached=detached,
        tolerance=tolerance,
        activation_layouts=activation_layouts,
        linearization=linearization,
    )
    return explain(request, SumTokens)


@takes_options("token_saliency", places="activation_layouts")
def token_saliency(
    model: nn.Module,
    input_ids: Tensor | Mapping[str, Any],
    target: Target = None,
    *,
    embedding: nn.Embedding | str | None = None,
    psi: Psi = "layer",
    terms: Terms = "all",
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "eval",
    detached: Detached = "error",
    tolerance: float | None = None,
    activation_layouts: ActivationLayouts | None = None,
    linearization: Named | Linearization = "jacobian",
) -> Tensor:
    """The FullGrad saliency of each token (Srinivas & Fleuret 2019, equation 4).

    Args:
        model: see :func:`attribute_tokens`.
        input_ids: see :func:`attribute_tokens`.
        target: see :func:`attribute_tokens`.
        embedding: see :func:`attribute_tokens`.
        psi: see :func:`fullgrad.saliency`.
        terms: see :func:`fullgrad.saliency`.
        additional_forward_args: see :func:`attribute_tokens`.
        forward_kwargs: see :func:`attribute_tokens`.
        mode: see :func:`fullgrad.decompose`.
        detached: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        activation_layouts: see :func:`attribute_tokens`.
        linearization: see :func:`fullgrad.decompose`.

    Returns:
        Of the ids' shape, float64, not negative unless psi is ``signed``. The sizes of terms,
        rescaled: it does not sum to the output. Terms that :class:`TokenScores` counts
        ``elsewhere`` have no part in it.

    Raises:
        FullGradError: as :func:`attribute_tokens`.
        ValueError: an unknown psi or selection of terms.
    """
    check_psi(psi)
    request = _request(
        model,
        input_ids,
        target,
        embedding=embedding,
        additional_forward_args=additional_forward_args,
        forward_kwargs=forward_kwargs,
        mode=mode,
        detached=detached,
        tolerance=tolerance,
        activation_layouts=activation_layouts,
        linearization=linearization,
    )
    chosen = selection(terms, paths_in(request.model))
    return explain(request, partial(DrawTokens, psi=psi, chosen=chosen))


def _request(
    model: nn.Module,
    input_ids: Tensor | Mapping[str, Any],
    target: Target,
    *,
    embedding: nn.Embedding | str | None,
    additional_forward_args: Any,
    forward_kwargs: Mapping[str, Any] | None,
    mode: Mode,
    detached: Detached,
    tolerance: float | None,
    activation_layouts: ActivationLayouts | None,
    linearization: Named | Linearization,
) -> Request:
    """The call of the model of embedded tokens."""
    check_keywords(forward_kwargs)
    if isinstance(input_ids, Mapping):  # what a tokenizer returned
        if "input_ids" not in input_ids:
            raise InputError(f"the batch has no input_ids; it has: {', '.join(input_ids)}")
        rest = {name: value for name, value in input_ids.items() if name != "input_ids"}
        both = [name for name in rest if name in (forward_kwargs or {})]
        if both:
            raise InputError(f"given both in the batch and in forward_kwargs: {', '.join(both)}")
        forward_kwargs = {**rest, **(forward_kwargs or {})}
        input_ids = input_ids["input_ids"]
    twice = [name for name in ("input_ids", "inputs_embeds") if name in (forward_kwargs or {})]
    if twice:
        raise InputError(
            f"forward_kwargs holds {twice[0]!r}, but the model is given input_ids already"
        )
    model = unwrap(model)
    chosen = token_embedding(model, embedding)
    embedded = embed(chosen, input_ids)
    return Request(
        Embedded(model, chosen),
        embedded,
        target,
        (input_ids, *as_tuple(additional_forward_args)),
        forward_kwargs,
        mode,
        detached=detached,
        tolerance=tolerance,
        layout="BTC" if embedded.dim() == 3 else "BPTC",
        activation_layouts=activation_layouts,
        linearization=linearization,
        takes_per_sample=False,
    )
