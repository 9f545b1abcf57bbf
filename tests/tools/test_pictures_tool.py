"""docs/pictures.md's images: each is made by the tool, and stored small without other colors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullgrad.methods
import pictures

PAGE = pictures.OUT.parent / "pictures.md"


def as_png(pixels: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_every_picture_is_stored_and_shown(name: str) -> None:
    file = pictures.OUT / f"pictures-{name}.png"
    pictures.checked(file.name, file.read_bytes())
    assert f"](images/{file.name})" in PAGE.read_text(encoding="utf-8")


def test_no_picture_of_the_page_is_made_otherwise() -> None:
    stored = {p.stem.removeprefix("pictures-") for p in pictures.OUT.glob("pictures-*.png")}
    assert stored == set(pictures.PICTURES)


def test_the_page_states_the_sheets_commands() -> None:
    words = PAGE.read_text(encoding="utf-8").replace("\\\n", " ").split()
    text = " ".join(words)
    for methods in (pictures.SHEET_METHODS, pictures.COMPARED_METHODS):
        assert f"--methods {' '.join(methods)}" in text
    assert " ".join(f"{n}.png" for n in pictures.PHOTOGRAPHS) in text
    assert " ".join(f"{n}.png" for n in pictures.COMPARED) in text
    for method in (*pictures.SHEET_METHODS, *pictures.COMPARED_METHODS):
        fullgrad.methods.get(method)


def test_stored_colours_are_those_of_the_picture_up_to_rounding() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3))
    kept = pixels_of(pictures.small(as_png(pixels)))
    assert np.abs(kept - pixels).max() <= 3
    ends = np.array([[[0, 0, 0], [255, 255, 255]]] * 2)
    assert (pixels_of(pictures.small(as_png(ends))) == ends).all()


def test_wide_pictures_keep_their_shape() -> None:
    pixels = np.full((100, 2 * pictures.WIDEST, 3), 127)
    assert pixels_of(pictures.small(as_png(pixels))).shape == (50, pictures.WIDEST, 3)


def test_what_is_no_picture_for_the_page_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x\.png shows nothing"):
        pictures.checked("x.png", as_png(np.full((20, 20, 3), 200)))
    with pytest.raises(ValueError, match=r"x\.png has 1200001 bytes, more than 1200000"):
        pictures.checked("x.png", bytes(pictures.LARGEST + 1))


def test_a_comparison_that_fails_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="fullgrad compare ended with 2"):
        pictures._compare(tmp_path, ["cat"], ["nosuch"])
