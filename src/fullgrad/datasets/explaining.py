"""A minibatch of samples to maps and to what the index says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.datasets._described import plain
from fullgrad.datasets._inputs import ByName, Value, explained_by_name, result_of, sample_at
from fullgrad.datasets.encoding import Array
from fullgrad.engine import Heard, listening
from fullgrad.engine.lending import lent
from fullgrad.engine.targets import main_tensor
from fullgrad.errors import FullGradError, MethodError, OutputError, TargetError
from fullgrad.maps.complete import CompleteMap, complete_map
from fullgrad.methods import Method
from fullgrad.methods.fullgrad import is_complete, is_one_pass, whole_map
from fullgrad.methods.registry import resolved
from fullgrad.vision.classification import one_line

PREDICTED, TRUE = "predicted", "true"
_SUMS = ("fullgrad", "simple_fullgrad")  # beside the complete methods
# predicted, true, a class, a class for each id, or a function of the model's output.
TargetSpec: TypeAlias = "str | int | Sequence[int] | Mapping[str, int] | Callable[[Any], Tensor]"


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Says what is explained, and how.

    Args:
        method: the method.
        options: of it and of the call, those that were given.
        target: see :func:`fullgrad.datasets.map`.
        top: how many of the highest classes are explained, instead of ``target``.
        depth: components of a module's path that make a stage.
        by_default: whether no method was asked for: it is the recommended one.
        tokenizer: tells what the tokens of texts are called.

    Raises:
        TargetError: no such target.
    """

    method: Method
    options: Mapping[str, Any] = field(default_factory=dict)
    target: TargetSpec = PREDICTED
    top: int | None = None
    depth: int = 1
    by_default: bool = False
    tokenizer: Any = None

    def __post_init__(self) -> None:
        target = self.target
        if isinstance(target, str) and target not in {PREDICTED, TRUE}:
            raise TargetError(
                f"target must be 'predicted', 'true', a class, several classes, a class for each "
                f"id or a function, not {target!r}"
            )
        if isinstance(target, (list, tuple)):
            if not target or not all(type(t) is int and t >= 0 for t in target):
                raise TargetError(f"several targets must be classes' numbers, not {target!r}")
        if self.top is not None:
            if target != PREDICTED:
                raise TargetError("top= chooses the classes itself: leave target out, or top")
            if type(self.top) is not int or self.top < 1:
                raise TargetError(f"top must be a positive integer, not {self.top!r}")

    @property
    def targets(self) -> int:
        """How many maps a sample has."""
        if self.top is not None:
            return self.top
        return len(self.target) if isinstance(self.target, (list, tuple)) else 1

    @property
    def complete_map(self) -> bool:
        """Whether the method gives a :class:`fullgrad.CompleteMap`."""
        return is_complete(self.method)

    @property
    def sums(self) -> bool:
        """Whether the method adds up the terms of the output."""
        return self.complete_map or self.method.name in _SUMS

    @property
    def shares(self) -> bool:
        """Whether the terms are those of one pass, so that stages have shares of the output."""
        return self.sums and is_one_pass(self.method, self.settings())

    def settings(self) -> dict[str, Any]:
        """All options of the method and of the call, as :func:`fullgrad.complete_map` takes them.

        Raises:
            ValueError: an option that there is not, or a value that cannot be.
        """
        own = {k: v for k, v in self.options.items() if k in self.method.takes}
        found = self.method.settings(own)
        values = {f.name: getattr(found, f.name) for f in fields(found)}
        return values | {k: v for k, v in self.options.items() if k not in {*values, "signed"}}

    def whole(self, call: Callable[..., CompleteMap]) -> CompleteMap:
        """The method's complete map, by a function with the options of the complete map."""
        return whole_map(self.method, call, self.settings())

    def described(self) -> Any:
        """The target as a plan holds it."""
        if self.top is not None:
            return f"top {self.top}"
        return plain(self.target)


def question(
    method: str | Method | Callable[..., Tensor] | None,
    options: Mapping[str, Any] | None = None,
    target: TargetSpec | None = PREDICTED,
    top: int | None = None,
    depth: int = 1,
    tokenizer: Any = None,
) -> Question:
    """Return what is asked for.

    Raises:
        ValueError: an unknown method.
        TargetError: no such target.
    """
    chosen = resolved(methods.RECOMMENDED if method is None else method)
    target = PREDICTED if target is None else target  # as elsewhere
    return Question(chosen, dict(options or {}), target, top, depth, method is None, tokenizer)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One map and its numbers.

    Args:
        map: shape of the positions; of several inputs that of the first.
        target: the explained class, where it is one.
        prediction: the class with the highest output, of a classifier.
        numbers: by the index's column.
        more: the maps of the other inputs, by name.
        dims: names of the positions' axes by input, the first one's first; empty for one tensor.
        tokens: of a text.
    """

    map: Array
    target: int | None
    prediction: int | None
    numbers: Mapping[str, float]
    more: Mapping[str, Array] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens: tuple[str, ...] | None = None


def explained(
    model: nn.Module,
    inputs: Value,
    ids: Sequence[str],
    labels: Sequence[int | None],
    asked: Question,
) -> list[list[Found] | str]:
    """Explain a minibatch; one whose samples fail together is tried sample by sample.

    Args:
        model: on the inputs' device.
        inputs: samples first.
        ids: of the samples.
        labels: their true classes, if they are known.
        asked: what is explained.

    Returns:
        For each sample a map for each target, or why there is none.
    """
    try:
        return list(_together(model, inputs, ids, labels, asked))
    except Exception as error:  # a user's model raises what it likes
        if len(ids) == 1:
            return [one_line(error)]
    found: list[list[Found] | str] = []
    for i in range(len(ids)):
        found += explained(model, sample_at(inputs, i), ids[i : i + 1], labels[i : i + 1], asked)
    return found


def _together(
    model: nn.Module,
    inputs: Value,
    ids: Sequence[str],
    labels: Sequence[int | None],
    asked: Question,
) -> list[list[Found]]:
    """A map for each target of each sample.

    Raises:
        MethodError: a method of one tensor for samples that hold several.
        FullGradError: as of :func:`fullgrad.methods.attribute`, for any of the samples.
    """
    if not isinstance(inputs, Tensor) and not asked.complete_map:
        raise MethodError(
            f"{asked.method.name} explains one tensor for each sample, and these hold "
            f"{', '.join(inputs)}: take complete_fullgrad, or another of the complete methods"
        )
    logits = None
    if asked.top is not None or not asked.sums:
        with lent(model), torch.no_grad():
            logits = _logits(result_of(model, inputs))
    device = next(iter(inputs.values())).device if isinstance(inputs, dict) else inputs.device
    columns = [
        _explain(model, inputs, each, logits, asked)
        for each in _targets(asked, ids, labels, logits, device)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _targets(
    asked: Question,
    ids: Sequence[str],
    labels: Sequence[int | None],
    logits: Tensor | None,
    device: torch.device,
) -> list[Any]:
    """The target of each rank, as :func:`fullgrad.methods.attribute` takes it."""
    target = asked.target
    if asked.top is not None:
        if logits is None:
            raise TargetError("top= needs a model whose output is of shape (B, classes)")
        if asked.top > logits.shape[1]:
            raise TargetError(f"top={asked.top}, but the model has {logits.shape[1]} classes")
        return list(logits.topk(asked.top, 1).indices.unbind(1))
    if target == TRUE:
        missing = [i for i, label in zip(ids, labels, strict=True) if label is None]
        if missing:
            raise TargetError(f"target='true', but {printable(missing[0])} has no known class")
        return [torch.tensor(labels, device=device)]
    if isinstance(target, Mapping):
        return [torch.tensor([int(target[i]) for i in ids], device=device)]
    if target == PREDICTED:
        return [None if logits is None else logits.argmax(1)]
    return list(target) if isinstance(target, (list, tuple)) else [target]


def _explain(
    model: nn.Module, inputs: Value, target: Any, logits: Tensor | None, asked: Question
) -> list[Found]:
    """The maps of one target of each sample."""
    complete: CompleteMap | None = None
    named: ByName | None = None
    with listening() as heard:
        if isinstance(inputs, dict):
            named = explained_by_name(model, inputs, target, asked.whole, asked.tokenizer)
            complete = named.found
        elif asked.complete_map:
            complete = asked.whole(partial(complete_map, model, inputs, target))
        else:
            maps = methods.attribute(asked.method, model, inputs, target, **asked.options)
    values = [
        own[:, 0].detach().double().cpu().numpy()
        for own in ([maps] if complete is None else complete.maps)
    ]
    columns: dict[str, Array] = {
        name: np.sum([np.clip(v, *to).reshape(len(v), -1).sum(1) for v in values], 0)
        for name, to in (("positive", (0, None)), ("negative", (None, 0)))
    }
    index: Tensor | None = target if isinstance(target, Tensor) else None
    if type(target) is int:
        index = torch.full((len(values[0]),), target)
    if asked.sums:
        last = heard[-1]  # of several steps, the one that ends at the input
        logits = _logits(last.result)
        index = last.index if last.index is None or last.index.dim() == 1 else None
        columns["logit"] = _numbers(last.output)
        columns["residual"] = _numbers(last.residual if complete is None else complete.residual)
        if complete is not None:
            columns["elsewhere"] = _numbers(complete.elsewhere)
        if asked.shares:
            columns |= _shares(last, asked.depth)
    elif logits is not None and index is not None:
        columns["logit"] = _numbers(logits.gather(1, index.to(logits.device)[:, None])[:, 0])
    if logits is not None:
        if not bool(torch.isfinite(logits).all()):
            raise OutputError("the model's output holds NaN or infinite values")
        if index is not None:
            shares = logits.double().softmax(1)
            columns["probability"] = _numbers(
                shares.gather(1, index.to(logits.device)[:, None])[:, 0]
            )
    predicted = None if logits is None else logits.argmax(1).tolist()
    chosen = None if index is None else index.tolist()
    names = [""] if named is None else list(named.dims)
    return [
        Found(
            map=values[0][i],
            target=None if chosen is None else int(chosen[i]),
            prediction=None if predicted is None else int(predicted[i]),
            numbers={name: float(column[i]) for name, column in columns.items()},
            more={n: v[i] for n, v in zip(names[1:], values[1:], strict=True)},
            dims={} if named is None else named.dims,
            tokens=None if named is None or named.tokens is None else named.tokens[i],
        )
        for i in range(len(values[0]))
    ]


def _logits(result: Any) -> Tensor | None:
    """The outputs for each class, shape (B, classes); None if the model has no such output."""
    try:
        output, _ = main_tensor(result)
    except FullGradError:
        return None
    classes = output.dim() == 2 and output.shape[1] > 1 and output.is_floating_point()
    return output.detach() if classes else None


def classes_of(model: nn.Module, inputs: Value) -> int | None:
    """How many outputs a classifier has; None of other models."""
    with lent(model), torch.no_grad():
        logits = _logits(result_of(model, inputs))
    return None if logits is None else logits.shape[1]


def _shares(one: Heard, depth: int) -> dict[str, Array]:
    """What the terms of the input and of each stage add up to, by the index's column."""
    found = {"share.input": _numbers(one.input_sums)}
    for name, sums in one.module_sums.items():
        column = f"share.{stage_of(name, depth)}"
        found[column] = found.get(column, np.zeros(len(sums))) + _numbers(sums)
    return found


def stage_of(module: str, depth: int) -> str:
    """The stage of a module, ``model`` for what the model does itself."""
    return ".".join(module.split(".")[:depth]) or "model"


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.detach().double().cpu().numpy())
