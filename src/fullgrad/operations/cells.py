"""Cells of recurrent layers, run over all steps of one direction and back.

A cell computes what PyTorch's unrolled operations compute, the biases of those operations for all
steps together, and the gradients at the inner values. Sequences are blocks of shape (T, B, ...).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fullgrad.operations.call import Kind
from fullgrad.operations.elementwise import _sigmoid, _tanh

_AT_ONCE = 32  # steps


@dataclass(frozen=True)
class Course:
    """In which order the steps run, and for how many samples.

    Args:
        steps: number of steps T.
        batch: number of samples B.
        reverse: from the last step to the first.
        sizes: how many samples each step has, longest sequences first; None if all have them all.
        device: of the tensors.
    """

    steps: int
    batch: int
    reverse: bool
    sizes: Sequence[int] | None
    device: torch.device

    @cached_property
    def first(self) -> Tensor:
        """Where a sample starts, bool of shape (T, B, 1)."""
        counts = torch.tensor(self.sizes or [self.batch] * self.steps)
        there = torch.arange(self.batch) < counts.unsqueeze(1)
        after = torch.cat([there[1:], torch.zeros(1, self.batch, dtype=torch.bool)])
        if self.reverse:
            first = there & ~after
        else:
            first = (torch.arange(self.steps) == 0).unsqueeze(1).expand(there.shape)
        return first.unsqueeze(2).to(self.device)

    def block(self, like: Tensor, *sizes: int) -> Tensor:
        """A new block (T, B, *sizes), zero where no sample is."""
        make = torch.empty if self.sizes is None else torch.zeros
        return make(self.steps, self.batch, *sizes, dtype=like.dtype, device=like.device)

    def rows(self, *blocks: Tensor, back: bool = False) -> Iterator[tuple[int, list[Tensor]]]:
        """Each step's number of samples, and their rows in each block, as views.

        Views are made for some steps at a time: garbage collection grows with those that live.

        Args:
            blocks: each (T, B, ...).
            back: from the step that ran last to the first.
        """
        pieces = range(0, self.steps, _AT_ONCE)
        down = self.reverse != back
        for low in reversed(pieces) if down else pieces:
            views = [block[low : low + _AT_ONCE].unbind(0) for block in blocks]
            for t in reversed(range(len(views[0]))) if down else range(len(views[0])):
                n = self.batch if self.sizes is None else self.sizes[low + t]
                step = [v[t] for v in views]
                yield n, step if n == self.batch else [row[:n] for row in step]

    def before(self, values: Tensor, start: Tensor) -> Tensor:
        """What each step finds of a state, given what each step leaves of it."""
        edge = start.unsqueeze(0)
        parts = [values[1:], edge] if self.reverse else [edge, values[:-1]]
        return torch.where(self.first, start, torch.cat(parts))


def _fitted(state: Tensor, start: Tensor, samples: int) -> Tensor:
    """A state for the samples of the next step: some have ended, or some start."""
    known = len(state)
    if known < samples:
        return torch.cat([state, start[known:samples]])
    return state if known == samples else state[:samples]


@dataclass(frozen=True, slots=True)
class Inner:
    """The bias of an inner operation at all steps, shape (T, B, ...)."""

    op: str
    kind: Kind
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of one layer and direction that act on the state."""

    hidden: Tensor
    bias: Tensor | None = None
    projection: Tensor | None = None

    def listed(self) -> tuple[Tensor, ...]:
        """Those that the way back needs."""
        return (self.hidden,) if self.projection is None else (self.hidden, self.projection)


@dataclass(eq=False)
class Cell(ABC):
    """A cell on one sequence.

    Args:
        inputs: what the steps are given, the input's projection with its bias, (T, B, gates x H).
        start: the states before the first step, each (B, ...).
        constant: which of them do not depend on the input.
        weights: that act on the state.
        course: order of the steps.
    """

    inputs: Tensor
    start: tuple[Tensor, ...]
    constant: tuple[bool, ...]
    weights: Weights
    course: Course
    gates: ClassVar[int]

    @property
    def width(self) -> int:
        """The number of hidden units H."""
        return self.inputs.shape[-1] // self.gates

    @abstractmethod
    def run(self) -> tuple[tuple[Tensor, ...], tuple[Inner, ...]]:
        """Run all steps.

        Returns:
            The states that each step leaves, each (T, B, ...), and the biases of the inner values.
        """

    @abstractmethod
    def back(
        self, weights: Sequence[Tensor], *gradients: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Go back through time.

        Args:
            weights: as :meth:`Weights.listed` gives them.
            gradients: at the outputs, None for zeros.

        Returns:
            The gradients at the inputs and at each starting state, and at the inner values in the
            order of :meth:`run`.
        """

    def _before(self, values: Tensor, state: int = 0) -> Tensor:
        return self.course.before(values, self.start[state])

    def _blocks(self, count: int) -> list[Tensor]:
        return [self.course.block(self.inputs, self.width) for _ in range(count)]

    def _product(self, product: Tensor, state: int) -> Tensor:
        """The bias of a product with a state: none where the state is a constant start."""
        return torch.where(self.course.first, 0, -product) if self.constant[state] else -product

    def _hidden_bias(self) -> Tensor:
        """The constant part of what the state is multiplied to: where it starts, all of it."""
        bias, hidden = self.weights.bias, self.weights.hidden
        shape = self.inputs.shape
        constant = self.inputs.new_zeros(shape) if bias is None else bias.expand(shape)
        if not self.constant[0]:
            return constant.clone()
        return constant + torch.where(self.course.first, self.start[0] @ hidden.t(), 0)

    def _recurrent(self) -> Tensor:
        return self.inputs if self.weights.bias is None else self.inputs + self.weights.bias


def _zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


class LSTM(Cell):
    """``c = f c + i g``, ``h = o tanh(c)``, projected if there is a projection."""

    gates = 4

    def run(self) -> tuple[tuple[Tensor, ...], tuple[Inner, ...]]:
        """Run all steps; see :meth:`Cell.run`."""
        course, (hidden, *projection) = self.course, self.weights.listed()
        u, a = (course.block(self.inputs, 4, self.width) for _ in range(2))
        new, c, squashed, h = self._blocks(4)
        y = course.block(self.inputs, len(projection[0])) if projection else h
        gates = u.flatten(2), u[:, :, 2], a.flatten(2), *a.unbind(2)
        steps = course.rows(self._recurrent(), *gates, new, c, squashed, h, y)
        hidden = hidden.t()
        y_t, c_t = self.start
        for n, step in steps:
            before_y, before_c = _fitted(y_t, self.start[0], n), _fitted(c_t, self.start[1], n)
            x_t, u_t, ug_t, a_t, i_t, f_t, g_t, o_t, new_t, c_t, squashed_t, h_t, y_t = step
            torch.addmm(x_t, before_y, hidden, out=u_t)
            torch.sigmoid(u_t, out=a_t)
            torch.tanh(ug_t, out=g_t)
            torch.mul(i_t, g_t, out=new_t)
            torch.addcmul(new_t, f_t, before_c, out=c_t)
            torch.tanh(c_t, out=squashed_t)
            torch.mul(o_t, squashed_t, out=h_t)
            if projection:
                torch.mm(h_t, projection[0].t(), out=y_t)
        i, f, g, o = a.unbind(2)
        ui, uf, ug, uo = u.unbind(2)
        before = self._before(c, 1)
        self._factors = (i, f, g, o, before, squashed)
        inner = (
            Inner("addmm", "explicit", self._hidden_bias()),
            Inner("sigmoid", "implicit", _sigmoid(i, ui)),
            Inner("sigmoid", "implicit", _sigmoid(f, uf)),
            Inner("tanh", "implicit", _tanh(g, ug)),
            Inner("sigmoid", "implicit", _sigmoid(o, uo)),
            Inner("mul", "implicit", self._product(f * before, 1)),
            Inner("mul", "implicit", -new),
            Inner("tanh", "implicit", _tanh(squashed, c)),
            Inner("mul", "implicit", -h),
        )
        return (y, c), inner

    def back(
        self, weights: Sequence[Tensor], *gradients: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Go back through time; see :meth:`Cell.back`."""
        course, (hidden, *projection) = self.course, weights
        i, f, g, o, before, squashed = self._factors
        of_gates = torch.stack([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], 2)
        of_output, of_cell = squashed * o * (1 - o), o * (1 - squashed * squashed)
        to_u = course.block(self.inputs, 4, self.width)
        to_c, to_h = self._blocks(2)
        to_y = course.block(self.inputs, len(projection[0])) if projection else to_h
        carried_y, carried_c = (torch.zeros_like(s) for s in self.start)
        given = _zeros(gradients[0], to_y), _zeros(gradients[1], to_c)
        factors = of_cell, of_gates, of_output, f
        made = to_y, to_h, to_c, to_c.unsqueeze(2)
        gates = to_u.flatten(2), to_u[:, :, :3], to_u[:, :, 3]
        for n, step in course.rows(*given, *factors, *made, *gates, back=True):
            given_y_t, given_c_t, k_t, of_t, ofo_t, f_t, y_t, h_t, c_t, each_t, u_t, ifg_t, o_t = (
                step
            )
            y_n, c_n = carried_y[:n], carried_c[:n]
            torch.add(given_y_t, y_n, out=y_t)
            if projection:
                torch.mm(y_t, projection[0], out=h_t)
            torch.addcmul(c_n, h_t, k_t, out=c_t)
            if gradients[1] is not None:
                c_t.add_(given_c_t)
            torch.mul(each_t, of_t, out=ifg_t)
            torch.mul(h_t, ofo_t, out=o_t)
            torch.mm(u_t, hidden, out=y_n)
            torch.mul(c_t, f_t, out=c_n)
        at_gates = to_c * g, to_c * before, to_c * i, to_h * squashed
        inner = (to_u.flatten(2), *at_gates, to_c, to_c, to_h * o, to_h)
        return (to_u.flatten(2), carried_y, carried_c), inner


class GRU(Cell):
    """``n = tanh(x + r (W h + b))``, ``h = (h - n) z + n``."""

    gates = 3

    def run(self) -> tuple[tuple[Tensor, ...], tuple[Inner, ...]]:
        """Run all steps; see :meth:`Cell.run`."""
        course, hidden, bias = self.course, self.weights.hidden.t(), self.weights.bias
        u, from_h = (course.block(self.inputs, 3, self.width) for _ in range(2))
        a = course.block(self.inputs, 3, self.width)
        h = self._blocks(1)[0]
        x = self.inputs.unflatten(2, (3, self.width))
        parts = [part for t in (x, from_h, u) for part in (t[:, :, :2], t[:, :, 2])]
        steps = course.rows(*parts, from_h.flatten(2), a[:, :, :2], *a.unbind(2), h)
        h_t = self.start[0]
        for samples, step in steps:
            before_t = _fitted(h_t, self.start[0], samples)
            x_t, xn_t, rz_t, new_t, u_t, un_t, from_t, a_t, r_t, z_t, n_t, h_t = step
            if bias is None:
                torch.mm(before_t, hidden, out=from_t)
            else:
                torch.addmm(bias, before_t, hidden, out=from_t)
            torch.add(x_t, rz_t, out=u_t)
            torch.sigmoid(u_t, out=a_t)
            torch.addcmul(xn_t, r_t, new_t, out=un_t)
            torch.tanh(un_t, out=n_t)
            torch.lerp(n_t, before_t, z_t, out=h_t)
        (r, z, n), (ur, uz, un), new = a.unbind(2), u.unbind(2), from_h[:, :, 2]
        before = self._before(h)
        constant = self._hidden_bias()
        kept = torch.zeros_like(before)
        if self.constant[0]:
            constant[..., 2 * self.width :].masked_fill_(course.first, 0)
            kept = torch.where(course.first, before, 0)
        self._factors = (r, z, n, new, before)
        inner = (
            Inner("addmm", "explicit", constant),
            Inner("sigmoid", "implicit", _sigmoid(r, ur)),
            Inner("sigmoid", "implicit", _sigmoid(z, uz)),
            Inner("mul", "implicit", self._product(r * new, 0)),
            Inner("tanh", "implicit", _tanh(n, un)),
            Inner("sub", "explicit", kept),
            Inner("mul", "implicit", (n - before) * z),
        )
        return (h,), inner

    def back(
        self, weights: Sequence[Tensor], *gradients: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Go back through time; see :meth:`Cell.back`."""
        course, (hidden,), (r, z, n, new, before) = self.course, weights, self._factors
        of_n = (1 - z) * (1 - n * n)
        of_z, of_r = (before - n) * z * (1 - z), of_n * new * r * (1 - r)
        of_hidden = torch.stack([of_r, of_z, of_n * r], 2)
        to_hidden, to_h = course.block(self.inputs, 3, self.width), self._blocks(1)[0]
        carried = torch.zeros_like(self.start[0])
        given, each, flat = _zeros(gradients[0], to_h), to_h.unsqueeze(2), to_hidden.flatten(2)
        steps = course.rows(given, to_h, each, of_hidden, to_hidden, flat, z, back=True)
        for samples, (given_t, to_h_t, each_t, of_t, to_t, flat_t, z_t) in steps:
            h_n = carried[:samples]
            torch.add(given_t, h_n, out=to_h_t)
            torch.mul(each_t, of_t, out=to_t)
            torch.mul(to_h_t, z_t, out=h_n)
            h_n.addmm_(flat_t, hidden)
        to_un = to_h * of_n
        to_x = torch.cat([flat[..., : 2 * self.width], to_un], 2)
        at_gates = to_un * new, to_h * (before - n)
        inner = (flat, *at_gates, to_un, to_h * (1 - z), to_h * z, to_h)
        return (to_x, carried), inner


class RNN(Cell):
    """``h = tanh(x + W h + b)``."""

    gates = 1

    def run(self) -> tuple[tuple[Tensor, ...], tuple[Inner, ...]]:
        """Run all steps; see :meth:`Cell.run`."""
        course, hidden = self.course, self.weights.hidden.t()
        u, h = self._blocks(2)
        h_t = self.start[0]
        for n, (x_t, u_t, out_t) in course.rows(self._recurrent(), u, h):
            before, h_t = _fitted(h_t, self.start[0], n), out_t
            torch.addmm(x_t, before, hidden, out=u_t)
            self._act(u_t, h_t)
        self._slope, inner = self._sloped(u, h)
        return (h,), (Inner("addmm", "explicit", self._hidden_bias()), *inner)

    def _act(self, u: Tensor, out: Tensor) -> None:
        torch.tanh(u, out=out)

    def _sloped(self, u: Tensor, h: Tensor) -> tuple[Tensor, tuple[Inner, ...]]:
        """The derivative of the activation, and its bias if it has one."""
        return 1 - h * h, (Inner("tanh", "implicit", _tanh(h, u)),)

    def back(
        self, weights: Sequence[Tensor], *gradients: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Go back through time; see :meth:`Cell.back`."""
        course, (hidden,) = self.course, weights
        to_u, to_h = self._blocks(2)
        carried = torch.zeros_like(self.start[0])
        steps = course.rows(_zeros(gradients[0], to_h), to_h, to_u, self._slope, back=True)
        for n, (given_t, to_h_t, to_u_t, slope_t) in steps:
            h_n = carried[:n]
            torch.add(given_t, h_n, out=to_h_t)
            torch.mul(to_h_t, slope_t, out=to_u_t)
            torch.mm(to_u_t, hidden, out=h_n)
        return (to_u, carried), (to_u, to_h)


class ReluRNN(RNN):
    """``h = relu(x + W h + b)``."""

    def _act(self, u: Tensor, out: Tensor) -> None:
        torch.clamp(u, min=0, out=out)

    def _sloped(self, u: Tensor, h: Tensor) -> tuple[Tensor, tuple[Inner, ...]]:
        return (u > 0).to(u.dtype), ()


# By PyTorch's functions.
CELLS: dict[str, type[Cell]] = {"lstm": LSTM, "gru": GRU, "rnn_tanh": RNN, "rnn_relu": ReluRNN}
