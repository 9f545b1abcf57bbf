"""Every task of docs/tasks.md: the independent sum, the places, and what is refused."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

import page
from task import Case, box, check, noise, seeded

PAGE = page.PAGE.read_text(encoding="utf-8")


def rows() -> dict[str, list[str]]:
    """The table's cells by task."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    return {
        cells[0]: cells for cells in ([c.strip() for c in x.strip("|").split("|")] for x in lines)
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", page.TASKS, ids=lambda t: t.name)
def test_a_task_does_what_the_table_says(task: page.Task) -> None:
    try:
        importlib.metadata.version(task.library)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{task.library} is not installed")
    row = page.run(task)
    written = rows()[task.name]
    # Library, value and places depend on the library's version; what is said does not.
    mine = [c.strip() for c in page.line(row).strip("|").split("|")]
    assert [written[i] for i in (0, 2, 3, 4, 9)] == [mine[i] for i in (0, 2, 3, 4, 9)]


def test_the_page_holds_the_tasks() -> None:
    assert [name for name in rows() if name != "task"] == [task.name for task in page.TASKS]
    assert PAGE.startswith(page.HEAD) and PAGE.endswith(page.FOOT)
    assert len(page.TASKS) >= 20


class Edge(torch.nn.Module):
    """Reads the first four of eight places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :4].exp().mean(2)


def case(**changes: object) -> Case:
    values = {
        "model": seeded(Edge),
        "batch": {"x": noise(2, 1, 8)},
        "target": lambda y: y[:, 0],
        "explained": ["x"],
        "layouts": {"x": "BCT"},
        **changes,
    }
    return Case(**values)  # type: ignore[arg-type]


def test_the_oracles_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(case()).places == {"x": (8, 16)}
    import task
    from fullgrad import complete_map

    def changed(change: object) -> object:
        def call(c: Case, **options: object) -> object:
            found = complete_map(c.model, c.batch, c.target)
            found.map["x"].copy_(change(found.map["x"]))  # type: ignore[operator]
            return found

        return call

    for change, says in (
        (lambda m: m * 1.01, "the sum is off"),
        (lambda m: m.roll(1, 2), "places with a gradient have no number"),
        (
            lambda m: m + torch.tensor([0.0] * 6 + [1.0, -1.0]),
            "places that are not read have numbers",
        ),
    ):
        monkeypatch.setattr(task, "explained", changed(change))
        with pytest.raises(AssertionError, match=says):
            check(case())


def test_boxes_around_places() -> None:
    there = torch.zeros(1, 4, 5, dtype=torch.bool)
    there[0, 1, 1] = there[0, 2, 3] = True
    expected = torch.zeros(1, 4, 5, dtype=torch.bool)
    expected[0, 1:3, 1:4] = True
    assert torch.equal(box(there), expected)
    assert not box(torch.zeros(1, 3, 3, dtype=torch.bool)).any()
