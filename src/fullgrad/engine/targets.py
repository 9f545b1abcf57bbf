"""From a model's output to one scalar per sample."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from fullgrad.engine._indices import check_rows, index_rows, is_index, per_sample
from fullgrad.engine._outputs import main_tensor as main_tensor  # noqa: PLC0414
from fullgrad.engine._several import Several as Several  # noqa: PLC0414
from fullgrad.engine._several import Top as Top  # noqa: PLC0414
from fullgrad.engine._several import holds_integers as holds_integers  # noqa: PLC0414
from fullgrad.engine._several import several as several  # noqa: PLC0414
from fullgrad.errors import OutputError, TargetError

Target: TypeAlias = (
    int
    | Tensor
    | Sequence[int]
    | tuple[int, ...]
    | Sequence[tuple[int, ...]]
    | Callable[[Any], Tensor]
    | Sequence[Callable[[Any], Tensor]]
    | Sequence[Sequence[int | tuple[int, ...] | Callable[[Any], Tensor]]]
    | None
)

# What to do about an output of one sample that lost its first axis.
SQUEEZED = (
    "a squeeze() in the model takes the batch axis of one sample away; name the axes to take away, "
    "as in squeeze(-1) or flatten(1)"
)

_OF_ONE = (
    "In a list with an item for each sample, callables are given that sample's output, without the "
    "batch axis. One that takes the whole output and returns shape (batch,) is given "
)
_ALONE, _IN_ONE_LIST = "alone: target=f", "in a single list for all samples: target=[[f, g]]"


@dataclasses.dataclass(frozen=True, slots=True)
class Selected:
    """The explained scalars.

    Args:
        output: shape (B,), inside the autograd graph.
        index: the class index per sample, shape (B,), where the target is one; else None.
        source: which part of the model's output was explained, for the record.
        target: chooses the same scalars again, whichever class another output predicts.
    """

    output: Tensor
    index: Tensor | None
    source: str
    target: Target


class Described(ABC):
    """A target that says in words what it explains: from a model's output to shape (B,).

    Subclasses are frozen dataclasses, public in :mod:`fullgrad.targets`.
    """

    of_batch: ClassVar[bool] = False
    """Whether it needs the output of all samples as the model returns it."""

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """The explained scalars, shape (B,), inside the graph."""

    @abstractmethod
    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained, in words.

        Args:
            names: of the classes; None calls them by their numbers.
        """

    def __str__(self) -> str:
        return self.describe()

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules whose outputs are explained; none for the model's own."""
        return ()

    @property
    def parts(self) -> tuple[Any, ...]:
        """The targets that it is made of."""
        return ()

    @property
    def is_open(self) -> bool:
        """Whether the output itself decides what is explained, such as its predicted class."""
        return any(map(predicts, self.parts))

    def changed(self, change: Callable[[Any], Any]) -> Any:
        """The same target with all that has a row for each sample changed."""
        return self

    def settled(self, output: Any, samples: int | None = None) -> Any:
        """The same target with what an output decides written down, so that others keep to it."""
        return self


class Contrast(Described):
    """A target made of other targets: all its fields are."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """The targets that it is made of."""
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]

    def changed(self, change: Callable[[Any], Any]) -> Any:
        """The same contrast of changed targets."""
        values = {f.name: change(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **values)  # type: ignore[type-var]

    def settled(self, output: Any, samples: int | None = None) -> Any:
        """The same contrast in which the predicted class is that of an output."""

        def settle(part: Any) -> Any:
            if isinstance(part, Described):
                return part.settled(output, samples) if predicts(part) else part
            if part is not None:
                return part
            index = select(output, None, samples).index
            return None if index is None else index.tolist()

        return self.changed(settle)


def predicts(target: Any) -> bool:
    """Whether a target is, or is made of, classes that are predicted."""
    if isinstance(target, Described):
        return target.is_open
    if isinstance(target, Several):
        return any(predicts(t) for row in target.rows for t in row)
    return target is None or isinstance(target, Top)


def described_in(target: Any) -> list[Described]:
    """All targets with words in a target, the target itself included."""
    if isinstance(target, Described):
        return [target, *(d for part in target.parts for d in described_in(part))]
    if isinstance(target, Several):
        return [d for row in target.rows for t in row for d in described_in(t)]
    return [d for t in target for d in described_in(t)] if type(target) in (list, tuple) else []


def _possible_batches(output: Any) -> tuple[int, ...]:
    """The batch comes first, or second behind a sequence; unknown where the output is unusual."""
    try:
        tensor, _ = main_tensor(output)
    except OutputError:
        return ()
    return tuple(tensor.shape[: 2 if tensor.dim() > 2 else 1])


def _called(function: Callable[[Any], Tensor], output: Any) -> Selected:
    value = function(output)
    if not isinstance(value, Tensor) or value.dim() != 1 or not value.is_floating_point():
        what = (
            f"a {value.dtype} tensor of shape {tuple(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise TargetError(
            f"a callable target must return one float scalar per sample, shape (batch,), not {what}"
        )
    possible = _possible_batches(output)
    if possible and len(value) not in possible:
        raise TargetError(
            f"a callable target must return one float scalar per sample: {possible[0]} samples, "
            f"but {len(value)} scalars"
        )
    return Selected(value, None, name_of(function), function)


def name_of(function: Callable[[Any], Tensor]) -> str:
    """What a callable target is called: by itself if it has words, or else by its definition."""
    kind: Any = type(function)
    if kind.__str__ is not object.__str__:
        return str(function)
    return str(getattr(function, "__name__", type(function).__name__))


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Tensor)


def _called_one_by_one(
    functions: Sequence[Callable[[Any], Tensor]], output: Any, way_out: str = _ALONE
) -> Selected:
    tensor, source = main_tensor(output)
    if len(functions) != len(tensor):
        raise TargetError(f"{len(functions)} targets for a batch of {len(tensor)} samples")
    if isinstance(functions[0], Contrast) and len({type(f) for f in functions}) == 1:
        return _contrasted(functions, output)
    found = [_one(target, one, way_out) for target, one in zip(functions, tensor, strict=True)]
    scalars, settled = zip(*found, strict=True)
    return Selected(torch.stack(scalars), None, source, list(settled))


def _contrasted(contrasts: Sequence[Any], output: Any) -> Selected:
    """A contrast for each sample, all of one kind, as one contrast of the whole batch."""
    tensor, _ = main_tensor(output)
    contrasts = [
        c.settled(row.unsqueeze(0)) if predicts(c) else c
        for c, row in zip(contrasts, tensor, strict=True)
    ]
    names = [part.name for part in dataclasses.fields(contrasts[0])]
    rows = {name: [_for_one(getattr(c, name)) for c in contrasts] for name in names}
    return dataclasses.replace(
        select(output, dataclasses.replace(contrasts[0], **rows)), target=list(contrasts)
    )


def _for_one(target: Any) -> Any:
    return per_sample(target, 1)[0] if isinstance(target, list) else target


def _one(target: Any, output: Tensor, way_out: str) -> tuple[Tensor, Any]:
    """The scalar of one sample, and what chooses it again."""
    if isinstance(target, Described):
        if any(t.of_batch for t in described_in(target)):
            raise TargetError(
                f"{target} is explained in all samples of a batch, not in one of a list: give it "
                f"{way_out.replace('target=f', 'target=it')}"
            )
        found = select(output.unsqueeze(0), target)
        return found.output.squeeze(0), found.target
    try:
        value = target(output)
    except IndexError as error:  # what a function of the whole output meets in a row of it
        raise TargetError(
            f"the target {name_of(target)} failed on one sample's output, of shape "
            f"{tuple(output.shape)}: {error}. {_OF_ONE}{way_out}"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TargetError(
            f"the target {name_of(target)} must return one number for one sample's output, not "
            f"{what}. {_OF_ONE}{way_out}"
        )
    return value.reshape(()), target


def select(output: Any, target: Target, samples: int | None = None) -> Selected:
    """The explained scalar of each sample.

    A single number without an axis for samples is that of the only sample, if there is one.

    Args:
        output: whatever the model returned.
        target: a class index; one index per sample (list or tensor of shape (B,)); a tuple of
            indices into a dense output (class, row, column), or a list of such tuples; a callable
            from the model's output to shape (B,), or a list of them, one for each sample, from its
            output to one number; None for the class with the highest output of
            shape (B, classes), or for the output itself where it has one number per sample.
        samples: how many samples the inputs hold; None if that is not known.

    Raises:
        OutputError: the output holds no float tensor, or NaN or infinite values.
        TargetError: the target does not fit the output.
    """
    if isinstance(target, Described) and predicts(target):
        target = target.settled(output, samples)
    if callable(target) and not isinstance(target, Tensor):
        return _called(target, output)
    if isinstance(target, list) and target and all(map(_is_function, target)):
        return _called_one_by_one(target, output)
    tensor, source = main_tensor(output)
    if tensor.dim() == 0 and samples == 1:
        tensor = tensor.reshape(1)
    if tensor.dim() == 0:
        raise TargetError(
            "the model returns a single number for the whole batch (a mean, a sum, or a squeeze() "
            "that should be squeeze(-1)); use a callable target that returns one scalar per sample"
        )
    if tensor.numel() == 0:
        raise OutputError(f"the model's output is empty: shape {tuple(tensor.shape)}")
    rows = rows_of(target, tensor.shape)
    if rows is None:
        if tensor.dim() == 1:
            return Selected(tensor, None, source, None)
        index = tensor.detach().argmax(1)
        return Selected(tensor.gather(1, index[:, None]).squeeze(1), index, source, index)
    places = torch.tensor(rows, device=tensor.device, dtype=torch.long)
    where: tuple[Tensor, ...] = (torch.arange(len(rows), device=tensor.device), *places.unbind(1))
    chosen = tensor[where]
    return Selected(chosen, places[:, 0] if tensor.dim() == 2 else None, source, target)


def rows_of(target: Any, shape: Sequence[int]) -> list[tuple[int, ...]] | None:
    """A target that is indices, as one tuple for each sample.

    Args:
        target: see :func:`select`, but no callable.
        shape: of the model's output, samples first.

    Returns:
        None for the predicted class, or for the output itself where it has no classes.

    Raises:
        TargetError: the target does not fit the output.
    """
    if target is None:
        if len(shape) > 2:
            raise TargetError(
                f"an output of shape {tuple(shape)} has no single predicted class: give a "
                f"tuple of {len(shape) - 1} indices or a callable as target"
            )
        return None
    if len(shape) == 1:
        raise TargetError(
            "the model returns one number per sample, so there is no class to choose: leave the "
            "target out"
        )
    rows = index_rows(target, shape[0])
    check_rows(rows, shape[1:])
    return rows


def choose(
    output: Any, target: Target | Several | Top, samples: int | None = None
) -> list[Selected]:
    """The explained scalars of each target, in order.

    Of a dense output a row of as many indices as it has axes beside the batch is one index, as for
    :func:`select`; otherwise each item is a target of its own. In a row for all samples that is a
    target of the whole batch; in rows for each sample, one of that sample.

    Args:
        output: whatever the model returned.
        target: as :func:`select` takes it, or several for each sample.
        samples: how many samples the inputs hold; None if that is not known.

    Raises:
        OutputError: see :func:`select`.
        TargetError: the targets do not fit the output.
    """
    if isinstance(target, Top):
        return _highest(output, target.count)
    if not isinstance(target, Several):
        return [select(output, target, samples)]
    rows, dense = target.rows, False
    if target.each_sample or all(is_index(t) for t in rows[0]):
        tensor, _ = main_tensor(output)
        if target.each_sample:
            rows = target.rows_of(len(tensor) if tensor.dim() > 0 else 1)
        dense = tensor.dim() > 2 and all(is_index(t) for row in rows for t in row)
    if dense:
        one: Any = list(map(tuple, rows)) if target.each_sample else tuple(rows[0])
        return [select(output, one, samples)]
    if not target.each_sample:
        return [select(output, each, samples) for each in rows[0]]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [
        _called_one_by_one(column, output, _IN_ONE_LIST)
        if all(map(_is_function, column))
        else select(output, column, samples)
        for column in columns
    ]


def _highest(output: Any, count: int) -> list[Selected]:
    tensor, _ = main_tensor(output)
    if tensor.dim() != 2:
        raise TargetError(
            f"top={count} needs an output of shape (batch, classes), not {tuple(tensor.shape)}: "
            "give targets"
        )
    if count > tensor.shape[1]:
        raise TargetError(f"top={count}, but the model has {tensor.shape[1]} classes")
    return [select(output, index) for index in tensor.detach().topk(count, 1).indices.unbind(1)]


def again(chosen: Sequence[Selected]) -> Target | Several:
    """The target that chooses the same scalars again, whichever classes are then predicted."""
    if len(chosen) == 1:
        return chosen[0].target
    return Several([[one.target for one in chosen]])
