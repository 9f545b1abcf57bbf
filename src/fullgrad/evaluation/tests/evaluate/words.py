"""Verdicts as people read them: which method wins which test, how sure that is, cautions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fullgrad.evaluation.tests.evaluate.measures import measures
from fullgrad.methods.controls import METHODS as _CONTROLS

FEW = 30  # images below which a verdict means little
TIED = 0.03  # as far behind the best a method may be at the lower bound, to count as tied with it
MARKS = {"first": "*", "tied": "=", "behind": "<", "not shown": "?"}
VERDICTS = {
    "first": "the best mean of the test",
    "tied": f"at most {TIED} behind the first, at the lower end of the interval",
    "behind": "the whole interval of the difference to the first lies below 0",
    "not shown": "neither: the interval is too wide to tell",
}
_NAMED = 6  # methods of a verdict that are named with their differences
_SAME = 1e-6  # of means that are equal but for rounding, relative to the largest
Row = Mapping[str, Any]


def is_control(label: str) -> bool:
    """Tell whether a method, with its options, knows nothing of the model."""
    return label.partition(":")[0] in {m.name for m in _CONTROLS}


@dataclass(frozen=True, slots=True)
class Contest:
    """One test of one model: its methods, the best first.

    Args:
        model: whose maps are tested.
        test: its name.
        setting: how it was done.
        rows: of the ranking, with ``method``, ``images``, ``mean``, ``low``, ``high``, ``behind``,
            ``behind_low``, ``behind_high`` and ``verdict``.
    """

    model: str
    test: str
    setting: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The test with its setting, in words."""
        words = self.test.replace("-", " ")
        return f"{words} ({self.setting})" if self.setting else words

    @property
    def images(self) -> int:
        """How many images the means are over."""
        return int(self.rows[0]["images"])

    @property
    def better(self) -> str:
        """``higher`` or ``lower``."""
        kind = measures().get(self.test)
        return kind.better if kind else "higher"

    @property
    def chance(self) -> float | None:
        """What a map without knowledge gets, if that is known."""
        kind = measures().get(self.test)
        return kind.chance_in(self.setting) if kind else None

    @property
    def title(self) -> str:
        """What it measures."""
        kind = measures().get(self.test)
        return kind.title if kind else self.test

    @property
    def direction(self) -> str:
        """Which values are better, and what chance gives."""
        chance = "" if self.chance is None else f", chance gives {self.chance:g}"
        return f"{self.better} is better{chance}"

    @property
    def undecided(self) -> bool:
        """Whether several methods have one mean, but for rounding."""
        means = [r["mean"] for r in self.rows]
        size = max(map(abs, means))
        return len(means) > 1 and max(means) - min(means) <= _SAME * size

    def of(self, verdict: str) -> list[Row]:
        """Return the methods with a verdict, the best first."""
        return [r for r in self.rows if r["verdict"] == verdict]


def contests(ranking: Sequence[Row]) -> list[Contest]:
    """Return each test of each model.

    Args:
        ranking: rows of the table, the best method first in each test of each model.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in ranking:
        found.setdefault((row["model"], row["test"], row["setting"]), []).append(row)
    return [Contest(*key, tuple(rows)) for key, rows in found.items()]


def by_model(ranking: Sequence[Row]) -> dict[str, list[Contest]]:
    """Return the tests of each model."""
    found: dict[str, list[Contest]] = {}
    for contest in contests(ranking):
        found.setdefault(contest.model, []).append(contest)
    return found


def methods_of(tests: Sequence[Contest]) -> list[str]:
    """Return all methods, in the order of the first test."""
    return list(dict.fromkeys(r["method"] for t in tests for r in t.rows))


def standing(tests: Sequence[Contest]) -> str:
    """Return in how many tests of a model methods are first or tied, in a sentence."""
    count = {m: 0 for m in methods_of(tests) if not is_control(m)}
    for test in tests:
        for row in (*test.of("first"), *test.of("tied")):
            if row["method"] in count:
                count[row["method"]] += 1
    best = sorted((m for m in count if count[m]), key=lambda m: -count[m])
    if not best:
        return "No method is first or tied in any test: controls are."
    many = f"{len(tests)} tests" if len(tests) > 1 else "1 test"
    first, *rest = best
    said = [f"{first} in {count[first]} of {many}", *(f"{m} in {count[m]}" for m in rest)]
    return f"First or tied: {', '.join(said)}."


def paragraphs(ranking: Sequence[Row]) -> list[str]:
    """Return a table of methods by tests for each model, with marks for the verdicts.

    Args:
        ranking: rows of the table.
    """
    return [_table(model, tests) for model, tests in by_model(ranking).items()]


def _table(model: str, tests: Sequence[Contest]) -> str:
    letters = [_letter(i) for i in range(len(tests))]
    lines = [model, ""]
    for letter, test in zip(letters, tests, strict=True):
        images = "1 image" if test.images == 1 else f"{test.images} images"
        lines.append(f"  {letter}  {test.name}: {test.direction}; {images}")
    names = methods_of(tests)
    width = max(map(len, names))
    lines += ["", f"  {'':<{width}}  " + "  ".join(f"{letter:^8}" for letter in letters).rstrip()]
    for name in names:
        cells = [next((_cell(r) for r in t.rows if r["method"] == name), " " * 8) for t in tests]
        lines.append(f"  {name:<{width}}  {'  '.join(cells)}".rstrip())
    legend = "   ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    return "\n".join([*lines, "", f"  {legend}", f"  {standing(tests)}"])


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"T{place + 1}"


def _cell(row: Row) -> str:
    return f"{row['mean']:+.3f} {MARKS[row['verdict']]}"


def sentences(test: Contest) -> Iterator[str]:
    """Yield what a test of a model says: who is first, who is not, by how much, how sure."""
    if test.undecided:
        yield "All methods have the same mean, so it decides nothing."
        return
    first = test.rows[0]
    control = ", a control," if is_control(first["method"]) else ""
    interval = _interval(first["low"], first["high"])
    yield (
        f"{first['method']}{control} is first with {first['mean']:.3f} "
        f"({interval if interval.startswith('no') else f'95 % interval {interval}'})."
    )
    for verdict, begin in (
        ("tied", "Tied with it"),
        ("behind", "Behind it"),
        ("not shown", "Not shown either way"),
    ):
        rows = test.of(verdict)
        if len(rows) > _NAMED:
            ends = sorted(-r["behind"] for r in rows)
            names = ", ".join(r["method"] for r in rows)
            yield f"{begin}, by {ends[0]:.3f} to {ends[-1]:.3f}: {names}."
        elif rows:
            yield f"{begin}: {'; '.join(map(_behind, rows))}."
    controls = [r for r in test.rows if is_control(r["method"])]
    if controls and not is_control(first["method"]):
        near = [r["method"] for r in controls if not r["behind_high"] < 0]
        if near:
            yield f"It is not shown to be ahead of these controls: {', '.join(near)}."
        else:
            yield f"It is ahead of every control: {', '.join(r['method'] for r in controls)}."


def _behind(row: Row) -> str:
    interval = _interval(-row["behind_high"], -row["behind_low"])
    return f"{row['method']}, worse by {-row['behind']:.3f} ({interval})"


def _interval(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):  # of one image
        return "no interval"
    return f"{low:.3f} to {high:.3f}"


def cautions(
    ranking: Sequence[Row], base: Mapping[str, Mapping[str, float]], tests: Sequence[str] = ()
) -> list[str]:
    """Return why a result cannot mean much, in a few sentences.

    Args:
        ranking: rows of the table.
        base: what is known of each model: ``classes``, ``probability``, perhaps ``accuracy``.
        tests: that were asked for.
    """
    all_of = contests(ranking)
    several = len(base) > 1

    def named(test: Contest) -> str:
        return f"{test.name} of {test.model}" if several else test.name

    said = list(_unsure(base))
    for model in base:
        missing = [t for t in tests if not any((c.model, c.test) == (model, t) for c in all_of)]
        if missing:
            names = ", ".join(t.replace("-", " ") for t in missing)
            said.append(
                f"There are no numbers of {model} for {names}: no image can be used, or no method "
                "applies."
            )
    few = sorted({t.images for t in all_of if t.images < FEW})
    if few:
        count = f"{few[0]} to {few[-1]}" if len(few) > 1 else f"{few[0]}"
        said.append(f"Few images ({count} a test): intervals say little below about {FEW}.")
    open_ = [named(t) for t in all_of if t.of("not shown") and not t.undecided]
    if open_:
        said.append(
            f"Not all is decided in {len(open_)} of {len(all_of)} tests (verdict: not shown): more "
            "images would decide it."
        )
    controls = [
        f"{named(t)}: {', '.join(r['method'] for r in won)}"
        for t in all_of
        if (won := [r for r in (*t.of("first"), *t.of("tied")) if is_control(r["method"])])
        and not t.undecided
    ]
    if controls:
        said.append(
            f"Controls, which know nothing of the model, are first or tied in some tests "
            f"({_first(controls, '; ')}): there a good score says little."
        )
    same = [named(t) for t in all_of if t.undecided]
    if same:
        said.append(f"All methods have the same mean in {_first(same)}: that decides nothing.")
    return said


def _unsure(base: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for model, known in base.items():
        chance = 1 / known["classes"]
        accuracy = known.get("accuracy", math.nan)
        near = min(2 * chance, (1 + chance) / 2)  # of two classes, twice that is certainty
        if accuracy < near:
            yield (
                f"{model} is right on {accuracy:.1%} of the images, and guessing on "
                f"{chance:.1%}: a map of such a model explains noise."
            )
        if known["probability"] < near:
            yield (
                f"{model} gives its predicted class a probability of {known['probability']:.1%} on "
                f"average, and guessing gives {chance:.1%}: it is hardly sure of anything."
            )


def _first(names: Sequence[str], between: str = ", ", most: int = 4) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return between.join([*names[:most], *more])
