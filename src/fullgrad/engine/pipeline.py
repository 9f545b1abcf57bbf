"""From a model and an input to its full-gradient, one stage after the other.

Guard the model, record its forward, choose the scalar, propagate back, and hand every term to a
consumer while the sums are kept; then prove the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout, Layouts, Places, StatedPlaces, input_layouts
from fullgrad.engine import backward
from fullgrad.engine import samples as batching
from fullgrad.engine import verification as completeness
from fullgrad.engine.coverage import model_error_for, refuse_blocked, unrecorded_nodes
from fullgrad.engine.inputs import Inputs, Prepared, check, prepare
from fullgrad.engine.model_state import eager, guarded, plain_recurrence, redraw
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.recorder import Recorder, recording
from fullgrad.engine.recurrence import Recurrence
from fullgrad.engine.tape import Entry, Tape, resolve_general
from fullgrad.engine.targets import Selected, Target, select
from fullgrad.engine.terms import Term
from fullgrad.engine.wrappers import compiled, recurrent, unwrap
from fullgrad.errors import ModelError, OutputError


class Consumer(Protocol):
    """What is done with each term when back-propagation reaches it."""

    def term(self, term: Term) -> Tensor:
        """Take one bias term, and answer with its sums for each sample, shape (B,), float64."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call's arguments and options, as :func:`decompose` documents them."""

    model: nn.Module
    inputs: Inputs
    target: Target = None
    additional_forward_args: Any = None
    forward_kwargs: Mapping[str, Any] | None = None
    mode: Literal["eval", "as_is"] = "eval"
    per_sample: bool = True
    detached: Literal["error", "constant"] = "error"
    tolerance: float | None = None
    layout: InputLayout = None
    places: Places | None = None


@dataclass(frozen=True, slots=True)
class Traced:
    """A recorded forward with its explained scalars."""

    prepared: Prepared
    layouts: Layouts
    selected: Selected
    recorder: Recorder
    general: tuple[tuple[str, str], ...]

    @property
    def tape(self) -> Tape:
        """What was recorded."""
        return self.recorder.tape

    @property
    def output(self) -> Tensor:
        """Explained scalars, shape (B,), inside the graph."""
        return self.selected.output


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of one explanation and where its samples lie."""

    input_gradients: tuple[Tensor, ...]
    input_sums: Tensor
    sums: dict[int, Tensor]
    axes: dict[int, int | None]
    residual: Tensor
    scale: Tensor
    tolerance: float


def _validate(request: Request) -> None:
    for name, value, known in (
        ("mode", request.mode, ("eval", "as_is")),
        ("detached", request.detached, ("error", "constant")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {value!r}")
    if request.tolerance is not None and not request.tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {request.tolerance!r}")


def _trace(request: Request, model: nn.Module, on_write: Any, keep_steps: bool = False) -> Traced:
    prepared = prepare(request.inputs, request.additional_forward_args, request.forward_kwargs)
    allow = request.detached == "constant"
    layouts = input_layouts([x.shape for x in prepared.leaves], prepared.names, request.layout)
    stated = StatedPlaces(request.places or {}, layouts)
    recorder = Recorder(
        prepared.roots,
        ModulePath(model),
        on_write,
        keep_steps=keep_steps,
        allow_detached=allow,
        layouts=layouts,
        stated=stated,
    )
    recurrence = Recurrence(recorder) if recurrent(model) else nullcontext()
    with recording(recorder), recurrence:
        result = model(*prepared.args, **prepared.kwargs)
        refuse_blocked(recorder, result, allow)
        selected = select(result, request.target)
    refuse_blocked(recorder, selected.output, allow)
    stated.check_used()
    if not bool(torch.isfinite(selected.output).all()):
        raise OutputError("the model's output holds NaN or infinite values; nothing to explain")
    if not recorder.depends(selected.output):
        raise ModelError(
            "the explained output does not depend on the input through autograd: there is no "
            "gradient to explain with (is the model called under no_grad, or is the target "
            "constant?)"
        )
    missing = unrecorded_nodes(recorder.tape, recorder, selected.output)
    if missing:
        raise model_error_for(missing)
    return Traced(prepared, layouts, selected, recorder, tuple(resolve_general(recorder.tape)))


def _find_samples(traced: Traced) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Which sample each number of each term, and of each input, belongs to."""
    base = batching.base_for(traced.output.dtype)
    output, leaves, batch = traced.output, traced.prepared.leaves, len(traced.output)
    plain: dict[int, Tensor] = {}
    digits: dict[int, list[Tensor]] = {}

    def keep(place: int, entry: Entry, gradient: Tensor) -> None:
        plain[place] = backward.widen(gradient)

    ones = torch.ones_like(output)
    inputs = backward.run(traced.tape, output, leaves, ones, keep, keep_graph=True)
    input_digits: list[list[Tensor]] = [[] for _ in leaves]

    def read(before: Tensor, after: Tensor, into: list[Tensor]) -> None:
        digit = batching.digits_of(before, after, output.dtype)
        if digit is None:
            raise ModelError(
                "the samples of the batch depend on each other (batch statistics, or an operation "
                "across the batch), so no sample has terms of its own. Explain one sample at a "
                "time, use evaluation mode, or pass per_sample=False to explain the batch's sum."
            )
        into.append(digit)

    for number in range(batching.passes(batch, base)):
        weights = batching.weights(batch, number, output.detach())

        def compare(place: int, entry: Entry, gradient: Tensor) -> None:
            read(plain[place], backward.widen(gradient), digits.setdefault(place, []))

        again = backward.run(traced.tape, output, leaves, weights, compare, keep_graph=True)
        for before, after, into in zip(inputs, again, input_digits, strict=True):
            read(backward.widen(before), backward.widen(after), into)
    return (
        {place: batching.combine(d, base) for place, d in digits.items()},
        [batching.combine(d, base) for d in input_digits],
    )


def _propagate(request: Request, traced: Traced, consumer: Consumer, label: bool) -> Totals:
    batch = len(traced.output) if request.per_sample else 1
    samples: dict[int, Tensor] = {}
    input_samples: list[Tensor] = []
    leaves = traced.prepared.leaves
    if label and batch > 1:
        samples, input_samples = _find_samples(traced)
    sums: dict[int, Tensor] = {}
    axes: dict[int, int | None] = {}

    def receive(place: int, entry: Entry, gradient: Tensor) -> None:
        term = Term(place, entry, gradient, batch, samples.get(place))
        sums[place] = consumer.term(term)
        axes[place] = term.batch_axis(len(traced.output))
        entry.release()

    ones = torch.ones_like(traced.output)
    gradients = backward.run(traced.tape, traced.output, leaves, ones, receive)
    input_sums = torch.zeros(batch, dtype=torch.float64, device=traced.output.device)
    for i, (g, leaf) in enumerate(zip(gradients, leaves, strict=True)):
        value = backward.product(backward.widen(g), backward.widen(leaf.detach()), False)
        part = (
            batching.sums_labelled(value, input_samples[i], batch)
            if input_samples
            else batching.sums_leading(value, batch)
        )
        input_sums = input_sums + part.to(input_sums.device)
    dtypes = {*traced.tape.dtypes, *(leaf.dtype for leaf in leaves), traced.output.dtype}
    tolerance = request.tolerance or completeness.tolerance_for(dtypes, traced.output.device)
    output = traced.output.detach() if request.per_sample else traced.output.detach().sum().view(1)
    residual, scale = completeness.balance(output, [input_sums, *sums.values()])
    return Totals(gradients, input_sums, sums, axes, residual, scale, tolerance)


def _needs_labels(traced: Traced) -> bool:
    batch = len(traced.output)
    unknown = [e.shape for e in traced.tape.entries if batching.along(e.axes, batch) is None]
    unknown += [leaf.shape for leaf in traced.prepared.leaves]
    return not all(batching.leading(shape, batch) for shape in unknown)


def _may_be_coupled(request: Request, model: nn.Module) -> bool:
    """Training-mode layers may mix samples, too little for the sums to show."""
    return request.mode == "as_is" and any(m.training for m in model.modules())


def _enter(stack: ExitStack, request: Request, model: nn.Module) -> Any:
    """Guard the model, and set what the process must be set to meanwhile."""
    stack.enter_context(torch.inference_mode(False))
    guard = stack.enter_context(guarded(model, evaluate=request.mode == "eval"))
    stack.enter_context(eager.held(compiled(model)))
    stack.enter_context(plain_recurrence.held(recurrent(model)))
    return guard


def explain(request: Request, make_consumer: Any) -> tuple[Traced, Totals, Any]:
    """Run all stages.

    Args:
        request: model, inputs and options.
        make_consumer: from a :class:`Traced` to the :class:`Consumer` of its terms.

    Returns:
        The recording, the sums, and the consumer after it has seen every term.

    Raises:
        FullGradError: see :func:`fullgrad.decompose`.
    """
    _validate(request)
    model = unwrap(request.model)
    check(request.inputs)
    with ExitStack() as stack:
        guard = _enter(stack, request, model)

        def attempt(label: bool) -> tuple[Traced, Totals, Any]:
            traced = _trace(request, model, guard.before_write)
            consumer = make_consumer(traced)
            label = label or (
                request.per_sample and (_needs_labels(traced) or _may_be_coupled(request, model))
            )
            return traced, _propagate(request, traced, consumer, label), consumer

        traced, totals, consumer = attempt(label=False)
        if not completeness.holds(totals.residual, totals.scale, totals.tolerance):
            whole = (totals.residual.sum(), totals.scale.sum())
            if len(totals.residual) > 1 and completeness.holds(*whole, totals.tolerance):
                guard.rewind()
                redraw()
                traced, totals, consumer = attempt(label=True)
        if not completeness.holds(totals.residual, totals.scale, totals.tolerance):
            guard.rewind()
            redraw()
            again = _trace(request, model, guard.before_write, keep_steps=True)
            gaps = backward.local_gaps(
                again.tape.steps, again.tape, again.output, again.prepared.leaves
            )
            raise completeness.breach(totals.residual, totals.scale, totals.tolerance, gaps)
    return traced, totals, consumer


def forward(request: Request) -> Selected:
    """The recorded forward alone: the explained scalars, outside the graph."""
    _validate(request)
    model = unwrap(request.model)
    check(request.inputs)
    with ExitStack() as stack:
        guard = _enter(stack, request, model)
        selected = _trace(request, model, guard.before_write).selected
    return replace(selected, output=selected.output.detach())
