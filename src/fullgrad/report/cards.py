"""Thumbnails that lead to a page's photographs, in an order that the reader chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fullgrad._html import Html, joined, tag
from fullgrad.report.markup import Builder

_ORDERS = {"given": "as given", "class": "by class", "probability": "least probable first"}


@dataclass(frozen=True, slots=True)
class Card:
    """One thumbnail.

    Args:
        name: of the photograph.
        link: the identifier of its place on the page.
        label: of the class that is explained.
        probability: of the class, where there is one.
        likely: the probability in words.
        picture: a small picture and its media type; None without an overlay.
    """

    name: str
    link: str
    label: str
    probability: float | None
    likely: str
    picture: tuple[bytes, str] | None


def cards_of(builder: Builder, cards: Sequence[Card]) -> Html:
    """Thumbnails and a choice of their order, which the page's style carries out without a script.

    Args:
        builder: of the page.
        cards: in their given order.
    """
    places = {
        "class": _places([c.label for c in cards]),
        "probability": _places(
            [math.inf if c.probability is None else c.probability for c in cards]
        ),
    }
    group = builder.name("order")
    choices = [
        tag(
            "label",
            tag("input", type="radio", name_=group, class_=f"by-{key}", checked=key == "given"),
            text,
        )
        for key, text in _ORDERS.items()
    ]
    items = [
        _item(builder, card, ";".join(f"--by-{key}:{own[i]}" for key, own in places.items()))
        for i, card in enumerate(cards)
    ]
    order = tag("fieldset", tag("legend", "Order"), *choices, class_="order")
    return joined([order, tag("ul", *items, class_="cards wider")])


def _places(values: Sequence[Any]) -> list[int]:
    """Each value's place in their order; equal ones keep theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order.index(i) for i in range(len(values))]


def _item(builder: Builder, card: Card, style: str) -> Html:
    picture = Html("")
    if card.picture is not None:
        picture = tag(
            "img",
            src=builder.source(*card.picture),
            alt=f"{card.name} and its map, small",
            loading="lazy",
        )
    likely = f", {card.likely}" if card.likely else ""
    text = tag("span", f"{card.name}: {card.label}{likely}")
    return tag("li", tag("a", picture, text, href=f"#{card.link}"), style=style)
