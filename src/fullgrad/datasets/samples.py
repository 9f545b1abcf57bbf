"""Samples that can be read by number, and minibatches of them read ahead in worker processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fullgrad._files import printable
from fullgrad._user_code import pickled, unpickled
from fullgrad.datasets._inputs import Value, value_of
from fullgrad.errors import FullGradError, InputError
from fullgrad.evaluation.sources import DataError
from fullgrad.vision.classification import one_line
from fullgrad.vision.images import Photograph

# What a sample is: an image, a text, a tensor or tensors by name; its true class if it is known.
Sample: TypeAlias = "tuple[Any, int | None]"


class LoadingError(FullGradError, RuntimeError):
    """A process that decodes samples died."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Holds samples that can be read by number.

    Args:
        spec: where they come from, in words or as it was asked for.
        ids: one for each, no two alike.
        read: decodes a sample: an image of Pillow's, a text, a tensor or tensors by name without
            the batch axis, and its true class or None. It is called in worker processes, so it
            must be picklable. Of files its attribute ``photograph`` gives a
            :class:`fullgrad.vision.images.Photograph` in place of the image, for a transform that
            says with an attribute ``whole`` that it takes one.
        sizes: samples in each unit, where the source has units of its own; else None.
        facts: what else tells these data apart from others, such as lengths of files.

    Raises:
        DataError: no samples, or an id twice.
    """

    spec: str
    ids: Sequence[str]
    read: Callable[[int], Sample]
    sizes: tuple[int, ...] | None = None
    facts: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError(f"{printable(self.spec)} holds no samples")
        ((twice, count),) = Counter(self.ids).most_common(1)
        if count > 1:
            raise DataError(
                f"{printable(self.spec)} has the id {printable(twice)!r} {count} times; each "
                "sample needs its own, by which its map is found"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with ids and facts."""
        found = hashlib.sha256()
        for name in self.ids:
            found.update(f"{name}\n".encode("utf-8", "replace"))
        for fact in self.facts:
            found.update(f"{fact}\n".encode("utf-8", "replace"))
        return found.hexdigest()[:16]

    def first(self, count: int) -> Samples:
        """Return the first of them, in units of the same kind.

        Raises:
            DataError: of archives, which are whole units.
        """
        if self.sizes is not None:
            raise DataError("limit= does not cut archives: name fewer of them")
        return Samples(self.spec, self.ids[:count], self.read, None, self.facts[:count])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sample as the model takes it, or why it is not.

    Args:
        number: of the sample.
        value: without the batch axis; None where there is an error.
        label: true class, if it is known.
        error: why it could not be read.
    """

    number: int
    value: Value | None
    label: int | None = None
    error: str | None = None


class Reader(Dataset[Prepared]):
    """Reads samples and prepares them; what goes wrong is a value, so that nothing stops.

    Args:
        samples: to be read.
        transform: from an image, a text or what else a sample is to a tensor or to tensors by
            name; None for tensors as they are, which are not transformed.
    """

    def __init__(self, samples: Samples, transform: Callable[[Any], Any] | None) -> None:
        self._samples, self._transform = samples, transform
        self._read = getattr(samples.read, "photograph", samples.read)

    def __reduce__(self) -> Any:
        """Take the Python files along that data and transform come from, by path."""
        return _reader, pickled((self._samples, self._transform))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Prepared:
        try:
            value, label = self._read(number)
            if isinstance(value, Photograph) and not getattr(self._transform, "whole", False):
                value = _picture(value)
            if self._transform is not None and not _ready(value):
                value = self._transform(value)
            return Prepared(number, value_of(value), label)
        except Exception as error:  # of the user's data set, or of a decoder
            return Prepared(number, None, None, one_line(error))


def _reader(files: dict[str, str], content: bytes) -> Reader:
    return Reader(*unpickled(files, content, DataError))


def _picture(photograph: Photograph) -> Any:
    """A file's picture, for transforms of pictures."""
    if photograph.path.suffix.lower() == ".npy":
        raise InputError(
            f"{printable(photograph.path)} holds an array, and transform= takes pictures: leave it "
            "out for a model with its own preprocessing (load_model, --model), or give the data as "
            "FILE.py:FUNCTION, which returns tensors"
        )
    return photograph.image


def _ready(value: Any) -> bool:
    """Whether a sample is what a model takes already."""
    if isinstance(value, Mapping):
        return any(isinstance(v, Tensor) for v in value.values())
    return isinstance(value, Tensor)


def minibatches(
    reader: Reader, batches: Iterable[Sequence[int]], workers: int
) -> Iterator[list[Prepared]]:
    """Read minibatches ahead, in order.

    Args:
        reader: of the samples.
        batches: numbers of the samples in each, asked for as they are needed.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        LoadingError: a worker died.
    """
    loader: DataLoader[Prepared] = DataLoader(
        reader,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable will do
        num_workers=workers,
        collate_fn=list,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if isinstance(error, FullGradError) or "DataLoader worker" not in str(error):
            raise
        raise LoadingError(
            f"a process that decodes samples died ({one_line(error)}); the units that are done are "
            "kept: run it again, with fewer workers if memory is short"
        ) from error
