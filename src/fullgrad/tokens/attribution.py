"""Token attributions of text models, exact: they sum to the explained output.

The full-gradient (Srinivas & Fleuret 2019, proposition 1) with the token embedding's output as the
input: f = sum over tokens of <grad f, embedding> + sum of the bias terms. Everything that is added
after the lookup (position and token type embeddings, layer-norm and other layers' biases) is bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullgrad.axes.algebra import NOWHERE
from fullgrad.axes.broadcasting import resolved
from fullgrad.axes.layouts import Places
from fullgrad.axes.placement import Placement
from fullgrad.engine import backward
from fullgrad.engine import verification as completeness
from fullgrad.engine.pipeline import Request, Totals, Traced, explain
from fullgrad.engine.tape import Entry
from fullgrad.engine.targets import Target
from fullgrad.engine.terms import Term
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import CompletenessError, InputError, LayoutError
from fullgrad.maps.aggregation import PSI, Psi, placements_for, reduced, rescaled_sum, upsample
from fullgrad.maps.selection import Selection, Terms, selection
from fullgrad.tokens.embeddings import Embedded, embed, token_embedding

_EVERY_TERM = selection("all")


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """An output as a sum over tokens.

    ``scores.sum(1) + bias_scores.sum(1) + elsewhere + residual == output``.

    Args:
        scores: the input term: gradient times embedding, summed over channels; (B, T), float64.
        bias_scores: the bias terms that lie at each token's position, summed; (B, T), float64.
            Positions inside the network mix tokens: this says where in the sequence, not from
            which word.
        elsewhere: the bias terms that lie at no token: what is computed from pooled tokens, from
            one that was picked (a classifier on ``[CLS]``), or step by step in a recurrent layer;
            (B,), float64.
        output: the explained scalars, shape (B,).
        residual: output minus all the terms, shape (B,), float64; proved to be rounding.
        scale: what the residual is relative to: |output| plus the absolute sums of all terms.
        target: class index of each sample, shape (B,), if the target was one.
        tolerance: largest accepted relative residual.
    """

    scores: Tensor
    bias_scores: Tensor
    elsewhere: Tensor
    output: Tensor
    residual: Tensor
    scale: Tensor
    target: Tensor | None
    tolerance: float

    @property
    def total(self) -> Tensor:
        """Input and bias terms at each token's position together, shape (B, T)."""
        return self.scores + self.bias_scores

    @property
    def sums(self) -> Tensor:
        """The sum of all terms, shape (B,): the output less the residual."""
        return self.total.sum(1) + self.elsewhere

    @property
    def relative_residual(self) -> Tensor:
        """|residual| / scale, shape (B,)."""
        return self.residual.abs() / self.scale

    def __repr__(self) -> str:
        return (
            f"TokenScores(batch={len(self.output)}, tokens={self.scores.shape[1]}, "
            f"relative_residual={float(self.relative_residual.max()):.1e})"
        )

    def _repr_html_(self) -> str:
        from fullgrad.report.display import token_scores_html

        return token_scores_html(self)


def attribute_tokens(
    model: nn.Module,
    input_ids: Tensor,
    target: Target = None,
    *,
    embedding: nn.Embedding | str | None = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Literal["eval", "as_is"] = "eval",
    tolerance: float | None = None,
    places: Places | None = None,
) -> TokenScores:
    """Split a text model's output exactly over the tokens of its input.

    Args:
        model: takes ``input_ids`` first and looks them up in an ``nn.Embedding``. It is given
            back as it was, after failures too.
        input_ids: integers, shape (B, T).
        target: the explained scalar, as for :func:`fullgrad.decompose`; for logits of shape
            (B, T, vocabulary) a tuple (position, token), or one per sample.
        embedding: of the tokens: a module of the model or its path; None for what
            ``model.get_input_embeddings()`` returns, or else for the only ``nn.Embedding``. Every
            lookup of ``input_ids`` in it is explained; lookups of other ids (a decoder's that
            shares it) are constants.
        additional_forward_args: a value or tuple passed after the ids.
        forward_kwargs: keyword arguments, ``attention_mask`` for example.
        mode: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        places: layouts that cannot be followed, in the letters of ``BTC``; see
            :func:`fullgrad.decompose`.

    Returns:
        The scores, their sum proved. A term on a coarser or finer sequence (strided convolutions)
        is spread linearly over the tokens that it lies between, its sum kept.

    Raises:
        InputError: ids that are not integers of shape (B, T), or out of range.
        ModelError: no such embedding, or the model does not look the ids up in it.
        LayoutError: it is not known at which token a term lies.
        CompletenessError: the terms do not sum to the output.
        FullGradError: as :func:`fullgrad.decompose`.
    """
    request = _request(
        model,
        input_ids,
        target,
        embedding,
        additional_forward_args,
        forward_kwargs,
        mode,
        tolerance,
        places,
    )
    traced, totals, consumer = explain(request, _Tokens)
    scores = _input_term(traced, totals).sum(2)
    output = traced.output.detach()
    terms = [scores.sum(1), consumer.at_tokens.sum(1), consumer.elsewhere]
    residual, _ = completeness.balance(output, terms)
    _prove(residual, totals)
    consumer.check()
    return TokenScores(
        scores=scores,
        bias_scores=consumer.at_tokens,
        elsewhere=consumer.elsewhere,
        output=output,
        residual=residual,
        scale=totals.scale,
        target=traced.selected.index,
        tolerance=totals.tolerance,
    )


def token_saliency(
    model: nn.Module,
    input_ids: Tensor,
    target: Target = None,
    *,
    embedding: nn.Embedding | str | None = None,
    psi: Psi = "layer",
    terms: Terms = "all",
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Literal["eval", "as_is"] = "eval",
    tolerance: float | None = None,
    places: Places | None = None,
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
        tolerance: see :func:`fullgrad.decompose`.
        places: see :func:`attribute_tokens`.

    Returns:
        Shape (B, T), float64, not negative unless psi is ``signed``. The sizes of terms, rescaled:
        it does not sum to the output. Terms that :class:`TokenScores` counts ``elsewhere`` have
        no part in it.

    Raises:
        FullGradError: as :func:`attribute_tokens`.
        ValueError: an unknown psi or selection of terms.
    """
    _check_psi(psi)
    request = _request(
        model,
        input_ids,
        target,
        embedding,
        additional_forward_args,
        forward_kwargs,
        mode,
        tolerance,
        places,
    )
    chosen = selection(terms, [name for name, _ in request.model.named_modules()])
    traced, totals, consumer = explain(request, lambda traced: _Tokens(traced, psi, chosen))
    consumer.check()
    if chosen.input:
        consumer.at_tokens += rescaled_sum(_input_term(traced, totals), [2], psi)
    result: Tensor = consumer.at_tokens
    return result


def _check_psi(psi: str) -> None:
    if psi not in PSI:
        raise ValueError(f"psi must be one of {', '.join(PSI)}, not {psi!r}")


def _request(
    model: nn.Module,
    input_ids: Tensor,
    target: Target,
    embedding: nn.Embedding | str | None,
    additional_forward_args: Any,
    forward_kwargs: Mapping[str, Any] | None,
    mode: Literal["eval", "as_is"],
    tolerance: float | None,
    places: Places | None,
) -> Request:
    """The call of the model of embedded tokens."""
    twice = [name for name in ("input_ids", "inputs_embeds") if name in (forward_kwargs or {})]
    if twice:
        raise InputError(
            f"forward_kwargs holds {twice[0]!r}, but the model is given input_ids already"
        )
    model = unwrap(model)
    chosen = token_embedding(model, embedding)
    extra = additional_forward_args
    rest = extra if isinstance(extra, tuple) else () if extra is None else (extra,)
    return Request(
        Embedded(model, chosen),
        embed(chosen, input_ids),
        target,
        (input_ids, *rest),
        forward_kwargs,
        mode,
        tolerance=tolerance,
        layout="BTC",
        places=places,
    )


def _input_term(traced: Traced, totals: Totals) -> Tensor:
    """Gradient times embedding, shape (B, T, C), its samples' sums proved."""
    gradient, leaf = totals.input_gradients[0], traced.prepared.leaves[0].detach()
    value = backward.product(_wide(gradient), _wide(leaf), False).to(traced.output.device)
    _prove(totals.input_sums - value.sum((1, 2)), totals)
    return value


def _prove(residual: Tensor, totals: Totals) -> None:
    """Refuse numbers that do not add up sample by sample."""
    if not completeness.holds(residual, totals.scale, totals.tolerance):
        raise CompletenessError(
            "the terms sum to the output, but not those that lie at each sample's tokens "
            f"(relative residual {float((residual.abs() / totals.scale).max()):.1e}): the model "
            "reads the ids of one sample as another's. Explain one sample at a time."
        )


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


class _Tokens:
    """Sums each term at the tokens where it lies, and lets the term go.

    Args:
        traced: the recorded forward.
        psi: what is summed of a term.
        chosen: the terms that count.
    """

    def __init__(
        self, traced: Traced, psi: Psi = "signed", chosen: Selection = _EVERY_TERM
    ) -> None:
        self._bindings, self._grids = traced.tape.bindings, traced.layouts.grids
        self._batch, self._tokens = len(traced.output), self._grids[0].sizes[0]
        self._psi, self._chosen = psi, chosen
        device = traced.output.device
        self.at_tokens = torch.zeros(self._batch, self._tokens, dtype=torch.float64, device=device)
        self.elsewhere = torch.zeros(self._batch, dtype=torch.float64, device=device)
        self._unknown = ""

    def term(self, term: Term) -> Tensor:
        entry = term.entry
        counts = self._chosen.wants(entry.bias.kind, entry.module)
        place = self._place(entry) if counts else None
        sums, maps = [], []
        for gradient, bias, samples, _ in term.parts():
            value = backward.product(_wide(gradient), _wide(bias), term.may_be_infinite)
            sums.append(term.sums(value, samples))
            if place is not None:
                maps.append(reduced(value, place, self._psi).squeeze(1))
        total = torch.cat(sums).to(self.elsewhere.device)
        if place is None:
            self.elsewhere += total
            return total
        at = torch.cat(maps).to(self.elsewhere.device)
        if place.places is not None and bool((place.places == NOWHERE).any()):
            self.elsewhere += total - at.sum(1)
        if self._psi == "signed":
            self.at_tokens += spread(at, self._tokens)
        else:
            self.at_tokens += upsample(at.unsqueeze(1), (self._tokens,)).squeeze(1)
        return total

    def _place(self, entry: Entry) -> Placement | None:
        """How to read a term token by token; None if it lies at none."""
        axes = None if entry.axes is None else resolved(entry.axes, self._bindings)
        try:
            place = placements_for(
                axes, entry.module, entry.op, entry.shape, self._batch, self._grids
            )[0]
        except LayoutError:  # terms come last to first: the first is where it was lost
            with_tokens, without = _examples(entry.shape, self._batch)
            self._unknown = (
                f"it is not known at which token the numbers of {entry.op} in "
                f"{entry.module or 'the model'} (shape {tuple(entry.shape)}) lie. State what its "
                f"axes hold, as in places={{{entry.module!r}: {with_tokens!r}}}, or "
                f"{without!r}, without T, if they lie at no token of input_ids"
            )
            return None
        return None if place is None or self._single(place) else place

    def _single(self, place: Placement) -> bool:
        """Whether a term is of one place for several tokens.

        It is computed from what was pooled, picked, or carried from step to step by a recurrent
        layer: from all tokens, or from one that stands for all.
        """
        if self._tokens == 1:
            return False
        if place.steps:
            return True
        if place.places is None:
            return place.extents[0] == 1
        return len(set(place.places[place.places != NOWHERE].tolist())) == 1

    def check(self) -> None:
        """Refuse terms of which it is not known where they lie.

        Raises:
            LayoutError: naming the first.
        """
        if self._unknown:
            raise LayoutError(self._unknown)


def _examples(shape: Sequence[int], batch: int) -> tuple[str, str]:
    """Layouts that an activation may have: with an axis of tokens, and without."""
    if len(shape) < 3:
        return "(B T) C", "B C"
    first = "B" if shape[0] == batch else "(B N)"
    between = [*"UVWXYZ"[: len(shape) - 3]]
    return " ".join([first, *between, "T", "C"]), " ".join([first, *between, "S", "C"])


def spread(values: Tensor, tokens: int) -> Tensor:
    """Numbers on a coarser or finer sequence, brought to the tokens with their sum kept.

    Args:
        values: shape (B, positions), first and last at the first and last token.
        tokens: how many there are.

    Returns:
        Shape (B, tokens). A position's number is shared linearly among the tokens around it.
    """
    positions = values.shape[1]
    if positions == tokens:
        return values
    few, many = min(positions, tokens), max(positions, tokens)
    unit = torch.eye(few, dtype=values.dtype, device=values.device)
    weights = upsample(unit.unsqueeze(1), (many,)).squeeze(1)  # (few, many)
    if positions > tokens:
        return values @ weights.t()
    return values @ (weights / weights.sum(1, keepdim=True))
