"""Where the terms of a text model go: to its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullgrad._results import Result, mapped, sample_numbers
from fullgrad.axes.coordinates import NOWHERE
from fullgrad.axes.placement import Cells, Placement
from fullgrad.engine import verification
from fullgrad.engine.backward import product
from fullgrad.engine.pipeline import Totals
from fullgrad.engine.request import Traced
from fullgrad.engine.tape import Entry
from fullgrad.engine.terms import Term
from fullgrad.errors import CompletenessError, LayoutError
from fullgrad.maps.aggregation import Psi, placements_for, reduced, rescaled_sum, upsample
from fullgrad.maps.selection import Selection, selection


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores(Result):
    """An output as a sum over tokens.

    ``scores.sum(1) + bias_scores.sum(1) + elsewhere + residual == output``, the sums taken over
    sentences too where the ids have such an axis.

    Args:
        scores: the input term: gradient times embedding, summed over channels; float64, of the
            ids' shape: (B, T), or (B, sentences, T).
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

    _numbers = ("scores", "bias_scores")

    @property
    def total(self) -> Tensor:
        """Input and bias terms at each token's position together, of the ids' shape."""
        return self.scores + self.bias_scores

    @property
    def sums(self) -> Tensor:
        """The sum of all terms, shape (B,): the output less the residual."""
        return self.total.flatten(1).sum(1) + self.elsewhere

    @property
    def relative_residual(self) -> Tensor:
        """|residual| / scale, shape (B,)."""
        return self.residual.abs() / self.scale

    def samples(self, index: int | slice | Sequence[int] | Tensor) -> TokenScores:
        """The scores of some samples, a batch again: of one sample as well.

        Args:
            index: a number, a slice, a list of numbers, or a mask with a bool for each sample.

        Raises:
            OptionError: no such sample.
        """
        numbers = sample_numbers(index, len(self.output))
        found: TokenScores = mapped(self, lambda t, _: t[numbers.to(t.device)])
        return found

    def to_pandas(self, tokens: Sequence[Sequence[str]] | None = None) -> Any:
        """A table with a row for each sample, part and place; its values sum to the output.

        Args:
            tokens: the words of each sample, for a column ``token``.

        Returns:
            A ``pandas.DataFrame`` with the columns ``sample``, ``part`` (``input``, ``bias``,
            ``elsewhere``, ``residual``), ``position`` (and ``sentence``) and ``value``.

        Raises:
            InputError: not a word for each token.
            MissingDependencyError: pandas is not installed.
        """
        from fullgrad.maps.tokens._tables import to_pandas

        return to_pandas(self, tokens)

    def to_xarray(self) -> Any:
        """The scores with named axes.

        Returns:
            An ``xarray.Dataset``: ``scores`` and ``bias_scores`` (sample, position);
            ``elsewhere``, ``output`` and ``residual`` (sample).

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        from fullgrad.maps.tokens._tables import to_xarray

        return to_xarray(self)

    def __repr__(self) -> str:
        return (
            f"TokenScores(batch={len(self.output)}, "
            f"tokens={'x'.join(map(str, self.scores.shape[1:]))}, "
            f"relative_residual={float(self.relative_residual.max()):.1e})"
        )

    def _repr_html_(self) -> str:
        from fullgrad.maps.tokens._display import token_scores_html

        return token_scores_html(self)


class _AtTokens:
    """Sums each term at the tokens where it lies, and lets the term go.

    Args:
        traced: the recorded forward.
        psi: what is summed of a term.
        chosen: the terms that count.
    """

    def __init__(self, traced: Traced, psi: Psi, chosen: Selection) -> None:
        self._traced, self._grids = traced, traced.layouts.grids
        self._batch, self._sizes = len(traced.output), self._grids[0].sizes
        self._psi, self._chosen = psi, chosen
        zeros = partial(torch.zeros, dtype=torch.float64, device=traced.output.device)
        self._at_tokens, self._elsewhere = zeros(self._batch, *self._sizes), zeros(self._batch)
        self._unknown = ""

    def term(self, term: Term) -> Tensor:
        entry = term.entry
        counts = self._chosen.wants(entry.bias.kind, entry.module)
        place = self._place(entry) if counts else None
        sums, maps = [], []
        for gradient, bias, samples, _ in term.parts(whole=place is not None and place.by_sample):
            value = product(_wide(gradient), _wide(bias), term.may_be_infinite)
            sums.append(term.sums(value, samples))
            if place is not None:
                maps.append(reduced(value, place, self._psi).squeeze(1))
        total = torch.cat(sums).to(self._elsewhere.device)
        if place is None:
            self._elsewhere += total
            return total
        at = torch.cat(maps).to(self._elsewhere.device)
        if place.places is not None and bool((place.places == NOWHERE).any()):
            self._elsewhere += total - at.flatten(1).sum(1)
        if self._psi == "signed":
            self._at_tokens += spread(at, self._sizes, place.cells)
        else:
            self._at_tokens += upsample(at.unsqueeze(1), self._sizes, place.cells).squeeze(1)
        return total

    def _place(self, entry: Entry) -> Placement | None:
        """How to read a term token by token; None if it lies at none."""
        axes = self._traced.axes_of(entry)
        try:
            place = placements_for(
                axes, entry.module, entry.op, entry.shape, self._batch, self._grids
            )[0]
        except LayoutError:  # terms come last to first: the first is where it was lost
            axes_of_tokens = " ".join(self._grids[0].letters)
            with_tokens, without = _examples(entry.shape, self._batch, axes_of_tokens)
            self._unknown = (
                f"it is not known at which token the numbers of {entry.op} in "
                f"{entry.module or 'the model'} (shape {tuple(entry.shape)}) lie. State what its "
                f"axes hold, as in activation_layouts={{{entry.module!r}: {with_tokens!r}}} (T "
                f"covers all tokens), or {without!r}, without T, if they lie at no token of "
                "input_ids"
            )
            return None
        return None if place is None or self._single(place) else place

    def _single(self, place: Placement) -> bool:
        """Whether a term is of one place for several tokens.

        It is computed from what was pooled, picked, or carried from step to step by a recurrent
        layer: from all tokens, or from one that stands for all.
        """
        if math.prod(self._sizes) == 1:
            return False
        if place.steps:
            return True
        if place.places is None:
            return math.prod(place.extents) == 1
        rows = np.atleast_2d(place.places)
        return all(len(set(row[row != NOWHERE].tolist())) <= 1 for row in rows)

    def _input_term(self, totals: Totals) -> Tensor:
        """Gradient times embedding, shape (*ids, C), its samples' sums proved."""
        gradient, leaf = totals.input_gradients[0], self._traced.prepared.leaves[0].detach()
        value = product(_wide(gradient), _wide(leaf), False).to(self._elsewhere.device)
        _prove(totals.input_sums - value.flatten(1).sum(1), totals)
        return value

    def _check(self) -> None:
        """Refuse terms of which it is not known where they lie.

        Raises:
            LayoutError: naming the first.
        """
        if self._unknown:
            raise LayoutError(self._unknown)


class SumTokens(_AtTokens):
    """Sums the terms themselves: they add up to the output.

    Args:
        traced: the recorded forward.
    """

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced, "signed", selection("all"))

    def result(self, totals: Totals) -> TokenScores:
        """The scores, their sum for each sample proved."""
        scores = self._input_term(totals).sum(-1)
        output = self._traced.output.detach()
        terms = [*(t.flatten(1).sum(1) for t in (scores, self._at_tokens)), self._elsewhere]
        residual, _ = verification.balance(output, terms)
        _prove(residual, totals)
        self._check()
        return TokenScores(
            scores=scores,
            bias_scores=self._at_tokens,
            elsewhere=self._elsewhere,
            output=output,
            residual=residual,
            scale=totals.scale,
            target=self._traced.selected.index,
            tolerance=totals.tolerance,
        )


class DrawTokens(_AtTokens):
    """Sums the rescaled sizes of the chosen terms; its arguments are those of the base."""

    def result(self, totals: Totals) -> Tensor:
        """The saliency of each token, of the ids' shape."""
        self._check()
        if self._chosen.input:
            self._at_tokens += rescaled_sum(
                self._input_term(totals), [len(self._sizes) + 1], self._psi
            )
        return self._at_tokens


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def _examples(shape: Sequence[int], batch: int, tokens: str) -> tuple[str, str]:
    """Layouts that an activation may have: with the axes of tokens, and without."""
    if len(shape) < 3:
        return f"(B {tokens}) C", "B C"
    first = "B" if shape[0] == batch else "(B N)"
    count = tokens.count(" ") + 1
    between = [*"UVWXYZ"[: max(len(shape) - 2 - count, 0)]]
    others = [*"UVWXYZ"[: len(shape) - 3]]
    with_tokens = tokens if len(shape) >= 2 + count else f"({tokens})"
    return " ".join([first, *between, with_tokens, "C"]), " ".join([first, *others, "S", "C"])


def spread(values: Tensor, sizes: Sequence[int], cells: Sequence[Cells] = ()) -> Tensor:
    """Numbers on a coarser or finer grid, brought to the tokens with their sum kept.

    Args:
        values: shape (B, *positions).
        sizes: how many tokens there are along each axis.
        cells: where the positions lie; left out, first and last at the first and last token.

    Returns:
        Shape (B, *sizes). A position's number is shared linearly among the tokens around it.
    """
    for d, size in enumerate(sizes):
        weights = _shares(values.shape[1 + d], size, cells[d] if cells else None)
        if weights is not None:
            last, weights = values.movedim(1 + d, -1), weights.to(values.device, values.dtype)
            if weights.dim() == 3:  # of each sample
                moved = torch.bmm(last.reshape(len(last), -1, last.shape[-1]), weights)
                moved = moved.view(*last.shape[:-1], size)
            else:
                moved = last @ weights
            values = moved.movedim(-1, 1 + d)
    return values


def _shares(positions: int, tokens: int, cells: Cells | None) -> Tensor | None:
    """How a position's number is shared among tokens, (positions, tokens); None if it stays.

    (B, positions, tokens) where that differs by sample.
    """
    if cells is not None and cells.weights is not None:
        weights = torch.from_numpy(cells.weights).mT.contiguous()
        for i in range(1, positions):  # between two tokens, with others
            none = ~weights[..., i, :].any(-1, keepdim=True)
            weights[..., i, :] = torch.where(none, weights[..., i - 1, :], weights[..., i, :])
        total = weights.sum(-1, keepdim=True)  # zero for cells of other samples
        return weights / torch.where(total == 0, 1.0, total)
    if positions == tokens:
        return None
    few, many = min(positions, tokens), max(positions, tokens)
    weights = upsample(torch.eye(few, dtype=torch.float64).unsqueeze(1), (many,)).squeeze(1)
    return weights.t() if positions > tokens else weights / weights.sum(1, keepdim=True)


def _prove(residual: Tensor, totals: Totals) -> None:
    """Refuse numbers that do not add up sample by sample."""
    if not verification.holds(residual, totals.scale, totals.tolerance):
        raise CompletenessError(
            "the terms sum to the output, but not those that lie at each sample's tokens "
            f"(relative residual {float((residual.abs() / totals.scale).max()):.1e}): the model "
            "reads the ids of one sample as another's. Explain one sample at a time."
        )
