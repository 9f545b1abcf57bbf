"""The ten small networks, as ``fullgrad evaluate --model tools/evidence/small.py:NAME`` takes them.

They are those of ``tools/small_models.py``: from its cache, or trained when they are asked for.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fullgrad.evaluation.datasets import Dataset
from small_models import CACHE, trained
from training import CLASSES as NAMES
from training import MEAN, STD, image_folder, load

CLASSES = list(NAMES)
PREPROCESSING = {
    "resize": 64,
    "crop": [64, 64],
    "interpolation": "bilinear",
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
}


@cache
def _data() -> Dataset:
    return load(image_folder(None, CACHE))


def _network(name: str) -> nn.Module:
    return trained(name, _data())[0]


def vgg() -> nn.Module:
    """Return the small VGG."""
    return _network("vgg")


def resnet() -> nn.Module:
    """Return the small ResNet."""
    return _network("resnet")


def mobilenetv3() -> nn.Module:
    """Return the small MobileNetV3."""
    return _network("mobilenetv3")


def convnext() -> nn.Module:
    """Return the small ConvNeXt."""
    return _network("convnext")


def vit() -> nn.Module:
    """Return the small ViT."""
    return _network("vit")


def vit_registers() -> nn.Module:
    """Return the small ViT with registers."""
    return _network("vit_registers")


def swin() -> nn.Module:
    """Return the small Swin."""
    return _network("swin")


def mixer() -> nn.Module:
    """Return the small MLP-Mixer."""
    return _network("mixer")


def coatnet() -> nn.Module:
    """Return the small CoAtNet."""
    return _network("coatnet")


def maxvit() -> nn.Module:
    """Return the small MaxViT."""
    return _network("maxvit")
