"""What the model computes on a baseline, for secants and layers that are compared with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from torch import Tensor

from fullgrad.engine._cuts import Cut
from fullgrad.errors import ModelError


@dataclass(slots=True, eq=False)
class Baseline:
    """Values on the baseline, in the order of the calls; filled in one pass, read in the next.

    Args:
        filling: whether values are noted, not read.
        next: where a pass that reads notes its own values: the baseline of the next step.
    """

    filling: bool = True
    next: Baseline | None = None
    _calls: deque[tuple[str, Tensor, Tensor]] = field(default_factory=deque)
    _layers: Sequence[tuple[str, Tensor]] = ()

    def note(self, name: str, value: Tensor, result: Tensor) -> None:
        """Keep a call's first argument and its result."""
        self._calls.append((name, value.detach().clone(), result.detach().clone()))

    def take(self, name: str, value: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
        """The first argument and the result of the same call on the baseline, and let go of them.

        Args:
            name: of the operation.
            value: its first argument on the input.
            result: what it returned on the input.

        Raises:
            ModelError: another operation ran on the baseline.
        """
        if self.next is not None:
            self.next.note(name, value, result)
        other, there, made = self._calls.popleft() if self._calls else ("", value, value)
        if other != name or there.shape != value.shape:
            raise _differs(name)
        return there, made

    def again(self, *, noting: bool) -> Baseline:
        """The same values for another pass, which notes its own or not."""
        own = Baseline() if noting else None
        return Baseline(False, own, deque(self._calls), self._layers)

    def keep(self, layers: Sequence[Cut]) -> None:
        """Keep what modules returned, without its graph; the next pass reads."""
        self._layers, self.filling = [(c.module, c.value) for c in layers], False

    def beside(self, layers: Sequence[Cut]) -> tuple[Cut, ...]:
        """What modules returned, each with what it returned on the baseline.

        Raises:
            ModelError: other modules ran there, or more operations.
        """
        if self._calls:
            raise _differs(self._calls[0][0])
        own = [(c.module, c.value.shape) for c in layers]
        there = [(path, value.shape) for path, value in self._layers]
        for pair in zip_longest(own, there):
            if pair[0] != pair[1]:
                (path, _) = pair[0] or pair[1]
                raise _differs(f"module {path!r}")
        if self.next is not None:
            self.next.keep(layers)
        return tuple(
            replace(c, reference=value) for c, (_, value) in zip(layers, self._layers, strict=True)
        )


@dataclass(slots=True, eq=False)
class Way:
    """Steps from a baseline to the input: the end of each is the baseline of the next.

    Args:
        left: how many steps come after this one.
        start: the baseline of this step; None if the model did not run on it yet.
    """

    left: int
    start: Baseline | None = None
    _used: Baseline | None = None

    def baseline(self) -> Baseline | None:
        """The baseline of this step for one more pass; None if there is no other way to get it."""
        self._used = None if self.start is None else self.start.again(noting=self.left > 0)
        return self._used

    def begin(self, found: Baseline) -> Baseline | None:
        """Take what the model computed where the way starts."""
        self.start = found
        return self.baseline()

    def step(self) -> None:
        """Go on to the next step."""
        self.start = None if self._used is None else self._used.next
        self._used, self.left = None, self.left - 1


def _differs(what: str) -> ModelError:
    name = what.removeprefix("aten::")
    return ModelError(
        f"the model does not do the same on the baseline as on the input ({name}), so that they "
        "cannot be compared step by step. Explain it with linearization='balanced' and "
        "depth='input'"
    )


def in_place_of(inputs: Any, values: Sequence[Tensor]) -> Any:
    """Inputs with other values in place of the floating ones, in order.

    Args:
        inputs: a tensor, a tuple of them or a dict.
        values: one for each floating tensor.
    """
    rest = iter(values)

    def each(value: Any) -> Any:
        floating = value.is_floating_point() or value.is_complex()
        return next(rest) if floating else value

    if isinstance(inputs, Tensor):
        return each(inputs)
    if isinstance(inputs, dict):
        return {k: each(v) for k, v in inputs.items()}
    return tuple(map(each, inputs))
