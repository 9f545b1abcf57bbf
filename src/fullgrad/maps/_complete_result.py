"""What a complete map can do beside being read: be cut by sample, and be a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fullgrad._optional import require
from fullgrad._results import Result, as_numpy, mapped, sample_numbers

if TYPE_CHECKING:
    from typing import Self

_OTHERS = ("output", "residual", "elsewhere_by_stage")  # an input of that name is map_output, ...
_LETTERS = {1: ("t",), 2: ("y", "x"), 3: ("z", "y", "x")}


class MapResult(Result):
    """Base of :class:`fullgrad.CompleteMap`, whose tensors all count samples first."""

    __slots__ = ()
    _numbers = ("map",)

    if TYPE_CHECKING:
        maps: Any
        input_names: Any
        elsewhere: Any
        elsewhere_by_stage: Any
        output: Any
        residual: Any
        linearization: Any
        zero: Any

    def samples(self, index: int | slice | Sequence[int] | Tensor) -> Self:
        """The maps of some samples, a batch again: of one sample as well.

        Args:
            index: a number, a slice, a list of numbers, or a mask with a bool for each sample.

        Raises:
            OptionError: no such sample.
        """
        numbers = sample_numbers(index, len(self.output))
        found: Self = mapped(self, lambda t, _: t[numbers.to(t.device)])
        return found

    def to_pandas(self) -> Any:
        """A table with a row for each sample, part and place; its values sum to the output.

        Returns:
            A ``pandas.DataFrame``: ``sample``; ``target``, if there are several for each;
            ``part`` (``map``, ``elsewhere``, ``residual``); ``name`` (of the input or the stage);
            the place, ``t``, ``y`` and ``x``, or ``z``, ``y`` and ``x`` (empty where there is
            none); ``value``, float64. For sums over areas see ``by_region``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        pandas = require("pandas", "results")
        frames = []
        for name, own in zip(self.input_names, self.maps, strict=True):
            axes = ("sample", "target", *_LETTERS[own.dim() - 2])
            frames.append(_long(pandas, own.double(), axes, "map", name))
        counts = ("sample", "target")[: self.output.dim()]
        for stage, sums in self.elsewhere_by_stage.items():
            frames.append(_long(pandas, sums, counts, "elsewhere", stage))
        frames.append(_long(pandas, self.residual, counts, "residual", ""))
        table = pandas.concat(frames, ignore_index=True)
        if "target" not in counts:
            table = table.drop(columns="target")
        places = [c for c in ("z", "y", "x", "t") if c in table]
        table[places] = table[places].astype("Int64")
        first = [c for c in ("sample", "target", "part", "name") if c in table]
        return table[[*first, *places, "value"]]

    def to_xarray(self) -> Any:
        """The maps with named axes.

        Returns:
            An ``xarray.Dataset``: a map for each input, by its name, with the axes ``sample``,
            ``target`` if there are several, and ``t``, ``y`` and ``x``, or ``z``, ``y`` and ``x``
            (with the input's name behind, if there are several inputs); ``elsewhere_by_stage``
            (stage, sample); ``output`` and ``residual`` (sample).

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        xarray = require("xarray", "results")
        counts = ("sample", "target")[: self.output.dim()]
        data: dict[str, Any] = {}
        for name, own in zip(self.input_names, self.maps, strict=True):
            behind = f"_{name}" if len(self.input_names) > 1 else ""
            places = tuple(f"{c}{behind}" for c in _LETTERS[own.dim() - 2])
            values = as_numpy(own if "target" in counts else own.squeeze(1))
            data[f"map_{name}" if name in _OTHERS else name] = ((*counts, *places), values)
        stages = [*self.elsewhere_by_stage]
        sums = [as_numpy(self.elsewhere_by_stage[s]) for s in stages]
        if stages:
            data["elsewhere_by_stage"] = (("stage", *counts), sums)
        data["output"] = (counts, as_numpy(self.output))
        data["residual"] = (counts, as_numpy(self.residual))
        said = {"linearization": self.linearization, "zero": self.zero}
        return xarray.Dataset(data, coords={"stage": stages} if stages else {}, attrs=said)


def _long(pandas: Any, values: Tensor, axes: Sequence[str], part: str, name: str) -> Any:
    """A row for each number."""
    array = as_numpy(values)
    index = pandas.MultiIndex.from_product([range(n) for n in array.shape], names=axes)
    table = index.to_frame(index=False)
    return table.assign(part=part, name=name, value=array.reshape(-1))
