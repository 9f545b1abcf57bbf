"""What is explained and how: a call's arguments apart from their tensors, and the eager call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fullgrad._options import calls_with
from fullgrad.engine import listening
from fullgrad.engine.targets import Several, main_tensor, rows_of, several
from fullgrad.errors import OptionError, TargetError
from fullgrad.maps.complete import complete_map
from fullgrad.maps.complete_sink import Explained
from fullgrad.maps.saliency import saliency

# The eager call of each method, and the options that the method's name stands for.
_DRAWN = "psi", "terms"
_COMPLETE = "placement", "terms"
_SHARED = "detached", "tolerance", "layout", "activation_layouts", "linearization"
_METHODS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "fullgrad": ("saliency", _DRAWN, {}),
    "simple_fullgrad": ("saliency", _DRAWN, {}),
    "complete_fullgrad": ("complete_map", _COMPLETE, {}),
    "balanced_fullgrad": ("complete_map", _COMPLETE, {"linearization": "balanced"}),
    "balanced_input": ("complete_map", _COMPLETE, {"linearization": "balanced", "terms": "input"}),
}
METHODS = tuple(_METHODS)


class Slot(NamedTuple):
    """Where a tensor stands among a call's tensors."""

    place: int


@dataclass(frozen=True, slots=True)
class Arguments:
    """A call's arguments without their tensors: a :class:`Slot` stands for each.

    Args:
        inputs: what the user gave as such.
        extra: ``additional_forward_args``.
        keywords: ``forward_kwargs``.
    """

    inputs: Any
    extra: Any = None
    keywords: Any = None

    @classmethod
    def of(
        cls, inputs: Any, extra: Any = None, keywords: Any = None
    ) -> tuple[Arguments, list[Tensor]]:
        """Take the tensors out of a call's arguments: those in lists, tuples and dicts as well."""
        found: list[Tensor] = []

        def strip(value: Any) -> Any:
            if isinstance(value, Tensor):
                found.append(value)
                return Slot(len(found) - 1)
            return _each(value, strip)

        return cls(*[strip(v) for v in (inputs, extra, keywords)]), found

    def filled(self, tensors: Sequence[Tensor]) -> tuple[Any, Any, Any]:
        """Inputs, additional arguments and keywords, with these tensors in their places."""

        def fill(value: Any) -> Any:
            return tensors[value.place] if isinstance(value, Slot) else _each(value, fill)

        return fill(self.inputs), fill(self.extra), fill(self.keywords)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container with everything in it changed; another value as it is."""
    if isinstance(value, Mapping):
        return {k: change(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(v) for v in value)
    return value


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one eager call gives; see :class:`fullgrad.interop.compiling.trace.Trace`."""

    maps: tuple[Tensor, ...]
    output: Tensor
    residual: Tensor
    index: Tensor | None
    rest: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Explaining:
    """A method and its options.

    Args:
        method: one of :data:`METHODS`.
        options: of :func:`fullgrad.saliency` or :func:`fullgrad.complete_map`.

    Raises:
        OptionError: a method or an option that a graph is not made of.
    """

    method: str = "fullgrad"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            from fullgrad.methods import names

            call = f"fullgrad.methods.attribute({self.method!r}, model, inputs, target)"
            eager = f". Explain it eagerly: {call}" if self.method in names() else ""
            raise OptionError(
                f"method must be one of {', '.join(METHODS)}, not {self.method!r}{eager}"
            )
        taken = (*_METHODS[self.method][1], *_SHARED)
        for option in self.options:
            if option not in taken:
                eager = f". With it, explain eagerly: {self.words}" if self._eager(option) else ""
                raise OptionError(
                    f"a graph of {self.method} has no option {option!r}; it has "
                    f"{', '.join(sorted(taken))}{eager}"
                )

    def _eager(self, option: str) -> bool:
        """Whether the eager call takes an option."""
        return _METHODS[self.method][0] in calls_with(option)

    @property
    def words(self) -> str:
        """The eager call, as a message shows it."""
        call, _, named = _METHODS[self.method]
        method = "method='simple_fullgrad'" if self.method == "simple_fullgrad" else ""
        given = [method, *(f"{k}={v!r}" for k, v in named.items())]
        return f"fullgrad.{call}({', '.join(filter(None, ('model, inputs, target', *given)))})"

    def refuse_several(self, target: Any) -> None:
        """Refuse several targets of each sample.

        Raises:
            TargetError: the target holds several.
        """
        if isinstance(several(target), Several):
            raise TargetError(
                "a graph explains one target of each sample in a call, not several: call it once "
                f"for each, or explain them eagerly: {self.words}"
            )

    def eager(
        self, model: nn.Module, arguments: Arguments, tensors: Sequence[Tensor], target: Any
    ) -> Found:
        """The eager call.

        Args:
            model: any.
            arguments: of the call.
            tensors: that belong to them.
            target: any for one number of each sample.

        Raises:
            TargetError: several targets of each sample.
            FullGradError: see :func:`fullgrad.saliency`.
        """
        self.refuse_several(target)
        call, _, named = _METHODS[self.method]
        inputs, extra, keywords = arguments.filled(tensors)
        options: dict[str, Any] = {
            "additional_forward_args": extra,
            "forward_kwargs": keywords,
            **named,
            **self.options,
        }
        with listening() as heard:
            if call == "saliency":
                saliency(model, inputs, target, self.method, **options)
            else:
                complete_map(model, inputs, target, **options)
        (one,) = heard
        made = one.made
        complete = isinstance(made, Explained)
        result, _ = main_tensor(one.result)
        return Found(
            made.maps if complete else made,
            one.output,
            made.residual if complete else one.residual,
            one.index,
            tuple(result.shape[1:]),
        )


def rows_for(target: Any, found: Found, explaining: Explaining) -> Tensor:
    """A target as the graph takes it; see :class:`fullgrad.interop.compiling.trace.Trace`.

    Raises:
        TargetError: it is not one index, or one tuple of indices, for each sample.
    """
    batch, rest = len(found.output), found.rest
    listed = isinstance(target, list) and any(map(callable, target))
    if listed or (callable(target) and not isinstance(target, Tensor)):
        raise TargetError(
            "a graph takes one index for each sample (or a tuple of them) as target, not a "
            f"callable. Explain it eagerly: {explaining.words}"
        )
    explaining.refuse_several(target)
    rows = rows_of(target, (batch, *rest))
    if rows is None:
        rows = [(-1,) * len(rest)] * batch
    return torch.tensor(rows, dtype=torch.long, device=found.output.device).reshape(
        batch, len(rest)
    )
