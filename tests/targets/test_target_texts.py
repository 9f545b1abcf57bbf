"""Targets written as text: every form, and what is said of texts that are not targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fullgrad.errors import TargetError
from fullgrad.targets import FORMS, Known, parse

NAMES = ["tabby", "tiger cat", "Egyptian cat", "black - white", "log:wood", "crane", "Crane"]
KNOWN = Known(NAMES, 7, lambda path: torch.eye(2), lambda path: torch.ones(3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" 3 ", "3"),
        ("Tiger CAT", "1"),
        ("log:wood", "4"),
        ("black - white", "3"),
        ("1,2,3", "(1, 2, 3)"),
        ("tabby - tiger cat", "tabby rather than tiger cat"),
        ("black - white - tabby", "black - white rather than tabby"),
        ("tabby - black - white", "tabby rather than black - white"),
        ("0 + egyptian cat", "tabby + Egyptian cat"),
        ("log:tabby", "log-probability of tabby"),
        ("log:tabby - log:1", "log-probability of tabby rather than log-probability of tiger cat"),
        ("rest:2", "log odds of Egyptian cat against all others"),
        ("region:tabby", "tabby where it is predicted"),
        ("region:2:a - b.png", "Egyptian cat in 2 of 4 positions"),
        (
            "region:1:a.png - region:0",
            "tiger cat in 2 of 4 positions rather than tabby where it is",
        ),
        ("similar:other.jpg", "cosine similarity to other.jpg"),
        ("value:0:EUR", "output 0 in EUR"),
        ("value:2", "output 2"),
        ("value", "the output"),
        ("value::m", "the output in m"),
        ("token:-1:42", "token 42 at position -1"),
        ("token:1,2:5,6", "token 'Crane' at position 2"),
        ("token:4", "the predicted token at position 4"),
        ("neuron:layer3.0:5,3,4", "neuron (5, 3, 4) of layer3.0"),
        ("box:3", "score of box 3"),
        ("box:10,20,60,90:tabby", "score of tabby of the box that overlaps (10, 20, 60, 90) best"),
    ],
)
def test_every_form(text: str, said: str) -> None:
    found: Any = parse(text, KNOWN)
    words = str(found) if isinstance(found, (int, tuple)) else found.describe(NAMES)
    assert words == said or words.startswith(said) or words.endswith(said)


def test_the_list_of_forms_is_read_as_it_is_printed() -> None:
    for form in FORMS:
        for text in form.split(" or "):
            parse(text, Known(NAMES, None, KNOWN.read_mask, KNOWN.embed))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the target is empty: give a class, or leave it out"),
        ("tabby cat", r"no class is named 'tabby cat'; did you mean 'tabby'\?"),
        ("cat", r"no class is named 'cat'; did you mean 'tiger cat', 'Egyptian cat'\?"),
        ("crane", "several classes are named 'crane': give one of the indices 5, 6"),
        ("7", "target 7 is out of range: the classes are 0 to 6"),
        ("-1", "target -1 is out of range"),
        ("tabby - tiger", r"no class is named 'tiger'; did you mean 'tiger cat'\?"),
        ("tabby - 0", "a margin needs two classes, not class 0 twice"),
        ("tabby + tabby", "has class 0 twice"),
        ("log:", "the target 'log:' ends after log: give log:tabby"),
        (
            "regon:3",
            r"unknown kind of target 'regon'; did you mean region:\? known: log, rest, reg",
        ),
        ("sum:3", "unknown kind of target 'sum'; known: log, rest"),
        ("neuron:layer3", "neuron:layer3 has no index: give neuron:layer3.0:5,3,4"),
        ("neuron:layer3:a", "'a' are not indices: give whole numbers with commas between them"),
        ("token:x", "'x' are not positions"),
        ("value:x", "value:x names no output: give value:0:EUR"),
        ("box:a", "box:a is not a box: give box:3 or box:10,20,60,90"),
        ("box:1,2", "box must be .left, top, right, bottom."),
    ],
)
def test_texts_that_are_no_targets(text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        parse(text, KNOWN)


def test_without_names_and_files() -> None:
    assert parse("12") == 12
    for text, message in (
        ("-2", "target -2 is out of range: the classes are 0 upwards"),
        ("tabby", "is not an index, and this model's class names are not known: give an index, or"),
        ("region:1:m.png", "masks are not read here: leave 'm.png' out, or explain a photograph"),
        ("similar:b.png", "photographs are not read here: 'b.png' cannot be compared with"),
    ):
        with pytest.raises(TargetError, match=message):
            parse(text)
