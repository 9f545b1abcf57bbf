"""The stages of a model with their maps: as numbers, and as the content of a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fullgrad.decomposition.result import Decomposition
from fullgrad.errors import InputError
from fullgrad.maps.aggregation import Psi
from fullgrad.maps.saliency import layer_maps

Array: TypeAlias = np.ndarray[Any, Any]

MODEL = "(model)"  # the name of the stage of operations outside all submodules
_LIMIT = 200_000_000  # bytes of maps in a file
_FEW, _MANY, _DEEPEST = 6, 48, 4  # stages that are easy to look through; components of a path


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The part of a stage in an output.

    Args:
        name: the module path of the stage.
        sum: the sum of its bias terms.
        map: shape (height, width); None where its terms have no spatial position (dense layers).
    """

    name: str
    sum: float
    map: Array | None = None


def layers_of(
    decomposition: Decomposition, *, depth: int = 1, psi: Psi = "layer", sample: int = 0
) -> tuple[Layer, ...]:
    """Return the stages of one sample of a decomposition, from the first to the last.

    Args:
        decomposition: of one input of shape (B, C, height, width), with sums for each sample.
        depth: components of the module path that make a stage.
        psi: see :func:`fullgrad.layer_maps`.
        sample: index in the batch.

    Raises:
        InputError: the input does not have two spatial axes, or the sums are the whole batch's.
        LayoutError: it is not known where a term's numbers lie.
        ValueError: depth is below 1, or psi is unknown.

    Example:
        >>> import torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten()).eval()
        >>> found = layers_of(fullgrad.decompose(model, torch.ones(1, 3, 4, 4), 0))
        >>> [(layer.name, layer.map.shape) for layer in found]
        [('0', (4, 4))]
    """
    d = decomposition
    if len(d.inputs) != 1 or d.inputs[0].dim() != 4:
        raise InputError("a strip of layers needs one input of shape (batch, channels, h, w)")
    if len(d.residual) != len(d.output):
        raise InputError("a strip of layers needs sums for each sample: leave per_sample=True")
    maps = layer_maps(d, depth=depth, psi=psi)
    found = []
    for name, sums in d.by_module(depth).items():
        own = maps.get(name)
        values = None if own is None else own[sample, 0].detach().cpu().double().numpy()
        found.append(Layer(name or MODEL, float(sums[sample]), values))
    return tuple(found)


def fitting_depth(decomposition: Decomposition) -> int:
    """Return how many components of a module path make a stage, so that a few stages come out.

    It is the fewest components that give 6 to 48 stages. Where none does, it is the one that
    gives the most stages up to 48.
    """
    counts = {k: len(decomposition.by_module(k)) for k in range(1, _DEEPEST + 1)}
    for depth, count in counts.items():
        if _FEW <= count <= _MANY:
            return depth
    fitting = {k: n for k, n in counts.items() if n <= _MANY}
    return max(fitting, key=lambda k: (fitting[k], -k)) if fitting else 1


def packed(layers: Sequence[Layer]) -> bytes:
    """Write stages as the content of a file ``NAME.layers.npz``, which ``fullgrad report`` reads.

    Args:
        layers: at least one; all maps of one size.

    Raises:
        InputError: no stages, or maps of several sizes or with numbers that are not finite.
    """
    if not layers:
        raise InputError("a file of layers needs at least one stage")
    maps = {i: np.asarray(s.map) for i, s in enumerate(layers) if s.map is not None}
    if len({m.shape for m in maps.values()}) > 1:
        raise InputError("the maps of all stages must be of one size")
    with io.BytesIO() as file:
        np.savez_compressed(
            file,
            names=np.array([s.name for s in layers], np.str_),
            sums=np.array([s.sum for s in layers], np.float64),
            places=np.array(list(maps), np.int64),
            maps=_finite(np.array(list(maps.values()), np.float32)),
        )
        return file.getvalue()


def unpacked(content: bytes) -> tuple[Layer, ...]:
    """Read stages from the content of a file that :func:`packed` made.

    Args:
        content: of the file; nothing in it is executed.

    Raises:
        InputError: it is not such a file.

    Example:
        >>> unpacked(packed([Layer("stem", 2.0)]))[0].name
        'stem'
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LIMIT:
                raise InputError(f"the layers' file holds more than {_LIMIT // 1_000_000} MB")
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            arrays: dict[str, Any] = {k: found[k] for k in ("names", "sums", "places", "maps")}
        names, sums = arrays["names"], arrays["sums"].astype(np.float64)
        places, maps = arrays["places"], _finite(arrays["maps"].astype(np.float64))
        own: dict[int, Array] = {int(p): m for p, m in zip(places, maps, strict=True)}
        if not set(own) <= set(range(len(names))):
            raise InputError("the layers' file holds maps of no stage")
        if names.ndim != 1 or names.dtype.kind != "U" or not np.isfinite(sums).all():
            raise InputError("the layers' file holds names or sums that are not valid")
        return tuple(
            Layer(str(n), float(s), own.get(i))
            for i, (n, s) in enumerate(zip(names, sums, strict=True))
        )
    except InputError:
        raise
    except Exception as error:  # whatever damaged archives raise
        raise InputError(f"not a file of layers: {type(error).__name__}: {error}") from error


def _finite(maps: Array) -> Array:
    """The maps of a file, of shape (stages, height, width), or empty."""
    if len(maps) and (maps.ndim != 3 or not maps.size):
        shape = tuple(maps.shape[1:])
        raise InputError(f"one map of shape (height, width) is needed, not {shape}")
    if not bool(np.isfinite(maps).all()):
        raise InputError("the map holds NaN or infinite values")
    return maps
