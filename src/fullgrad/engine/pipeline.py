"""From a model and an input to its full-gradient, one stage after the other.

Guard the model, record its forward, choose the scalar, propagate back, and hand every term to a
sink while the sums are kept; then prove the sum, and ask the sink for its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from fullgrad._compat import has_backward_hooks
from fullgrad._decisions import decided
from fullgrad.axes.layouts import StatedLayouts, input_layouts
from fullgrad.axes.reading import told_by
from fullgrad.engine import backward, samples, verification
from fullgrad.engine._baseline import Baseline, in_place_of
from fullgrad.engine._cuts import Cut, noted
from fullgrad.engine._fast_path import compare_with_fast_path
from fullgrad.engine._linearizer import check_modules
from fullgrad.engine._listening import noting, told
from fullgrad.engine._recurrence import Recurrence
from fullgrad.engine._sample_search import find_samples, may_be_coupled, needs_labels
from fullgrad.engine._shifts import Arrivals
from fullgrad.engine.coverage import model_error_for, refuse_blocked, refuse_used, unrecorded_nodes
from fullgrad.engine.inputs import check, check_keywords, failures_named, prepare
from fullgrad.engine.model_state import Guard, eager, guarded, plain_recurrence, redraw
from fullgrad.engine.module_path import ModulePath, watched
from fullgrad.engine.recorder import Recorder, recording
from fullgrad.engine.refusals import refuse_without_batch_axis
from fullgrad.engine.request import Request, Traced
from fullgrad.engine.tape import Entry, resolve_general
from fullgrad.engine.targets import Contrast, Selected, choose
from fullgrad.engine.terms import Term
from fullgrad.engine.wrappers import compiled, recurrent, unwrap
from fullgrad.errors import ModelError, OutputError
from fullgrad.operations.linearization import linearization_of

Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of one explanation and where its samples lie.

    ``input_labels`` hold the sample of each number of the inputs, where that had to be asked.
    """

    input_gradients: tuple[Tensor, ...]
    input_sums: Tensor
    sums: dict[int, Tensor]
    axes: dict[int, int | None]
    residual: Tensor
    scale: Tensor
    tolerance: float
    input_labels: tuple[Tensor, ...] = ()

    @property
    def hold(self) -> bool:
        """Whether the terms sum to the output."""
        return verification.holds(self.residual, self.scale, self.tolerance)

    @property
    def hold_together(self) -> bool:
        """Whether those of a batch do, all samples taken together."""
        whole = (self.residual.sum(), self.scale.sum())
        return len(self.residual) > 1 and verification.holds(*whole, self.tolerance)


class Sink(Protocol[Result_co]):
    """What is done with the terms of one backward pass, and what comes of it."""

    def term(self, term: Term) -> Tensor:
        """Take one bias term, and return its sums for each sample, shape (B,), float64.

        Terms come in the order of back-propagation, from the last to the first.
        """

    def result(self, totals: Totals) -> Result_co:
        """What the terms make, after the last one came and their sum was proved."""


@runtime_checkable
class TakesCuts(Protocol):
    """A sink that is also given the gradients at modules' outputs."""

    def cut(self, cut: Cut, gradient: Tensor) -> None:
        """Take the gradient at a module's output; the terms behind it have come, none before."""


# From a recorded forward and the number of its target to the sink of its terms.
OpenSink: TypeAlias = Callable[[Traced, int], Sink[Result_co]]


def input_term(gradient: Tensor, leaf: Tensor) -> Tensor:
    """Gradient times input, in the input's shape, half precision widened."""
    return backward.product(backward.widen(gradient), backward.widen(leaf.detach()), False)


def _validated(request: Request) -> nn.Module:
    """The eager module of a request whose options and inputs can be used."""
    for name, value, known in (
        ("mode", request.mode, ("eval", "as_is")),
        ("detached", request.detached, ("error", "constant")),
        ("per_sample", request.per_sample, (True, False)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {value!r}")
    if (at := request.tolerance) is not None:
        number = isinstance(at, Real) and not isinstance(at, bool)
        if not (number and at > 0):
            raise ValueError(f"tolerance must be positive, not {at!r}")
        if not at < 1:  # residuals are relative: that would accept any
            raise ValueError(f"tolerance must be below 1, not {at!r}: residuals are relative")
    check_keywords(request.forward_kwargs)
    model = unwrap(request.model)
    check(request.inputs)
    linearization = linearization_of(request.linearization)
    if linearization.needs_baseline and request.reference is None:
        raise ValueError(
            f"linearization='{linearization}' compares with a baseline: call "
            "fullgrad.complete_map with baseline='mean', a number or a tensor"
        )
    check_modules(linearization, model)
    return model


def _on_baseline(request: Request, model: nn.Module, guard: Guard) -> Baseline | None:
    """What the model computes on the baseline, where the call compares with it."""
    linearization = linearization_of(request.linearization)
    if request.reference is None or not (request.with_cuts or linearization.needs_baseline):
        return None
    if request.way is not None and (known := request.way.baseline()) is not None:
        return known
    own = prepare(request.inputs)
    layouts = input_layouts([x.shape for x in own.leaves], own.names, request.layout)
    values = request.reference([x.detach() for x in own.leaves], layouts)
    inputs = in_place_of(request.inputs, values)
    prepared = prepare(inputs, request.additional_forward_args, request.forward_kwargs)
    baseline = Baseline()
    recorder = Recorder(
        prepared.roots,
        ModulePath(model),
        guard.before_write,
        allow_detached=True,
        layouts=layouts,
        linearization=linearization,
        baseline=baseline,
    )
    with recording(recorder), _noting(request, model, recorder) as layers, failures_named(inputs):
        model(*prepared.args, **prepared.kwargs)
    baseline.keep(layers)
    _again(guard)
    return baseline if request.way is None else request.way.begin(baseline)


def _noting(
    request: Request, model: nn.Module, recorder: Recorder
) -> AbstractContextManager[list[Cut]]:
    """Note modules' outputs, where the call asks for them."""
    if not request.with_cuts:
        return nullcontext([])
    return noted(model, recorder.depends, recorder.axes_of)


def _trace(
    request: Request,
    model: nn.Module,
    on_write: Callable[[Tensor], None],
    keep_steps: bool = False,
    baseline: Baseline | None = None,
) -> list[Traced]:
    """The recorded forward, once for each target."""
    prepared = prepare(request.inputs, request.additional_forward_args, request.forward_kwargs)
    allow = request.detached == "constant"
    linearization = linearization_of(request.linearization)
    layouts = input_layouts([x.shape for x in prepared.leaves], prepared.names, request.layout)
    stated = StatedLayouts(request.activation_layouts or {}, layouts)
    recorder = Recorder(
        prepared.roots,
        ModulePath(model),
        on_write,
        keep_steps=keep_steps,
        allow_detached=allow,
        layouts=layouts,
        stated=stated,
        linearization=linearization,
        baseline=baseline,
    )
    at_once = recurrent(model) and linearization.is_jacobian
    recurrence = Recurrence(recorder) if at_once else nullcontext()
    with recording(recorder), recurrence, _noting(request, model, recorder) as cuts:
        with failures_named(request.inputs):
            result = model(*prepared.args, **prepared.kwargs)
        refuse_blocked(recorder, result, allow)
        by_class = isinstance(request.target, Contrast) or not callable(request.target)
        if request.per_sample and by_class:
            refuse_without_batch_axis(recorder.tape, prepared.leaves, result)
        chosen = choose(result, request.target, layouts.samples)
    stated.check_used()
    for selected in chosen:
        refuse_blocked(recorder, selected.output, allow)
        _check_output(recorder, selected)
    general, named = tuple(resolve_general(recorder.tape)), str(linearization)
    layers = tuple(cuts) if baseline is None else baseline.beside(cuts)
    layouts = told_by(layouts, recorder.tape.bindings.readings)
    return [Traced(prepared, layouts, s, recorder, general, named, layers, result) for s in chosen]


def _check_output(recorder: Recorder, selected: Selected) -> None:
    """Refuse scalars that no gradient explains."""
    if not decided(torch.isfinite(selected.output).all(), proof=True):
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


def _propagate(
    request: Request, traced: Traced, sink: Sink[Any], label: bool, last: bool
) -> Totals:
    """One backward pass; the last one lets go of the graph and of what biases are made of."""
    batch = len(traced.output) if request.per_sample else 1
    labels: dict[int, Tensor] = {}
    input_labels: list[Tensor] = []
    leaves = traced.prepared.leaves
    if label and batch > 1:
        labels, input_labels = find_samples(request, traced)
    sums: dict[int, Tensor] = {}
    axes: dict[int, int | None] = {}

    def receive(place: int, entry: Entry, gradient: Tensor) -> None:
        term = Term(place, entry, gradient, batch, labels.get(place))
        sums[place] = sink.term(term)
        axes[place] = term.batch_axis(len(traced.output))
        if last:
            entry.release()

    passing = []
    if isinstance(sink, TakesCuts):
        passing = [(cut.edge, partial(sink.cut, cut)) for cut in traced.cuts]
    ones = torch.ones_like(traced.output)
    arrivals = Arrivals(traced.tape.shifts, batch)
    gradients = backward.run(
        traced.tape,
        traced.output,
        leaves,
        ones,
        receive,
        keep_graph=not last,
        watching=arrivals.watching(),
        passing=passing,
    )
    input_sums = torch.zeros(batch, dtype=torch.float64, device=traced.output.device)
    for i, (g, leaf) in enumerate(zip(gradients, leaves, strict=True)):
        value = input_term(g, leaf)
        where = samples.along(traced.layouts.axes[i], batch)
        if input_labels:
            part = samples.sums_labelled(value, input_labels[i], batch)
        elif where is not None:
            part = samples.sums_along(value, where, batch)
        else:
            part = samples.sums_leading(value, batch)
        input_sums = input_sums + part.to(input_sums.device)
    dtypes = {*traced.tape.dtypes, *(leaf.dtype for leaf in leaves), traced.output.dtype}
    tolerance = request.tolerance or verification.tolerance_for(dtypes, traced.output.device)
    output = traced.output.detach() if request.per_sample else traced.output.detach().sum().view(1)
    residual, scale = verification.balance(output, [input_sums, *sums.values()])
    refuse_used(arrivals.kept(scale))
    known = tuple(input_labels)
    return Totals(gradients, input_sums, sums, axes, residual, scale, tolerance, known)


@contextmanager
def _held(request: Request, model: nn.Module) -> Iterator[Guard]:
    """Guard the model, and set what the process must be set to meanwhile."""
    with (
        torch.inference_mode(False),
        guarded(model, evaluate=request.mode == "eval") as guard,
        eager.held(compiled(model)),
        plain_recurrence.held(recurrent(model)),
        watched(model, request.target),
    ):
        yield guard


def _attempt(
    request: Request, model: nn.Module, guard: Guard, open_sink: OpenSink[Result_co], label: bool
) -> list[tuple[Sink[Result_co], Totals]]:
    """One forward, and a backward pass for each target; the sinks have seen every term."""
    found: list[tuple[Sink[Result_co], Totals]] = []
    baseline = _on_baseline(request, model, guard)
    several = _trace(request, model, guard.before_write, baseline=baseline)
    for number, traced in enumerate(several):
        sink = open_sink(traced, number)
        apart = label
        if request.per_sample:
            apart = label or needs_labels(traced) or may_be_coupled(request, model)
        found.append((sink, _propagate(request, traced, sink, apart, traced is several[-1])))
    if several[0].tape.fast_path:
        _again(guard, forget=False)
        compare_with_fast_path(request, model, several, [(t.scale, t.tolerance) for _, t in found])
    return found


def _judged(
    request: Request, model: nn.Module, guard: Guard, totals: Totals, number: int
) -> Totals:
    """The sums again where only rounding separates them from the output.

    An output that is nothing but cancelled numbers (the mean of a normalized activation) is as
    exact as rounding allows: the residual is then relative to the size of these numbers, unless
    the call states its tolerance.

    Raises:
        CompletenessError: the terms do not sum to the output; names where.
    """
    baseline = _on_baseline(request, model, guard)
    again = _trace(request, model, guard.before_write, True, baseline)[number]
    gaps, size = backward.local_gaps(
        again.tape.steps, again.tape, again.output, again.prepared.leaves
    )
    dtypes = [d for d in (*again.tape.dtypes, again.output.dtype) if d.is_floating_point]
    if request.tolerance is None and verification.is_rounding(totals.residual, size, dtypes):
        return replace(totals, scale=totals.scale.clamp(min=size))
    hooked = [name or "the model" for name, m in model.named_modules() if has_backward_hooks(m)]
    raise verification.breach(totals.residual, totals.scale, totals.tolerance, gaps, dtypes, hooked)


def explain(request: Request, open_sink: Callable[[Traced], Sink[Result_co]]) -> Result_co:
    """Run all stages for one target.

    Args:
        request: model, inputs and options.
        open_sink: from a recorded forward to the sink of its terms. It is called again, and the
            first sink is dropped, if samples have to be separated in a second pass.

    Returns:
        The sink's result, the sum of its terms proved.

    Raises:
        FullGradError: see :func:`fullgrad.decompose`.
    """
    return explain_each(request, lambda traced, _: open_sink(traced))[0]


def explain_each(request: Request, open_sink: OpenSink[Result_co]) -> list[Result_co]:
    """Run all stages: one forward, and a backward pass for each target.

    Args:
        request: model, inputs and options.
        open_sink: as in :func:`explain`; it is also given which of the targets it is for.

    Returns:
        The sinks' results, one for each target, the sum of each one's terms proved.

    Raises:
        FullGradError: see :func:`fullgrad.decompose`.
    """
    model = _validated(request)
    open_sink, kept = noting(open_sink)
    proved: list[tuple[Sink[Result_co], Totals]] = []
    with _held(request, model) as guard:
        found = _attempt(request, model, guard, open_sink, label=False)
        if any(not totals.hold and totals.hold_together for _, totals in found):
            _again(guard)
            found = _attempt(request, model, guard, open_sink, label=True)
        for number, (sink, totals) in enumerate(found):
            if not totals.hold:
                _again(guard)
                totals = _judged(request, model, guard, totals, number)
            proved.append((sink, totals))
    return told(kept, proved)


def _again(guard: Guard, forget: bool = True) -> None:
    """Put the model and the random state back for another pass."""
    guard.rewind(forget=forget)
    redraw()


def forward(request: Request) -> list[Selected]:
    """The recorded forward alone: the explained scalars of each target, outside the graph."""
    model = _validated(request)
    with _held(request, model) as guard:
        found = [t.selected for t in _trace(request, model, guard.before_write)]
    return [replace(one, output=one.output.detach()) for one in found]
