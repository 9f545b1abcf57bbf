"""A network's output as an exact sum: the frozen result of :func:`fullgrad.decompose`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fullgrad._results import Result, sample_numbers, storable
from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import Atom, Coordinate
from fullgrad.axes.layouts import Grid, Layouts
from fullgrad.engine.backward import product, widen
from fullgrad.engine.module_path import is_submodule
from fullgrad.errors import OptionError
from fullgrad.operations import Kind

storable(Axes, Atom, Coordinate, Grid, Layouts)


@dataclass(frozen=True, slots=True, eq=False)
class BiasTerm(Result):
    """One operation's share of the output: gradient times bias, per neuron.

    Args:
        module: path of the module that ran the operation (``layer3.0.bn2``; ``""`` is the model).
        op: the operation, as PyTorch's dispatcher names it (``convolution``).
        kind: ``explicit`` (constants the model adds), ``implicit`` (left over by a non-linearity)
            or ``both``.
        gradient: of the explained scalars at the operation's output; the output's shape.
        bias: b = y - sum J u; broadcasts to the gradient's shape.
        sums: the term's sum for each sample, shape (B,), float64.
        batch_axis: where the batch lies in the term; None if it is folded with other numbers.
        axes: what the axes hold (samples, positions, channels), if that is known.
    """

    module: str
    op: str
    kind: Kind
    gradient: Tensor
    bias: Tensor
    sums: Tensor
    batch_axis: int | None = 0
    axes: Axes | None = field(default=None, repr=False)
    may_be_infinite: bool = field(default=False, repr=False)

    _numbers = ("gradient", "bias")

    @property
    def value(self) -> Tensor:
        """Gradient times bias per neuron, in the shape of the operation's output."""
        return product(self.gradient, self.bias, self.may_be_infinite)

    @property
    def shape(self) -> torch.Size:
        """Shape of :attr:`value`."""
        return self.gradient.shape

    def __repr__(self) -> str:
        return (
            f"BiasTerm(module={self.module!r}, op={self.op!r}, kind={self.kind!r}, "
            f"shape={tuple(self.shape)})"
        )

    def _repr_html_(self) -> str:
        from fullgrad.decomposition._display import term_html

        return term_html(self)


def _size(value: Tensor) -> float:
    return float(value.abs().sum(dtype=torch.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition(Result):
    """The full-gradient of a model at an input batch (Srinivas & Fleuret 2019, proposition 1).

    ``output = input_sums + sum of the bias terms' sums + residual`` per sample, where the
    residual is rounding and has been checked against :attr:`tolerance`.

    Args:
        output: the explained scalars, shape (B,).
        target: class index per sample, shape (B,), if the target was one.
        output_source: which part of the model's output was explained.
        inputs: the explained inputs, as given.
        input_names: a name for each of them.
        input_gradients: the gradient of the scalars at each input.
        input_sums: the input terms' sum per sample, shape (B,), float64.
        bias_terms: one for each operation with a bias, in order of execution.
        residual: output minus all terms, shape (B,), float64; of shape (1,) for the whole batch
            if ``per_sample`` was switched off.
        scale: what the residual is relative to: |output| plus the sum of the absolute values of
            the terms' sums, shape of the residual.
        tolerance: the largest relative residual accepted.
        general_path: (module, operation) of the calls whose bias is the forward-mode fallback's.
        layouts: the axes of the inputs and the grids that terms lie on.
        linearization: which linear maps stood for the operations, in a word.
    """

    output: Tensor
    target: Tensor | None
    output_source: str
    inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    input_gradients: tuple[Tensor, ...]
    input_sums: Tensor
    bias_terms: tuple[BiasTerm, ...]
    residual: Tensor
    scale: Tensor
    tolerance: float
    general_path: tuple[tuple[str, str], ...]
    layouts: Layouts
    linearization: str = "jacobian"

    _numbers = ("inputs", "input_gradients")

    @property
    def input_terms(self) -> tuple[Tensor, ...]:
        """Gradient times input, one for each explained input, in its shape."""
        return tuple(
            product(widen(g), widen(x.detach()), False)
            for g, x in zip(self.input_gradients, self.inputs, strict=True)
        )

    @property
    def relative_residual(self) -> Tensor:
        """Absolute residual over :attr:`scale`, shape of the residual."""
        return self.residual.abs() / self.scale.clamp(min=torch.finfo(torch.float64).tiny)

    @property
    def bias_sums(self) -> Tensor:
        """Sum of all bias terms per sample, shape (B,), float64."""
        total = torch.zeros_like(self.input_sums)
        for term in self.bias_terms:
            total = total + term.sums
        return total

    def implicit_shares(self) -> dict[str, float]:
        """How much of the terms' sizes lies in what operations leave over, by operation.

        Returns:
            The sum of the absolute values of the numbers of the terms that are not explicit,
            divided by that of all terms, the largest first. Those of zero are left out.

        Example:
            >>> import torch, fullgrad
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU())
            >>> fullgrad.decompose(model, torch.ones(1, 4), 0).implicit_shares().keys()
            dict_keys(['gelu'])
            >>> fullgrad.decompose(
            ...     model, torch.ones(1, 4), 0, linearization="balanced"
            ... ).implicit_shares()
            {}
        """
        sizes: dict[str, float] = {}
        whole = sum(_size(t) for t in self.input_terms)
        for term in self.bias_terms:
            size = _size(term.value)
            whole += size
            if term.kind != "explicit" and size:
                sizes[term.op] = sizes.get(term.op, 0.0) + size
        return {op: size / whole for op, size in sorted(sizes.items(), key=lambda o: -o[1])}

    def __iter__(self) -> Iterator[BiasTerm]:
        return iter(self.bias_terms)

    def __len__(self) -> int:
        return len(self.bias_terms)

    def __getitem__(self, module: str) -> tuple[BiasTerm, ...]:
        """The bias terms of one module and all it contains, at least one.

        Args:
            module: its path; see :meth:`select`, which also finds none.

        Raises:
            OptionError: no path of a module with terms.
        """
        if not isinstance(module, str):
            raise OptionError(
                f"a decomposition is indexed by module, such as decomposition['layer3'], not "
                f"{module!r:.60}: samples(0) is the first sample, bias_terms[0] the first term"
            )
        found = self.select(module)
        if not found:
            names = dict.fromkeys(t.module.split(".")[0] or "''" for t in self.bias_terms)
            raise OptionError(
                f"no bias term is in {module!r}; those there are begin with: "
                f"{', '.join(names) or 'none'}"
            )
        return found

    def samples(self, index: int | slice | Sequence[int] | Tensor) -> Decomposition:
        """The decomposition of some samples, a batch again: of one sample as well.

        Args:
            index: a number, a slice, a list of numbers, or a mask with a bool for each sample.

        Raises:
            OptionError: no such sample, or sums over the whole batch (``per_sample=False``).
            LayoutError: it is not known which numbers of a term belong to which sample.

        Example:
            >>> import torch, fullgrad
            >>> d = fullgrad.decompose(torch.nn.Linear(4, 3), torch.rand(5, 4), target=1)
            >>> d.samples(2), d.samples([0, 4]).output.shape, len(d[""])
            (Decomposition(batch=1, ...), torch.Size([2]), 1)
        """
        from fullgrad.decomposition._samples import of_samples

        found: Decomposition = of_samples(self, sample_numbers(index, len(self.output)))
        return found

    def to_pandas(self) -> Any:
        """The sums as a table: a row for each sample and term.

        Returns:
            A ``pandas.DataFrame`` with the columns ``sample``, ``part`` (``input``, ``bias`` or
            ``residual``), ``module`` (an input's name, or a path), ``op``, ``kind``, ``shape``
            and ``value``, float64. A sample's values sum to its output; with
            ``per_sample=False`` there is one sample, the batch.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        from fullgrad.decomposition._tables import to_pandas

        return to_pandas(self)

    def to_xarray(self) -> Any:
        """The sums with named axes.

        Returns:
            An ``xarray.Dataset``: ``input_sums`` (input, sample), ``bias_sums`` (term, sample)
            with the coordinates ``module``, ``op`` and ``kind``; ``output`` and ``residual``
            (sample).

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        from fullgrad.decomposition._tables import to_xarray

        return to_xarray(self)

    def select(self, prefix: str) -> tuple[BiasTerm, ...]:
        """The bias terms of one module and all it contains.

        Args:
            prefix: a module path (``layer3`` selects ``layer3.0.bn2``, not ``layer30``);
                ``""`` selects all.
        """
        return tuple(t for t in self.bias_terms if is_submodule(t.module, prefix))

    def where(self, condition: Callable[[BiasTerm], bool]) -> tuple[BiasTerm, ...]:
        """The bias terms for which a condition holds."""
        return tuple(t for t in self.bias_terms if condition(t))

    def by_module(self, depth: int = 1) -> dict[str, Tensor]:
        """Sums of the bias terms, grouped by the first components of the module path.

        Args:
            depth: how many components (1: stages; 2: blocks; ...).

        Returns:
            From module path (``""``: the model's own code) to shape (B,), in order of execution.

        Raises:
            ValueError: depth is below 1.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        groups: dict[str, Tensor] = {}
        for term in self.bias_terms:
            key = ".".join(term.module.split(".")[:depth])
            groups[key] = groups[key] + term.sums if key in groups else term.sums
        return groups

    def summary(self, depth: int | None = None, sample: int = 0) -> str:
        """A table of the terms for one sample.

        Args:
            depth: group the terms by this many components of the module path; None: every term.
            sample: which sample of the batch; with ``per_sample=False`` there is one, the batch.

        Returns:
            Lines of text: where the output comes from, and the residual.

        Raises:
            OptionError: no such sample.
        """
        whole = len(self.residual) != len(self.output)
        count = len(self.residual)
        if not -count <= sample < count:
            there = "0, the sum over the batch (per_sample=False)" if whole else f"0 to {count - 1}"
            raise OptionError(f"sample must be {there}, not {sample!r}")
        total = float(self.output.double().sum() if whole else self.output[sample])
        rows = [("input", name, "", self._input_sum(i, sample)) for i, name in self._inputs()]
        if depth is None:
            rows += [
                (t.module or "(model)", t.op, f"{t.kind} {_shape(t.shape)}", float(t.sums[sample]))
                for t in self.bias_terms
            ]
        else:
            rows += [
                (key or "(model)", "", "", float(value[sample]))
                for key, value in self.by_module(depth).items()
            ]
        titles = ("module", "operation", "kind, shape")
        left = [max(len(str(r[i])) for r in (*rows, titles)) for i in range(3)]
        names = "  ".join(f"{t:<{width}}" for t, width in zip(titles, left, strict=True))
        head = f"{names}  {'sum':>13}"
        lines = [head, "-" * len(head)]
        lines += [
            f"{a:<{left[0]}}  {b:<{left[1]}}  {c:<{left[2]}}  {v:>13.6g}" for a, b, c, v in rows
        ]
        text = " over the batch, summed" if whole else self._target_text(sample)
        lines += [
            "-" * len(head),
            f"{self.output_source}{text} = {total:.6g}, of which input "
            f"{float(self.input_sums[sample]):.6g} and {len(self.bias_terms)} bias terms "
            f"{float(self.bias_sums[sample]):.6g}",
            f"residual {float(self.residual[sample]):.2e}, relative "
            f"{float(self.relative_residual[sample]):.1e} (tolerance {self.tolerance:.0e})",
        ]
        return "\n".join(lines)

    def _inputs(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.input_names)

    def _input_sum(self, place: int, sample: int) -> float:
        if len(self.inputs) == 1:
            return float(self.input_sums[sample])
        own = self.input_terms[place]
        if len(self.residual) == len(self.output):
            own = own.select(self.layouts.batch_axis(place), sample)
        return float(own.sum(dtype=torch.float64))

    def _target_text(self, sample: int) -> str:
        return "" if self.target is None else f"[{int(self.target[sample])}]"

    def __repr__(self) -> str:
        return (
            f"Decomposition(batch={len(self.output)}, inputs={len(self.inputs)}, "
            f"bias_terms={len(self.bias_terms)}, "
            f"relative_residual={float(self.relative_residual.max()):.1e})"
        )

    def _repr_html_(self) -> str:
        from fullgrad.decomposition._display import decomposition_html

        return decomposition_html(self)


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape))
