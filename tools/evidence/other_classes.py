"""The ten small families trained on ten other classes, for ``fullgrad evaluate --model``.

    fullgrad evaluate --model tools/evidence/other_classes.py:{vgg,resnet,…} --images cifar-third.csv

Networks and images that had no part in any choice of a method. The classes are every ninth, in alphabetical
order, of the 90 of CIFAR-100 that the networks of ``small.py`` do not know. Trained when they are asked for.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import small
from fullgrad.evaluation.datasets import Dataset
from small_models import CACHE, FAMILIES, trained
from training import CLASSES as KNOWN
from training import image_folder, load

FOLDER = image_folder(None, CACHE)
CLASSES = sorted({p.name for p in (FOLDER / "test").iterdir()} - set(KNOWN))[::9]
PREPROCESSING = small.PREPROCESSING


@cache
def _data() -> Dataset:
    return load(FOLDER, tuple(CLASSES))


def network(name: str) -> nn.Module:
    """Return the small member of a family, a key of ``small_models.FAMILIES``."""
    return trained(name, _data())[0]


globals().update({name: partial(network, name) for name in FAMILIES})
