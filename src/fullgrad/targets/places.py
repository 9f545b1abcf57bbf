"""Parts of a dense output and of a layer's: regions and neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fullgrad.engine.lending import own
from fullgrad.engine.module_path import returned_by
from fullgrad.engine.targets import Described, main_tensor
from fullgrad.errors import OutputError, TargetError
from fullgrad.targets.words import whole, words


@dataclass(frozen=True, slots=True, eq=False)
class Region(Described):
    """A class's outputs in a region, summed; made by :func:`region`.

    Args:
        c: the class.
        mask: numbers that the outputs are multiplied by, shape (*positions), or (B, *positions)
            with a row for each sample; None for where the class is predicted.
        each_sample: whether the mask has a row for each sample.
        mean: whether the sum is divided by that of the mask.
        fit: whether a mask of another size is taken at the nearest positions.
        predicted: whether the mask is where the class was predicted.
    """

    c: int
    mask: Tensor | None
    each_sample: bool = False
    mean: bool = False
    fit: bool = False
    predicted: bool = False

    def __call__(self, output: Any) -> Tensor:
        """The sum for each sample, shape (B,).

        Raises:
            TargetError: the output is not of shape (B, classes, *positions), or mask or class do
                not fit it.
        """
        if self.mask is None:
            return self.settled(output)(output)
        tensor = self._dense(output)
        mask = self._fitting(self.mask.to(tensor.device), tensor.shape[2:])
        if not self.each_sample:
            mask = mask[None]
        elif len(mask) != len(tensor):
            raise TargetError(f"masks of {len(mask)} samples for a batch of {len(tensor)}")
        weights = mask.to(tensor.dtype)
        sizes = weights.flatten(1).sum(1)
        if empty := (sizes == 0).nonzero().flatten().tolist():
            where = f" of sample {empty[0]}" if self.each_sample else ""
            if self.predicted:
                raise TargetError(
                    f"class {self.c} is predicted nowhere in sample {empty[0]}: choose another "
                    "class, or give a mask"
                )
            raise TargetError(f"the mask{where} marks nothing")
        total: Tensor = (tensor[:, self.c] * weights).flatten(1).sum(1)
        return total / sizes if self.mean else total

    def _dense(self, output: Any) -> Tensor:
        tensor, _ = main_tensor(output)
        if tensor.dim() < 3:
            raise TargetError(
                "region needs an output of shape (batch, classes, *positions), not "
                f"{tuple(tensor.shape)}"
            )
        if not 0 <= self.c < tensor.shape[1]:
            raise TargetError(
                f"target {self.c} is out of range for an output of size {tensor.shape[1]}"
            )
        return tensor

    def _fitting(self, mask: Tensor, shape: torch.Size) -> Tensor:
        own = mask.shape[self.each_sample :]
        if own == shape:
            return mask
        if self.fit and len(own) == len(shape):
            for axis, (have, want) in enumerate(zip(own, shape, strict=True), self.each_sample):
                middle = (torch.arange(want, device=mask.device) + 0.5) * have / want
                mask = mask.index_select(axis, middle.long().clamp(max=have - 1))
            return mask
        sizes = ("x".join(map(str, s)) for s in (own, shape))
        raise TargetError(
            "the mask is {}, and the output {}: give one of the output's size, or ".format(*sizes)
            + "region(..., fit=True), which takes the mask at the nearest positions"
        )

    @property
    def is_open(self) -> bool:
        """Whether the mask is where the output predicts the class."""
        return self.mask is None

    def settled(self, output: Any, samples: int | None = None) -> Region:
        """The same with the mask where an output predicts the class."""
        if self.mask is not None:
            return self
        found = self._dense(output).detach().argmax(1) == self.c
        return replace(self, mask=found, each_sample=True, predicted=True)

    def changed(self, change: Callable[[Any], Any]) -> Region:
        """The same with the rows of the mask changed."""
        return replace(self, mask=change(self.mask)) if self.each_sample else self

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``class 12 in 25 of 100 positions``."""
        of = "mean of " if self.mean else ""
        if self.mask is None or self.predicted:
            return f"{of}{words(self.c, names)} where it is predicted"
        if self.each_sample:
            return f"{of}{words(self.c, names)} in a mask for each sample"
        marked = int((self.mask != 0).sum())
        return f"{of}{words(self.c, names)} in {marked} of {self.mask.numel()} positions"


@dataclass(frozen=True, slots=True)
class Neuron(Described):
    """A number that a layer returns; made by :func:`neuron`.

    Args:
        layer: the module's path.
        index: into its output, without the batch axis.
        call: which of several calls of the module.
    """

    layer: str
    index: tuple[int, ...]
    call: int | None = None
    of_batch = True

    @property
    def layers(self) -> tuple[str, ...]:
        """The module whose output is explained."""
        return (self.layer,)

    def __call__(self, output: Any) -> Tensor:
        """The number, or the mean of several, for each sample, shape (B,).

        Raises:
            TargetError: the layer was not called, or several times, or the index does not fit.
        """
        found = returned_by(self.layer)
        if not found:
            raise TargetError(f"the model did not call {self.layer}: it returned nothing")
        if self.call is None and len(found) > 1:
            raise TargetError(
                f"the model called {self.layer} {len(found)} times: say which with call=0 to "
                f"call={len(found) - 1}"
            )
        if not 0 <= (self.call or 0) < len(found):
            raise TargetError(
                f"call={self.call} of {self.layer}, which the model called {len(found)} times"
            )
        try:
            tensor, _ = main_tensor(found[self.call or 0])
        except OutputError as error:
            raise TargetError(f"{self.layer}: {error}") from error
        shape = tensor.shape[1:]
        if len(self.index) > len(shape):
            raise TargetError(
                f"{self.layer} returns shape (batch, {', '.join(map(str, shape))}), which has "
                f"no index {self.index}"
            )
        for i, size in zip(self.index, shape, strict=False):
            if not 0 <= i < size:
                raise TargetError(
                    f"index {self.index} is out of range: {self.layer} returns shape (batch, "
                    f"{', '.join(map(str, shape))})"
                )
        where: Any = (slice(None), *self.index)
        chosen: Tensor = tensor[where]
        return chosen if chosen.dim() == 1 else chosen.flatten(1).mean(1)

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``neuron (5, 3, 4) of layer3``."""
        at = self.index if len(self.index) > 1 else self.index[0]
        again = "" if self.call is None else f", call {self.call}"
        return f"neuron {at} of {self.layer}{again}"


def region(
    c: int, mask: Any = None, *, mean: bool = False, fit: bool = False, each_sample: bool = False
) -> Region:
    """A class's outputs in a region of a dense output, summed: why is this a road?

    Args:
        c: the class.
        mask: True, or a weight, at the positions that count, shape (*positions); None for where
            the model predicts the class.
        mean: True for the mean over the region.
        fit: True takes a mask of another size than the output at the nearest positions.
        each_sample: True for a mask of shape (B, *positions), with a row for each sample.

    Returns:
        A target, for outputs of shape (B, classes, *positions).

    Raises:
        TargetError: a mask that is no array of numbers.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import region
        >>> model = torch.nn.Conv2d(3, 5, 3, padding=1)
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[2:4, 2:4] = True
        >>> found = fullgrad.complete_map(model, torch.ones(1, 3, 8, 8), region(4, mask))
        >>> str(region(4, mask)), found.map.shape
        ('class 4 in 4 of 64 positions', torch.Size([1, 1, 8, 8]))
    """
    c = whole(c, "the class of a region")
    if mask is None:
        if fit or each_sample:
            raise TargetError("fit and each_sample belong to a mask, and there is no mask")
        return Region(c, None, mean=mean)
    try:
        numbers = own(torch.as_tensor(mask).detach())
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"a mask is an array of numbers, not {type(mask).__name__}") from error
    if numbers.dim() < 1 + each_sample or numbers.is_complex():
        raise TargetError(f"a mask of shape {tuple(numbers.shape)} has no positions")
    if not bool((torch.isfinite(numbers) & (numbers >= 0)).all()):
        raise TargetError("the mask holds numbers that are negative or not finite")
    return Region(c, numbers, each_sample, mean, fit)


def neuron(layer: str, index: int | Sequence[int], *, call: int | None = None) -> Neuron:
    """What makes a neuron inside the model fire: one number that a layer returns.

    Args:
        layer: the module's path, as in ``model.named_modules()``.
        index: into the module's output without its batch axis, which comes first: ``(5, 3, 4)`` is
            one number of a convolution. Of fewer numbers than axes the mean over the rest is
            explained: ``5`` is the mean of channel 5.
        call: which call, from 0, of a module that the model calls several times.

    Raises:
        TargetError: no index. The call that explains it raises it for a layer that there is not.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import neuron
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
        >>> d = fullgrad.decompose(model, torch.ones(1, 3, 8, 8), neuron("0", (2, 1, 1)))
        >>> d.output_source, bool(d.output == model[0](torch.ones(1, 3, 8, 8))[0, 2, 1, 1])
        ('neuron (2, 1, 1) of 0', True)
    """
    indices = (index,) if hasattr(index, "__index__") else tuple(index)
    if not indices or not isinstance(layer, str):
        raise TargetError("neuron needs the path of a layer and at least one index")
    at = None if call is None else whole(call, "call")
    return Neuron(layer, tuple(whole(i, "an index") for i in indices), at)
