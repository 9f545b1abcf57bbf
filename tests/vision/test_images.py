"""Photographs of every kind are read, everything else is refused with one clear message."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from fullgrad.errors import ImageError
from fullgrad.vision.images import (
    MAX_PIXELS,
    Preprocessing,
    display_image,
    find_images,
    found_images,
    preprocess,
    read_image,
    read_photograph,
)

ORIENTATION = 0x0112


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says how large it is and then ends."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise.{suffix}"
    noise(13, 7).save(path)
    image = read_image(path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(noise(13, 7)))


def test_a_photograph_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise(13, 7).convert("L").save(path)
    photograph = read_photograph(path)
    assert photograph.size == (13, 7)
    assert photograph.mode == "L"
    assert photograph.frames == 1
    assert photograph.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_grey_becomes_equal_channels(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    noise(9, 9).convert("L").save(path)
    pixels = np.asarray(read_image(path))
    assert np.array_equal(pixels, np.repeat(np.asarray(Image.open(path))[..., None], 3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    if mode == "P":
        image = image.convert("L").convert("P")
        image.putpixel((0, 0), 7)
        image.info["transparency"] = 7
    path = tmp_path / "t.png"
    image.convert(mode).save(path)
    pixels = np.asarray(read_image(path))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 3].tolist() == [0, 0, 0]


def test_half_transparent_black_is_grey(tmp_path: Path) -> None:
    path = tmp_path / "t.png"
    Image.new("RGBA", (1, 1), (0, 0, 0, 128)).save(path)
    assert np.asarray(read_image(path))[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(path)
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_brightness_is_scaled_from_0_to_1(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(path)
    assert np.asarray(read_image(path))[0, :, 1].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 300.0]], np.float32)).save(path)
    with pytest.raises(ImageError, match="color mode F: brightness outside 0 to 1 cannot"):
        read_image(path)


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path)
    assert np.asarray(read_image(path))[4, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = noise(6, 4)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turned by 90 degrees
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    photograph = read_photograph(path)
    assert photograph.size == (6, 4)
    assert photograph.image.size == (4, 6)
    assert np.array_equal(np.asarray(photograph.image), np.rot90(np.asarray(image), -1))


def test_damaged_exif_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "exif.jpg"
    noise(8, 8).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff")
    assert read_image(path).size == (8, 8)


def test_of_an_animation_the_first_frame_is_used(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    photograph = read_photograph(path)
    assert photograph.frames == 3
    assert np.asarray(photograph.image)[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000), (20000, 3)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "strip.png"
    Image.new("RGB", size, (255, 0, 127)).save(path)
    x = preprocess(read_image(path), Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)))
    assert x.shape == (3, 224, 224)
    assert torch.equal(x[0], torch.ones(224, 224))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.jpg does not exist"):
        read_image(tmp_path / "none.jpg")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, not an image file"):
        read_image(tmp_path)


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.jpg")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("This is no picture." * 50)
    with pytest.raises(ImageError, match=r"text\.jpg is not an image of a known format"):
        read_image(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ImageError, match=r"cut\.\w+ is (truncated or damaged|not an image|damaged)"
    ):
        read_image(path)


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (50_000, 50_000)])
def test_decompression_bombs(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    assert width * height > MAX_PIXELS
    with pytest.raises(ImageError, match="more than the 100 million pixels that are accepted"):
        read_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LAB", "YCbCr", "CMYK"])
def test_other_colour_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "other.tif"
    Image.new(mode, (3, 3)).save(path)
    assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_damaged_files_never_raise_anything_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged.{suffix}"
    noise(16, 16).save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    read = 0
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 4):
            data[place] = random.integers(0, 256)
        path.write_bytes(
            data[: random.integers(1, len(data) + 1)] if random.random() < 0.3 else data
        )
        try:
            assert read_image(path).mode == "RGB"
            read += 1
        except ImageError:
            pass
    assert read < 60


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("resize", [256, 235, (250, 224)])
@pytest.mark.parametrize("size", [(301, 200), (200, 301), (57, 400), (1, 1), (224, 224)])
def test_preprocessing_equals_torchvision(
    size: tuple[int, int], resize: int | tuple[int, int], interpolation: str
) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    image = noise(*size)
    preprocessing = Preprocessing(resize, (224, 224), interpolation, mean, std)
    assert torch.equal(preprocess(image, preprocessing), reference(image))


def test_a_strip_is_cropped_as_if_it_had_been_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    image, preprocessing = noise(700, 90), Preprocessing(interpolation="bicubic")
    whole = np.asarray(display_image(image, preprocessing)).astype(int)
    monkeypatch.setattr("fullgrad.vision.images._MAX_RESIZED", 0)
    crop = np.asarray(display_image(image, preprocessing)).astype(int)
    assert np.abs(whole - crop).max() <= 1


def test_display_image_is_what_the_model_sees() -> None:
    image = noise(300, 260)
    preprocessing = Preprocessing()
    view = torch.from_numpy(np.array(display_image(image, preprocessing))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    torch.testing.assert_close(preprocess(image, preprocessing), (view - mean) / std)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": 200}, "is larger than the image resized"),
        ({"crop": (0, 224)}, "crop and resize must be positive"),
        ({"interpolation": "magic"}, "interpolation must be one of nearest"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"mean": (0.5,)}, "mean and std must be as many numbers as there are channels"),
    ],
)
def test_impossible_preprocessing(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)  # type: ignore[arg-type]


def test_folders_are_searched_with_their_subfolders(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "a.overlay.png"):
        (tmp_path / name).touch()
    for folder in ("c.png", "d/e", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    found = found_images([tmp_path])
    assert [image.name for image in found] == ["a", "b", "c.png/a", "d/e/a"]
    assert [i.path for i in found] == find_images([tmp_path])
    assert find_images([tmp_path / "b.png", tmp_path])[:2] == [
        tmp_path / "b.png",
        tmp_path / "a.JPG",
    ]
    assert find_images([tmp_path / "missing.png"]) == [tmp_path / "missing.png"]


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"holds no image files \(avif, bmp"):
        find_images([tmp_path])


def test_names_in_messages_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="two\N{REPLACEMENT CHARACTER}lines\\.png does not exist"):
        read_image(tmp_path / "two\nlines.png")


def test_pillow_is_not_left_open(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise(5, 5).save(path)
    image = read_image(path)
    path.unlink()
    with io.BytesIO() as file:
        image.save(file, format="PNG")


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ImageError, match=r"path of an image is empty; '\.' is the current folder"):
        find_images(["", "photo.png"])
