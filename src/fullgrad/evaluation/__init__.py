"""Tests of saliency maps: what the papers claim, measured. One framework, each test one file.

:func:`fullgrad.evaluation.bench.bench` runs a test by name, as ``fullgrad bench`` does.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
