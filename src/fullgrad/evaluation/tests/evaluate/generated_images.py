"""Generated images of which it is known what counts: the shapes of a class, or the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

SIDE = 48  # pixels along an image's side
KINDS = ("shapes", "shortcut")
CLASSES = ("disk", "frame", "cross", "triangle")
_HALF = 5  # a shape reaches this far from its middle
_CELL = 16  # one shape lies in one cell
_MARGIN = 1  # pixels around a shape that count as its own: an outline has two sides
_MOST = 3  # shapes of the class, and as many of no class
_TEXTURE = 6  # coarse numbers along a side of the background
_SHADES = (35, 220)  # of shapes, whatever the background
_COLORS = np.array([[190, 90, 90], [90, 170, 90], [90, 100, 190], [170, 160, 80]])


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Holds a generated image and what counts in it.

    Args:
        image: uint8, shape (H, W, 3).
        mask: True where it counts for the label, shape (H, W).
        label: the class, a place in :data:`CLASSES`.
    """

    image: Array
    mask: Array
    label: int


def scene(kind: str, number: int, train: bool = False) -> Scene:
    """Draw an image: textured background, shapes of one class, and shapes of no class.

    Shapes are dark or light, whatever the background. Of ``shapes`` the class is that of one to
    three shapes, each with a margin of a pixel, and the background's color is random. Of
    ``shortcut`` the background's color tells the class: in images to learn from, the shapes tell it
    as well; in the others they are of another class, so that whoever gives the label has looked at
    the background.

    Args:
        kind: one of :data:`KINDS`.
        number: equal numbers give equal images.
        train: an image to learn from; none of the others is among these.

    Raises:
        ValueError: an unknown kind.

    Example:
        >>> drawn = scene("shapes", 0)
        >>> drawn.image.shape, drawn.mask.shape, CLASSES[drawn.label]
        ((48, 48, 3), (48, 48), 'disk')
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of generated images {kind!r}; known: {', '.join(KINDS)}")
    random = np.random.default_rng([KINDS.index(kind), int(train), number])
    label = number % len(CLASSES)
    shown = label
    color = random.integers(80, 176, 3)
    if kind == "shortcut":
        color = np.clip(_COLORS[label] + random.integers(-12, 13, 3), 0, 255)
        if not train:
            shown = (label + int(random.integers(1, len(CLASSES)))) % len(CLASSES)
    canvas = color + _texture(random)
    known, others = (int(random.integers(low, _MOST + 1)) for low in (1, 0))
    cells = random.permutation((SIDE // _CELL) ** 2)[: known + others]
    own, any_shape = np.zeros((2, SIDE, SIDE), dtype=bool)  # with the margin, and without
    for place, cell in enumerate(cells):
        of_class = place < known
        kept = _OF_CLASS[shown] if of_class else _OF_NONE[int(random.integers(len(_OF_NONE)))]
        size = len(kept)
        top, left = np.array(divmod(int(cell), SIDE // _CELL)) * _CELL
        top, left = (int(v + random.integers(1, _CELL - size)) for v in (top, left))
        window = canvas[top : top + size, left : left + size]
        window[kept] = random.choice(_SHADES) + random.integers(-20, 21, 3)
        box = (
            slice(top - _MARGIN, top + size + _MARGIN),
            slice(left - _MARGIN, left + size + _MARGIN),
        )
        any_shape[top : top + size, left : left + size] |= kept
        own[box] |= of_class
    image = np.clip(canvas + random.normal(0, 6, canvas.shape), 0, 255).astype(np.uint8)
    return Scene(image, ~any_shape if kind == "shortcut" else own, label)


def _texture(random: np.random.Generator) -> Array:
    """Draw smooth variations of brightness and color, shape (H, W, 3)."""
    coarse = random.normal(0, 14, (_TEXTURE + 1, _TEXTURE + 1, 3))
    places = (np.arange(SIDE) + 0.5) / SIDE * _TEXTURE
    first, share = places.astype(int), places % 1
    for axis in (0, 1):
        part = share.reshape([-1 if k == axis else 1 for k in range(3)])
        near, far = (coarse.take(first + step, axis) for step in (0, 1))
        coarse = near * (1 - part) + far * part
    return coarse


def _shapes() -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return the shapes of the classes and those of none, bool of shape (11, 11) each."""
    y, x = np.mgrid[-_HALF : _HALF + 1, -_HALF : _HALF + 1]
    wide, high = abs(x), abs(y)
    of_class = (
        x * x + y * y <= 27,
        np.maximum(wide, high) >= 4,
        np.minimum(wide, high) <= 1,
        2 * wide <= y + _HALF,
    )
    of_none = (wide >= 3, abs(x - y) <= 1, (x <= -3) | (y >= 3), (high >= 4) & (wide <= 4))
    return of_class, of_none


_OF_CLASS, _OF_NONE = _shapes()
