"""What a call explains, beside a class index: a small vocabulary of targets.

Each is made by a function, is a frozen object, and says in words what it explains (``str``, or
``describe(names)`` with the names of classes). All are targets of :func:`fullgrad.decompose`,
:func:`fullgrad.saliency`, :func:`fullgrad.complete_map`, methods and tokens; :func:`parse` reads
them from text.
"""

from fullgrad.engine.targets import Contrast, Described
from fullgrad.targets.boxes import Instance, instance
from fullgrad.targets.classes import (
    OneClass,
    Regression,
    SeveralClasses,
    Token,
    one_class,
    regression,
    several_classes,
    token,
)
from fullgrad.targets.contrasts import (
    AgainstRest,
    LogProbability,
    Margin,
    against_rest,
    log_probability,
    margin,
)
from fullgrad.targets.places import Neuron, Region, neuron, region
from fullgrad.targets.similarity import Similarity, similarity, similarity_to_input
from fullgrad.targets.text import FORMS, Known, parse
from fullgrad.targets.words import words

__all__ = [
    "AgainstRest",
    "Contrast",
    "Described",
    "FORMS",
    "Instance",
    "Known",
    "LogProbability",
    "Margin",
    "Neuron",
    "OneClass",
    "Region",
    "Regression",
    "SeveralClasses",
    "Similarity",
    "Token",
    "against_rest",
    "instance",
    "log_probability",
    "margin",
    "neuron",
    "one_class",
    "parse",
    "region",
    "regression",
    "several_classes",
    "similarity",
    "similarity_to_input",
    "token",
    "words",
]
