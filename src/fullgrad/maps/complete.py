"""The complete map: signs and sizes kept, every term's sum kept, what has no place kept apart.

docs/design/complete-map.md says where each number is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from fullgrad._optional import require
from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.spread import MassPlacement, check_placement
from fullgrad.engine.inputs import Inputs, check
from fullgrad.engine.pipeline import explain_each
from fullgrad.engine.request import Detached, Mode, Request, Traced
from fullgrad.engine.targets import Several, Target, Top
from fullgrad.errors import InputError, OptionError
from fullgrad.maps._complete_parts import joined, of_targets
from fullgrad.maps._complete_result import MapResult
from fullgrad.maps.complete_sink import Complete, Explained
from fullgrad.maps.minibatches import BatchSize, check_size, in_minibatches, samples_of
from fullgrad.maps.path import Baseline, Steps, check_steps, in_steps, references, zero_in_words
from fullgrad.maps.regions import Boxes, Sums, as_numpy, box_sums, cells_of, label_sums, pooled
from fullgrad.maps.saliency import asked, packed
from fullgrad.maps.selection import Terms, paths_in, selection
from fullgrad.operations.linearization import Linearization, Named, linearization_of

Depth: TypeAlias = Literal["input", "mean", "early"]


@dataclass(frozen=True, slots=True, eq=False)
class CompleteMap(MapResult):
    """A model's output as a sum over the places of its inputs.

    For each sample, the sum of all maps + ``elsewhere`` + ``residual`` is ``output``.

    With k targets for each sample every map has shape (B, k, *positions), and what is said below
    to have shape (B,) has shape (B, k): the sums hold for each target.

    Args:
        map: signed, shape (B, 1, *positions), in the output's precision; for several inputs a tuple
            or dict of them, as the inputs were given.
        elsewhere: the sum of all numbers without a place, shape (B,), float64.
        elsewhere_by_stage: the same by stage, from the first component of the module path (``""``:
            the model's own code) to shape (B,), in order of execution. ``"fused"``: what lies on
            the grids of several inputs at once; ``"left out"``: what ``terms`` does not select.
        output: the explained scalars, shape (B,).
        residual: output minus everything above, shape (B,), float64: rounding, proved.
        target: class index of each sample, shape (B,), if the target was one.
        input_names: a name for each explained input.
        linearization: which linear maps stood for the operations, in words.
        zero: where the input term is zero, in words: the map says what differs from there.
        layers: over which the map is a mean, ``"input"`` first; see ``depth=``.
        steps: how many led from the baseline to the input, shape (B,); see ``steps=``.
    """

    map: Any
    elsewhere: Tensor
    elsewhere_by_stage: dict[str, Tensor]
    output: Tensor
    residual: Tensor
    target: Tensor | None
    input_names: tuple[str, ...]
    steps: Tensor
    linearization: str = "jacobian"
    zero: str = "zero of the input"
    layers: tuple[str, ...] = ("input",)

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """The maps of all explained inputs."""
        if isinstance(self.map, Tensor):
            return (self.map,)
        return tuple(self.map.values() if isinstance(self.map, dict) else self.map)

    @property
    def positive(self) -> Tensor:
        """The sum of the maps' positive numbers, shape (B,), float64.

        It depends on the cells: ``pooled(7)`` sums before it is asked what is positive.
        """
        return self._total([m.clamp(min=0) for m in self.maps])

    @property
    def negative(self) -> Tensor:
        """The sum of the maps' negative numbers, shape (B,), float64."""
        return self._total([m.clamp(max=0) for m in self.maps])

    def _total(self, maps: Sequence[Tensor]) -> Tensor:
        """The sum of maps over their places, in the shape of the output."""
        parts = [m.flatten(2).sum(2, dtype=torch.float64) for m in maps]
        return torch.stack(parts).sum(0).view(self.output.shape)

    def pooled(self, size: int | Sequence[int]) -> Any:
        """The map in even cells of any number, exact: places are divided where borders cut them.

        Args:
            size: how many cells there are along each axis, one number for all axes or one for each.

        Returns:
            Shape (B, 1, *size), or (B, k, *size), in the form of :attr:`map`; the sums are those of
            the map.

        Raises:
            InputError: a size that does not fit.
        """
        found = [pooled(m, cells_of(size, m.dim() - 2)) for m in self.maps]
        if isinstance(self.map, Tensor):
            return found[0]
        return dict(zip(self.map, found, strict=True)) if isinstance(self.map, dict) else (*found,)

    def by_region(
        self,
        labels: Any = None,
        *,
        boxes: Boxes | None = None,
        spans: Boxes | None = None,
        input: int | str | None = None,
    ) -> Any:
        """Exact sums by region, as a pandas table; each sample's column sums to its output.

        Give one of ``labels``, ``boxes`` and ``spans``.

        Args:
            labels: an integer for each place, shape (*positions) or (B, *positions); negative ones
                are no region.
            boxes: of images and volumes: (x0, y0, x1, y1), (x0, y0, z0, x1, y1, z1), a list of them
                or a dict from name to box. In places: the first one covers 0 to 1. Borders may run
                through places, which are then divided.
            spans: of series: (start, stop), likewise.
            input: which input, by number or name, if there are several.

        Returns:
            A ``pandas.DataFrame``: a row for each label or box, ``rest`` for all other places,
            for other inputs their names, ``elsewhere``; a column for each sample, float64; with
            several targets one for each sample and target, (sample, number of the target).

        Raises:
            OptionError: none or several of the three, or an input that there is not.
            InputError: regions that do not fit the map, or overlap.
            MissingDependencyError: pandas is not installed.
        """
        given = {"labels": labels, "boxes": boxes, "spans": spans}
        kinds = [name for name, value in given.items() if value is not None]
        if len(kinds) != 1:
            raise OptionError(f"give one of labels, boxes and spans, not {len(kinds)} of them")
        place = self._input(input)
        own = self.maps[place]
        if (kinds[0] == "spans") != (own.dim() == 3) and kinds[0] != "labels":
            fits = "spans" if own.dim() == 3 else "boxes"
            raise InputError(f"a map of shape {tuple(own.shape)} has {fits}, not {kinds[0]}")
        pandas: Any = require("pandas", "bench")
        sums: Sums
        if labels is not None:
            sums = label_sums(own, labels)
        else:
            others = [n for i, n in enumerate(self.input_names) if i != place]
            sums = box_sums(own, boxes if spans is None else spans, others)  # type: ignore[arg-type]
        rows = {name: part.view(self.output.shape) for name, part in sums.items()}
        rows["rest"] = self._total([own]) - sum(rows.values())
        for i, (name, other) in enumerate(zip(self.input_names, self.maps, strict=True)):
            if i != place:
                rows[name] = self._total([other])
        rows["elsewhere"] = self.elsewhere
        table = pandas.DataFrame([as_numpy(v).reshape(-1) for v in rows.values()], index=list(rows))
        table.index.name = "region"
        if self.output.dim() == 1:
            table.columns.name = "sample"
        else:
            counts = [range(n) for n in self.output.shape]
            table.columns = pandas.MultiIndex.from_product(counts, names=["sample", "target"])
        return table

    def _input(self, given: int | str | None) -> int:
        names = self.input_names
        if given is None and len(names) == 1:
            return 0
        if isinstance(given, str) and given in names:
            return names.index(given)
        if type(given) is int and 0 <= given < len(names):
            return given
        raise OptionError(
            f"input must be one of {', '.join(map(repr, names))} or its number, not {given!r}"
        )

    def __repr__(self) -> str:
        shapes = ", ".join("x".join(map(str, m.shape)) for m in self.maps)
        return f"CompleteMap({shapes}; residual={float(self.residual.abs().max()):.1e})"


@takes_options("complete_map")
def complete_map(
    model: nn.Module,
    inputs: Inputs,
    target: Target = None,
    *,
    placement: MassPlacement = "receptive_field",
    terms: Terms = "all",
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "eval",
    detached: Detached = "error",
    tolerance: float | None = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
    linearization: Named | Linearization = "jacobian",
    baseline: Baseline = None,
    depth: Depth = "input",
    steps: Steps = 1,
    batch_size: BatchSize = None,
    memory: int | None = None,
    top: int | None = None,
) -> CompleteMap:
    """The output as a signed map and a remainder that has no place; together they are the output.

    Every term of :func:`fullgrad.decompose` keeps its sign and its size. Its numbers are drawn
    where they lie, each divided among places so that its sum is kept. What reads no proper part of
    the grid (after global pooling, dense layers, class tokens) is in ``elsewhere``, not spread.

    It is an attribution: it says how the output is added up, not what would happen if something
    were removed. See docs/complete-map.md.

    Args:
        model: any ``nn.Module`` whose terms lie on the input's grid.
        inputs: see :func:`fullgrad.saliency`.
        target: see :func:`fullgrad.decompose`; or several for each sample, as ``[[3, 7, 9]]``,
            which cost one forward and k backward passes: see :func:`fullgrad.saliency`.
        placement: how a coarse cell's number is divided: ``"receptive_field"``: linearly around the
            center of what it reads, never outside the interval that it reads; ``"cells"``: evenly
            over the cell's own share of the axis, where the grid covers it evenly.
        terms: which terms are on the map; see :func:`fullgrad.saliency`. The others are in
            ``elsewhere`` as ``"left out"``. Where a model has no such term that has a place (no
            implicit biases, for example) the map is zero.
        additional_forward_args: see :func:`fullgrad.decompose`.
        forward_kwargs: see :func:`fullgrad.decompose`.
        mode: see :func:`fullgrad.decompose`.
        detached: see :func:`fullgrad.decompose`.
        tolerance: see :func:`fullgrad.decompose`.
        layout: see :func:`fullgrad.decompose`.
        activation_layouts: see :func:`fullgrad.decompose`.
        linearization: see :func:`fullgrad.decompose`.
        baseline: a reference x0 that splits the input term: the gradient times x - x0 is on the
            map, times x0 in ``elsewhere`` as ``"reference"``. What is explained stays the output
            f(x), not f(x) - f(x0): for that, ``target=lambda y: y[:, 3] - y0`` as well. A number;
            a tensor of the input's shape, or with one sample for all; a sequence of such if there
            are several inputs. ``"mean"``: each sample's mean over its positions, for each channel,
            for an image its mean color. With ``depth="mean"`` each layer's numbers are split
            likewise, at what the layer returns on the baseline: two forward passes.
            None: zero, which after the usual normalization is the data's mean color, and for
            embeddings no word.
        depth: ``"input"``: all terms, down to the input. ``"mean"``: the sum can be stopped at any
            layer that everything passes through, where the layer's output times its gradient
            stands for all that lies before it; this is the mean of these maps, from the input to
            the last such layer that has positions. Each is a complete map, so their mean is.
            Where the sums' tolerance is loose (half precision, TF32 on a GPU), a layer that only
            a small part of the output bypasses may count.
            ``"early"``: the weighted mean in which the last layer counts once, the one before it
            4 times, then 9 times, and so on; the input, first of N layers, N² times.
        steps: how many steps lead from the baseline to the input, along a straight line. Each is
            the map of its end, compared with its start, and the maps are added: what the starts
            have of the output cancels, so that the sum is the output as before. Each costs a
            forward and a backward pass. ``"auto"``: one for samples of which its map adds up to
            what changes between baseline and input, f(x) - f(x0), within a thousandth of the sum
            of its numbers' sizes (in half precision: the tolerance of its sums); eight for the
            others. All but 1 need a ``baseline`` and
            ``terms="input"``.
        batch_size: see :func:`fullgrad.saliency`.
        memory: see :func:`fullgrad.saliency`.
        top: see :func:`fullgrad.saliency`.

    Returns:
        The frozen :class:`CompleteMap`, its sum proved for each sample and each target.

    Raises:
        ValueError: a value that an option cannot have.
        OptionError: an option that there is not; a ``TypeError``.
        LayoutError: where a term's numbers lie is not known.
        FullGradError: as :func:`fullgrad.decompose`.

    Example:
        >>> import torch, fullgrad
        >>> conv, head = torch.nn.Conv2d(3, 2, 3, stride=2), torch.nn.Linear(2 * 3 * 3, 4)
        >>> model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.Flatten(), head)
        >>> found = fullgrad.complete_map(model, torch.ones(1, 3, 8, 8), target=1)
        >>> found.map.shape, list(found.elsewhere_by_stage)
        (torch.Size([1, 1, 8, 8]), ['3'])
        >>> total = found.map.sum() + found.elsewhere
        >>> torch.allclose(total, found.output.double(), atol=1e-5)
        True
        >>> left = found.by_region(boxes={"left": (0, 0, 4, 8)})
        >>> list(left.index), bool(abs(left[0].sum() - found.output.item()) < 1e-5)
        (['left', 'rest', 'elsewhere'], True)
        >>> two = fullgrad.complete_map(model, torch.ones(1, 3, 8, 8), target=[[1, 3]])
        >>> two.map.shape, two.elsewhere.shape, bool(torch.equal(two.map[:, :1], found.map))
        (torch.Size([1, 2, 8, 8]), torch.Size([1, 2]), True)
    """
    check_placement(placement)
    chosen = selection(terms, paths_in(model))
    check_size(batch_size, memory)
    if batch_size is not None:
        check(inputs)  # before they are cut
    request = Request(
        model,
        inputs,
        asked(target, top),
        additional_forward_args,
        forward_kwargs,
        mode,
        detached=detached,
        tolerance=tolerance,
        layout=layout,
        activation_layouts=activation_layouts,
        linearization=linearization,
        takes_per_sample=False,
        with_cuts=check_depth(depth) != "input",
    )
    check_steps(steps, baseline, terms)
    zero = zero_in_words(baseline)
    if baseline is not None:
        request = replace(request, reference=partial(references, baseline, 0, None))
    count = None if batch_size is None else samples_of(request)
    parts: list[Explained] = []

    def compute(part: Request) -> tuple[Tensor]:
        start = sum(len(p.output) for p in parts)

        if baseline is not None:  # one for each sample is cut as the inputs are
            part = replace(part, reference=partial(references, baseline, start, count))

        def explained(step: Request) -> list[Explained]:
            def sink(traced: Traced, _: int) -> Complete:
                zeros = None
                if step.reference is not None:
                    leaves = [x.detach() for x in traced.prepared.leaves]
                    zeros = step.reference(leaves, traced.layouts)
                return Complete(traced, chosen, placement, zeros, falling=depth == "early")

            return explain_each(step, sink)

        found = in_steps(part, steps, explained)
        parts.append(of_targets(found) if _several(part.target, len(found)) else found[0])
        return (parts[-1].output,)

    in_minibatches(request, compute, batch_size, memory)
    found = joined(parts)
    return CompleteMap(
        map=packed(found.maps, inputs),
        elsewhere=torch.stack([*found.stages.values()]).sum(0)
        if found.stages
        else torch.zeros_like(found.residual),
        elsewhere_by_stage=found.stages,
        output=found.output,
        residual=found.residual,
        target=found.target,
        input_names=found.names,
        linearization=str(linearization_of(linearization)),
        zero=zero,
        layers=found.layers,
        steps=found.steps,
    )


def check_depth(depth: str) -> str:
    """Refuse a depth that is unknown.

    Raises:
        ValueError: listing those there are.
    """
    if depth not in get_args(Depth):
        raise ValueError(f"depth must be 'input', 'mean' or 'early', not {depth!r}")
    return depth


def _several(target: Any, found: int) -> bool:
    """Whether a call asked for several targets: not for one index into a dense output, in a row."""
    if isinstance(target, Several):
        return len(target.rows[0]) == found
    return isinstance(target, Top)
