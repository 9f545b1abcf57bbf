"""What an upload may be."""

from __future__ import annotations

from dataclasses import dataclass

MEGA = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one upload.

    Args:
        bytes: of the file.
        pixels: width times height of the image in it.
        seconds: in which the file must have come.
        pause: seconds in which the next part of it must come.

    Raises:
        ValueError: a limit that is not positive.
    """

    bytes: int = 10 * MEGA
    pixels: int = 25 * MEGA
    seconds: float = 60.0
    pause: float = 10.0

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "seconds", "pause"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"the limit of {name} must be positive, not {value!r}")


def amount(count: int, unit: str) -> str:
    """A number of bytes or pixels in words: ``10 MB``, ``0.5 million pixels``."""
    number = f"{count / MEGA:,.10g}" if count >= MEGA // 10 else ""
    if unit == "bytes":
        return f"{number} MB" if number else f"{count:,} bytes"
    return f"{number} million pixels" if number else f"{count:,} pixels"
