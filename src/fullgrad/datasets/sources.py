"""Data sets that are read sample by sample: files, tables, archives, and data sets in Python."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fullgrad._files import printable, stored_name
from fullgrad._optional import require
from fullgrad._user_code import loaded, names_file, running
from fullgrad.datasets import _archives as archives
from fullgrad.datasets._in_memory import facts_of
from fullgrad.datasets._inputs import value_of
from fullgrad.datasets.files import EXTRA
from fullgrad.datasets.samples import Sample, Samples
from fullgrad.errors import TargetError
from fullgrad.evaluation.sources import DataError, image_files, torchvision_data
from fullgrad.targets.names import class_index
from fullgrad.vision.images import SUFFIXES, Photograph, read_photograph

Data: TypeAlias = "str | os.PathLike[str] | Samples | Sequence[Any]"

_INPUTS = ("image", "img", "pixel_values", "input", "inputs", "audio", "text", "sentence")
_IDS = ("input_ids", "decoder_input_ids")  # items that have these are inputs by name
_LABELS = ("label", "labels", "class", "class_index", "target")
_SYNSET = re.compile(r"n\d{8}")  # what a folder of ImageNet is called
_FORMS = (
    "an image folder, a .csv or .parquet file with a column 'file' or 'text', .tar files "
    "(webdataset:PATTERN), a folder of the datasets library, torchvision:NAME:ROOT, "
    "FILE.py:FUNCTION that returns a map-style data set, or one in Python"
)


def open_samples(
    data: Data,
    *,
    ids: Sequence[str] | None = None,
    labels: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Samples:
    """Find the samples of a data set; none is decoded.

    Args:
        data: the path of an image folder (searched recursively), of a ``.csv`` or ``.parquet``
            file with a column ``file`` (of images, relative to it) or ``text``, and perhaps
            ``class_index`` or ``label`` and ``id``, of a ``.tar`` file, or of a data set that the
            ``datasets`` library saved; ``webdataset:PATTERN`` for many ``.tar`` files (``*`` and
            ``?``); ``torchvision:NAME:ROOT[:SPLIT]``; or ``FILE.py:FUNCTION``, which returns a
            map-style data set. In Python also any such data set: its items are inputs,
            ``(input, label)``, or dicts with an entry ``image``, ``text`` or the like. An input is
            an image, a text, a tensor, or a dict of tensors by the names of the model's
            arguments; a dict with ``input_ids`` is one. A label is the number of a class, or
            None; a negative one is none. Tensors, arrays, ``TensorDataset`` and lists of these are
            told apart by their numbers, other data sets in Python by their ids alone.
        ids: of a map-style data set, one for each item; its numbers where they are not given.
        labels: ``"folder"`` takes an image's class from the name of the folder below ``data``;
            None leaves images of a folder without a class.
        class_names: of the model, among which folders' names are looked up. Where they are not
            known, folders are numbered in alphabetical order as torchvision's ``ImageFolder``
            does; so are the folders of ImageNet (``n01440764``, ...), if all classes are there.

    Raises:
        DataError: nothing there, an id twice, not a data set, ids or labels that it does not
            take, or a folder that is named as no class or as several.

    Example:
        >>> import torch
        >>> found = open_samples([(torch.zeros(3, 8, 8), 1), (torch.ones(3, 8, 8), 0)])
        >>> len(found), found.ids, found.read(1)[1]
        (2, ['0', '1'], 0)
    """
    if isinstance(data, Samples):
        if ids is not None or labels is not None:
            raise DataError("samples that are open have their ids and labels: leave both out")
        return data
    if isinstance(data, (str, os.PathLike)):
        if ids is not None:
            raise DataError("ids= belongs to a data set in Python; a table has a column 'id'")
        return _at(os.fspath(data), labels, class_names)
    if labels is not None:
        raise DataError("labels='folder' belongs to an image folder")
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise DataError(f"{type(data).__name__} is not a data set: give {_FORMS}")
    return map_style(data, _name_of(data), ids, facts_of(data))


def _name_of(data: Any) -> str:
    kind = type(data)
    return f"{kind.__module__}.{kind.__qualname__}"


def _at(spec: str, labels: str | None, class_names: Sequence[str] | None) -> Samples:
    path = Path(spec)
    if labels not in {None, "folder"}:
        raise DataError(f"labels must be 'folder' or None, not {labels!r}")
    if labels is not None and (not path.is_dir() or _saved(path)):
        raise DataError(f"labels='folder' belongs to an image folder, not to {printable(spec)}")
    if spec.startswith("torchvision:"):
        name, found = torchvision_data(spec)
        return map_style(found, spec, [f"{name}/{i}" for i in range(len(found))])
    if spec.startswith("webdataset:") or path.suffix == ".tar":
        return archives.open_archives(spec)
    if names_file(spec):
        return made(spec)
    if path.is_dir():
        own = labels is not None
        return _saved_data(path) if _saved(path) else folder(path, class_names, by_folder=own)
    if path.suffix.lower() in {".csv", ".parquet"}:
        return table(path)
    if not path.exists():
        raise DataError(f"{printable(spec)} does not exist: give {_FORMS}")
    raise DataError(f"{printable(spec)} is not a data set: give {_FORMS}")


@dataclass(frozen=True, slots=True)
class _Files:
    """Reads image files; picklable."""

    paths: Sequence[str]
    labels: Sequence[int | None] | None

    def __call__(self, number: int) -> Sample:
        found, label = self.photograph(number)
        return found.image, label

    def photograph(self, number: int) -> tuple[Photograph, int | None]:
        """Read a file with all its channels."""
        label = None if self.labels is None else self.labels[number]
        return read_photograph(self.paths[number]), label


@dataclass(frozen=True, slots=True)
class _Texts:
    """Gives texts; picklable."""

    texts: Sequence[str]
    labels: Sequence[int | None] | None

    def __call__(self, number: int) -> Sample:
        return self.texts[number], None if self.labels is None else self.labels[number]


def folder(
    path: Path, class_names: Sequence[str] | None = None, *, by_folder: bool = False
) -> Samples:
    """Return the image files of a folder and of those in it.

    Args:
        path: of the folder.
        class_names: see :func:`open_samples`.
        by_folder: whether the names of the folders in it are classes.

    Raises:
        DataError: there are none, or where folders are classes, an image lies in none, or one is
            named as no class or as several.
    """
    files = image_files(path, "**/*")
    if not files:
        known = ", ".join(s[1:] for s in SUFFIXES)
        raise DataError(f"the folder {printable(path)} holds no image files ({known})")
    names = [stored_name(p.relative_to(path)) for p in files]
    labels: list[int | None] | None = None
    if by_folder:
        above = [name.partition("/")[0] if "/" in name else None for name in names]
        if None in above:
            raise DataError(
                f"{printable(names[above.index(None)])} lies in no folder of "
                f"{printable(path)}, so it has no class: leave labels='folder' "
                "out (--folder-classes on the command line)"
            )
        number = _classes(sorted({str(a) for a in above}), class_names)
        labels = [number[str(a)] for a in above]
    facts = [f"{p.stat().st_size} {labels[i] if labels else ''}" for i, p in enumerate(files)]
    return Samples(str(path), names, _Files([str(p) for p in files], labels), None, facts)


def _classes(folders: Sequence[str], class_names: Sequence[str] | None) -> dict[str, int]:
    """The class of each folder: by the model's names, else in the order of the folders."""
    imagenet = all(_SYNSET.fullmatch(name) for name in folders)
    if class_names is None or (imagenet and len(folders) == len(class_names)):
        return {name: i for i, name in enumerate(folders)}
    try:
        return {
            name: class_names.index(name)
            if class_names.count(name) == 1
            else class_index(name, class_names, len(class_names))
            for name in folders
        }
    except TargetError as error:
        some = ", ".join(map(printable, class_names[:5])) + ", ..." * (len(class_names) > 5)
        raise DataError(
            f"a folder's name is its class, but {printable(str(error))} (the model's classes: "
            f"{some}): rename the folder to a class or its number, name classes with --labels FILE "
            "(class_names=), give a .csv file with columns file and class_index, or leave "
            "labels='folder' out (--folder-classes on the command line)"
        ) from error


def table(path: Path) -> Samples:
    """Return the image files that a table names, or the texts that it holds.

    Args:
        path: of a ``.csv`` or ``.parquet`` file.

    Raises:
        DataError: it cannot be read, has neither a column ``file`` nor ``text`` or both, an entry
            of that column that is not text, or a class that is not a number.
    """
    pandas: Any = require("pandas", EXTRA)
    name = printable(path)
    try:
        if path.suffix.lower() == ".csv":
            found = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            found = pandas.read_parquet(path)
        shifted = path.suffix.lower() == ".csv" and not isinstance(found.index, pandas.RangeIndex)
    except Exception as error:  # pandas and pyarrow raise what they like
        _check_lengths(path)
        raise DataError(f"{name} cannot be read: {' '.join(str(error).split())}") from error
    if shifted:  # pandas takes a field too much in the first row for names of rows
        _check_lengths(path)
    columns = [str(c) for c in found.columns]
    kinds = [kind for kind in ("file", "text") if kind in columns]
    if len(kinds) != 1:
        has = f"(it has: {', '.join(columns) or 'none'})"
        lack = "a column 'file' and a column 'text'" if kinds else "no column 'file' or 'text'"
        raise DataError(f"{name} has {lack} {has}; one of the two is read")
    files = found[kinds[0]].tolist()
    odd = next((n for n, own in enumerate(files, 1) if not isinstance(own, str)), None)
    if odd is not None:
        raise DataError(f"row {odd} of {name}: {kinds[0]} {files[odd - 1]!r} is no text")
    column = next((c for c in ("class_index", "label") if c in columns), None)
    labels = None if column is None else _numbers(found[column].tolist(), column, name)
    facts = [f"{f} {labels[i] if labels else ''}" for i, f in enumerate(files)]
    ids = [str(i) for i in found["id"]] if "id" in columns else files
    if kinds == ["text"]:
        ids = ids if "id" in columns else [str(i) for i in range(len(files))]
        return Samples(str(path), ids, _Texts(files, labels), None, facts)
    paths = [str(path.parent / f) for f in files]
    return Samples(str(path), ids, _Files(paths, labels), None, facts)


def _check_lengths(path: Path) -> None:
    """Refuse a row of a ``.csv`` file that has more fields than the header, if there is one."""
    if path.suffix.lower() != ".csv":
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head, *rows = (row for row in csv.reader(file) if row)
    except (OSError, ValueError, csv.Error):
        return
    for number, row in enumerate(rows, 1):
        if len(row) > len(head):
            raise DataError(
                f"row {number} of {printable(path)} has {len(row)} fields, and the header has "
                f"{len(head)}: quote texts that hold commas"
            )


def made(spec: str) -> Samples:
    """Return the items of a data set that a Python file makes.

    Args:
        spec: ``FILE.py:FUNCTION``.

    Raises:
        DataError: no such function, it fails, or what it returns is no map-style data set.
    """
    _, make = loaded(spec, DataError, again=False)
    path = Path(spec.rpartition(":")[0])
    with running(path, DataError):
        found = make() if callable(make) else make
    if not hasattr(found, "__getitem__") or not hasattr(found, "__len__"):
        raise DataError(f"{printable(spec)} returned {type(found).__name__}, no map-style data set")
    return map_style(found, spec, None, [hashlib.sha256(path.read_bytes()).hexdigest()])


def _numbers(values: Sequence[Any], column: str, name: str) -> list[int | None]:
    """A column of classes, some of which may be missing."""
    labels: list[int | None] = []
    for number, value in enumerate(values, 1):
        text = "" if value is None else str(value).strip()
        text = text.removesuffix(".0")  # whole numbers beside missing ones are read as floats
        text = "" if text in {"nan", "<NA>"} else text
        if text and not text.isdecimal():
            raise DataError(f"row {number} of {name}: {column} {text!r} is not a class's number")
        labels.append(int(text) if text else None)
    return labels


def _saved(path: Path) -> bool:
    """Whether a folder was written by the ``datasets`` library."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _saved_data(path: Path) -> Samples:
    library: Any = require("datasets", "huggingface")
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
        raise DataError(
            f"{printable(path)} holds several splits ({splits}): name one of the folders"
        )
    try:
        found = library.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{printable(path)} cannot be read: {error}") from error
    return map_style(found, str(path), None, [getattr(found, "_fingerprint", "")])


@dataclass(frozen=True, slots=True)
class _Items:
    """Reads items of a map-style data set; picklable where that is."""

    data: Any

    def __call__(self, number: int) -> Sample:
        return sample_of(self.data[number])


def map_style(
    data: Any, spec: str, ids: Sequence[str] | None = None, facts: Sequence[Any] = ()
) -> Samples:
    """Return the items of a map-style data set, such as a ``torch.utils.data.Dataset``.

    Args:
        data: with a length and items by number: inputs, ``(input, label)`` or dicts.
        spec: what it is called.
        ids: one for each item; None for their numbers.
        facts: see :class:`Samples`.

    Raises:
        DataError: another number of ids than of items.
    """
    names = [str(i) for i in range(len(data))] if ids is None else [str(i) for i in ids]
    if len(names) != len(data):
        raise DataError(f"{len(names)} ids for {len(data)} samples")
    return Samples(spec, names, _Items(data), None, facts)


def sample_of(item: Any) -> Sample:
    """Return the input and the class of an item.

    Raises:
        DataError: an item of an unknown form, or a class that is text or no whole number.
    """
    label: Any = None
    if isinstance(item, Mapping) and any(name in item for name in _IDS):
        value = value_of({n: v for n, v in item.items() if n not in _LABELS and _numeric(v)})
        label = next((item[name] for name in _LABELS if name in item), None)
    elif isinstance(item, Mapping):
        names = [name for name in _INPUTS if name in item]
        if not names:
            have = ", ".join(map(str, item))
            raise DataError(
                f"an item has none of {', '.join((*_INPUTS, *_IDS))} (it has: {have}); for a model "
                "of several inputs give items (inputs, label), inputs a dict by name"
            )
        value = item[names[0]]
        label = next((item[name] for name in _LABELS if name in item), None)
    elif isinstance(item, (tuple, list)):
        value, label = item[0], item[1] if len(item) > 1 else None
    else:
        value = item
    if hasattr(label, "item") and getattr(label, "size", None) is not None:
        label = label.item() if _single(label) else None
    if isinstance(label, (str, bool)) or (isinstance(label, float) and not math.isnan(label)):
        raise DataError(
            f"the class of an item is {label!r}: give its number, an integer, or None for no class"
        )
    whole = isinstance(label, int) and label >= 0
    return value, label if whole else None


def _numeric(value: Any) -> bool:
    """Whether an entry of an item is an array or a list of numbers: no text, no number of a row."""
    if isinstance(value, list):
        return bool(value) and not isinstance(value[0], str)
    return hasattr(value, "__array__")


def _single(label: Any) -> bool:
    return bool((label.numel() if hasattr(label, "numel") else label.size) == 1)
