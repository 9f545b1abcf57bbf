"""Volumes, sounds and series: windows over large ones, files, and pictures."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.signals.pictures import series, slices, sound
from fullgrad.signals.volumes import Volume, read_volume
from fullgrad.signals.windows import window_map

__all__ = ["Volume", "read_volume", "series", "slices", "sound", "window_map"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
