"""Pictures of an evaluation: scores, and the images whose maps a test scores best and worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fullgrad.evaluation.statistics import Table
from fullgrad.evaluation.tests.evaluate import verdicts
from fullgrad.evaluation.tests.evaluate.plan import EvaluatePlan
from fullgrad.evaluation.tests.evaluate.subject import Explained, Subject
from fullgrad.evaluation.tests.evaluate.words import Contest, is_control, methods_of
from fullgrad.methods.controls import NOISE
from fullgrad.vision.images import display_image
from fullgrad.viz.scores import Example, Panel, example_sheet, score_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3  # best ones, and as many worst ones


def chosen_method(test: Contest) -> str:
    """Return the best method that is no control; the best control where there are controls only."""
    names: list[str] = [row["method"] for row in test.rows]
    return next((n for n in names if not is_control(n)), names[0])


def extremes(test: Contest, method: str, rows: Table) -> tuple[list[Any], list[Any]]:
    """Return the cases with the best and the worst scores of a method, none of them twice.

    Args:
        test: of a model.
        method: its label.
        rows: all that was measured.

    Returns:
        Pairs of case and score: the best ones, the best first; the worst ones, the worst first.
    """
    own = rows[(rows["model"] == test.model) & (rows["test"] == test.test)]
    own = verdicts.scaled(own[(own["setting"] == test.setting) & (own["method"] == method)])
    order = own.sort_values("value", ascending=test.better == "lower", kind="stable")
    pairs = list(zip(order["case"], order["value"], strict=True))
    best = pairs[: min(SHOWN, (len(pairs) + 1) // 2)]
    worst = pairs[len(pairs) - min(SHOWN, len(pairs) // 2) :]
    return best, worst[::-1]


def scores(subject: Subject, tests: Sequence[Contest]) -> Figure:
    """Draw the means of a model's methods, a panel for each test, controls in gray.

    Args:
        subject: the model with its images.
        tests: of that model.
    """
    panels = [Panel(t.test.replace("-", " "), t.setting, t.better, t.chance, t.rows) for t in tests]
    controls = [m for m in methods_of(tests) if is_control(m)]
    return score_panels(panels, f"{subject.name}, {len(subject)} images", controls)


def examples(subject: Subject, test: Contest, plan: EvaluatePlan, rows: Table) -> Figure:
    """Draw the best and the worst images of a test's best method, with its maps computed again.

    Args:
        subject: the model with its images.
        test: of that model.
        plan: of the evaluation.
        rows: all that was measured.
    """
    method = chosen_method(test)
    best, worst = extremes(test, method, rows)
    choice = next(c for c in plan.choices if c.label == method)

    def drawn(pairs: list[Any]) -> Iterator[Example]:
        numbers = {item.name: n for n, item in enumerate(subject.source.items)}
        for case, score in pairs:
            number = numbers[case]
            group: tuple[int, ...] = (number,)
            if choice.name in NOISE:  # its numbers depend on the images beside it
                start = number - number % plan.batch_size
                group = tuple(range(start, min(start + plan.batch_size, len(subject))))
            explained = Explained(subject, choice, group, plan.number, plan.seed)
            read = subject.source.items[number].read()[0]
            yield Example(
                display_image(read, subject.model.preprocessing),
                explained.maps[group.index(number), 0].detach().cpu().numpy(),
                case,
                f"score {score:+.3f}; {_predicted(subject, number)}",
            )

    if test.better == "lower":
        groups = [("lowest (best) scores", best), ("highest (worst) scores", worst)]
    else:
        groups = [("highest (best) scores", best), ("lowest (worst) scores", worst)]
    return example_sheet(
        [(head, tuple(drawn(pairs))) for head, pairs in groups if pairs],
        f"{method}, {test.name}, {test.model}",
    )


def _predicted(subject: Subject, number: int) -> str:
    index = int(subject.predicted[number])
    names = subject.model.class_names
    name = names[index] if names and index < len(names) else f"class {index}"
    return f"{name} {float(subject.sureness[number]):.0%}"
