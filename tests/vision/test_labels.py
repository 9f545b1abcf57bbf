"""Classes are found by name or index, and files of names are read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullgrad.errors import ModelLoadError, TargetError
from fullgrad.vision.labels import class_index, imagenet_names, read_labels

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


def test_imagenet_names() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert names[282] == "tiger cat"


def test_class_by_name_or_index() -> None:
    names = imagenet_names()
    assert class_index("282", None, 1000) == 282
    assert class_index(" Tiger CAT ", names, 1000) == 282


@pytest.mark.parametrize(
    ("target", "known", "message"),
    [
        ("1000", True, "target 1000 is out of range: the classes are 0 to 999"),
        ("-1", True, "target -1 is out of range"),
        ("tiger cta", True, r"no class is named 'tiger cta'; did you mean 'tiger cat'"),
        ("cat", True, r"no class is named 'cat'; did you mean .*'tiger cat'"),
        ("qqqqqq", True, "no class is named 'qqqqqq'$"),
        ("", True, "no class is named ''$"),
        (
            "cat",
            False,
            "the target 'cat' is not an index, and this model's class names are not known",
        ),
    ],
)
def test_class_that_is_not_there(target: str, known: bool, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        class_index(target, imagenet_names() if known else None, 1000)


def test_a_name_that_two_classes_bear() -> None:
    message = "several classes are named 'crane': give one of the indices 0, 2"
    with pytest.raises(TargetError, match=message):
        class_index("crane", ["crane", "dog", "Crane"], 3)


def test_labels_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffcat\r\n dog \nköttur\n\n", encoding="utf-8")
    assert read_labels(path) == ("cat", "dog", "köttur")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", "the labels file .* is empty"),
        (b"cat\n\ndog\n", "line 2 of the labels file .* is empty"),
        (b"\xff\xfe\xfd", "is not UTF-8 text"),
        (None, "cannot be read: No such file"),
    ],
)
def test_labels_file_with_mistakes(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        read_labels(path)
