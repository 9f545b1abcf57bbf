"""Remove and retrain: killed trainings, time budgets, groups."""

from __future__ import annotations

import errno
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.store import Content, Store, StoreError
from fullgrad.evaluation.tests.remove_and_retrain import tables as results
from fullgrad.evaluation.training import state as checkpoint
from fullgrad.evaluation.training.loop import Settings, Trained, _fastest, train
from fullgrad.evaluation.training.state import Checkpoint
from patches import CLASSES, CPU, SIDE, patch_data, plan_for, roar_of, tasks_for


class Killed(Exception):
    pass


class Killing(Checkpoint):
    """Dies when so many checkpoints are written."""

    def __init__(self, store: Store, stages: list[str], after: float = math.inf) -> None:
        super().__init__(store, stages)
        self.steps: list[int] = []
        self._after = after

    def save(self, content: Content) -> None:
        super().save(content)
        self.steps.append(content.values["step"])
        if len(self.steps) >= self._after:
            raise Killed


def with_dropout(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(4 * (SIDE - 2) ** 2, CLASSES),
    )


@pytest.mark.parametrize("group_size", [1, 2])
def test_a_killed_training_goes_on_in_its_middle(
    group_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    data = patch_data(70, 40)
    settings = Settings(epochs=3, batch=20, shift=2, mirror=True)  # three steps an epoch
    colors, names = Colors.of(data.train), [f"s{k}" for k in range(group_size)]

    def trained(kept: Checkpoint | None, ticks: list[int]) -> list[Trained]:
        tasks = tasks_for(data, range(group_size))
        return train(with_dropout, tasks, settings, colors, CPU, lambda: ticks.append(1), kept)

    before = torch.get_rng_state()
    whole = trained(None, [])
    for after in (1, 2, 3, 4, 8, 9):
        store = Store(tmp_path / f"after-{after}")
        with pytest.raises(Killed):
            trained(Killing(store, names, after), [])
        ticks: list[int] = []
        rest = Killing(store, names)
        found = trained(rest, ticks)
        assert rest.steps == list(range(after + 1, 10))
        assert len(ticks) == 3
        for one, other in zip(found, whole, strict=True):
            assert (one.accuracy, one.loss) == (other.accuracy, other.loss)
            assert list(one.state) == list(other.state)
            for name, value in other.state.items():
                assert torch.equal(one.state[name], value), name
        assert [p.name for p in store.folder.glob("*.partial")] == ["s0.partial"]
        store.put("s0", Content({}))
        assert not list(store.folder.glob("*.partial"))
    assert torch.equal(before, torch.get_rng_state())


def test_checkpoints_of_others_and_damaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    store = Store(tmp_path, said.append)
    Checkpoint(store, ["a", "b"]).save(Content({"step": 3}))
    assert Checkpoint(store, ["a"]).load() is None  # of another group
    assert said == []
    kept = Checkpoint(store, ["a", "b"]).load()
    assert kept is not None
    assert kept.values["step"] == 3
    path = tmp_path / "a.partial"
    path.write_bytes(path.read_bytes()[:-1])
    assert Checkpoint(store, ["a", "b"]).load() is None
    assert said == [f"damaged, its stage is begun again: {path} (its checksum is wrong)"]
    fresh = Checkpoint(store, ["a"])
    assert not fresh.due
    monkeypatch.setattr(time, "monotonic", lambda at=time.monotonic(): at + checkpoint.EVERY + 1)
    assert fresh.due

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write to .*: No space left on device"):
        fresh.save(Content({}))


def test_what_a_state_dict_holds_is_kept(tmp_path: Path) -> None:
    """Weights under two names, and buffers that a state dict leaves out."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(SIDE**2, CLASSES, bias=False)
            self.again = self.first
            self.register_buffer("share", torch.tensor(0.5), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.first(x.flatten(1)) * self.share + self.again(x.flatten(1))
            return found

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Tied()

    data = patch_data(40, 40)
    settings = Settings(epochs=1, batch=20, rate=0.01, shift=0, mirror=False)
    for group_size in (1, 2):
        for found in train(
            build, tasks_for(data, range(group_size)), settings, Colors.of(data.train), CPU
        ):
            assert sorted(found.state) == ["again.weight", "first.weight"]
            build(0).load_state_dict(found.state)


def test_what_the_process_has_set_of_cudnn_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    wanted = {"enabled": False, "deterministic": True, "allow_tf32": False, "benchmark": False}
    before = {name: getattr(cudnn, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(cudnn, name, value)
        with _fastest(torch.device("cuda")):
            inside = {name: getattr(cudnn, name) for name in wanted}
        assert inside == {**wanted, "benchmark": True}
        with pytest.raises(Killed), _fastest(torch.device("cuda")):
            raise Killed
        assert {name: getattr(cudnn, name) for name in wanted} == wanted
        with _fastest(CPU):
            assert not cudnn.benchmark
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)


def test_time_budgets(tmp_path: Path) -> None:
    """With no time at all, each start does one piece of work, and in the end all of it is done."""
    data = patch_data(40, 40)
    plan = plan_for(data, "input_gradient", fractions=(0.3,), runs=2)
    plan = replace(plan, training=replace(plan.training, epochs=1, batch=20))
    whole = roar_of(plan, data, tmp_path / "whole")
    whole.run()
    cut = replace(roar_of(plan, data, tmp_path / "cut"), deadline=time.monotonic())
    stages = len(list((tmp_path / "whole").glob("*.stage")))
    assert [cut.run() for _ in range(stages + 1)] == [1] * stages + [0]
    pandas.testing.assert_frame_equal(
        results.rows(plan, cut.store), results.rows(plan, whole.store)
    )
    ahead = replace(roar_of(plan, data, tmp_path / "ahead"), deadline=time.monotonic() + 600)
    assert ahead.run() == stages


def grouped(tmp_path: Path, name: str) -> Any:
    """The base, then four networks and two; were one of the four left out, four and one alone,
    which is rounded in another way."""
    data = patch_data(80, 40)
    fractions = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    plan = plan_for(data, "random", fractions=fractions, runs=1, mask_runs=0)
    plan = replace(plan, training=replace(plan.training, batch=10, rate=0.3, shift=1))
    return roar_of(plan, data, tmp_path / name, group_size=4)


def test_a_group_killed_between_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every file that the first group writes, and between a file and what it replaces."""
    whole = grouped(tmp_path, "whole")
    assert whole.run() == 9
    table = results.rows(whole.plan, whole.store)
    group = [s.digest for s in whole.plan.networks()[1:5]]
    replaced, unlinked = Path.replace, Path.unlink
    trained: list[list[str]] = []
    real = train

    def counted(build: Any, tasks: Any, *rest: Any) -> Any:
        trained.append([t.seed for t in tasks])
        return real(build, tasks, *rest)

    monkeypatch.setattr("fullgrad.evaluation.tests.remove_and_retrain.retraining.train", counted)

    def cut_at(event: int, folder: str) -> bool:
        seen = 0

        def dying(real: Any) -> Any:
            def call(path: Path, *args: Any, **options: Any) -> Any:
                nonlocal seen
                target = args[0] if args else path
                ours = target.suffix in (".stage", ".group") or real is unlinked
                if ours and target.stem in group:
                    seen += 1
                    if seen == event:
                        raise Killed
                return real(path, *args, **options)

            return call

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "EVERY", 0.0)
            patched.setattr(Path, "replace", dying(replaced))
            patched.setattr(Path, "unlink", dying(unlinked))
            try:
                grouped(tmp_path, folder).run()
            except Killed:
                return True
        return False

    event, after_first = 1, 0
    while cut_at(event, f"cut-{event}"):
        cut = grouped(tmp_path, f"cut-{event}")
        there = [cut.store.has(d) for d in group]
        after_first += any(there) and not all(there)
        committed = bool(list(cut.store.folder.glob("*.group")))
        trained.clear()
        assert cut.run() == 9 - 3 - 4 * (committed or all(there))
        assert len(trained) == 2 - (committed or all(there))  # what is there is not trained again
        found = results.rows(cut.plan, cut.store)
        pandas.testing.assert_frame_equal(found, table, check_exact=True)
        for path in whole.store.folder.iterdir():
            if path.suffix == ".stage" and "-" not in path.stem:
                mine = cut.store.get(path.stem)
                theirs = whole.store.get(path.stem)
                assert {k: v for k, v in mine.values.items() if k != "seconds"} == {
                    k: v for k, v in theirs.values.items() if k != "seconds"
                }
                assert all(np.array_equal(mine.arrays[n], a) for n, a in theirs.arrays.items())
        assert {p.suffix for p in cut.store.folder.iterdir()} == {".stage", ".json"}
        event += 1
    assert after_first == 6
    assert event == 1 + 1 + 2 * 4 + 1


def test_a_run_begins_by_mending(tmp_path: Path) -> None:
    data = patch_data(40, 40)
    plan = plan_for(data, "random", fractions=(0.5,), runs=1, mask_runs=0)
    plan = replace(plan, training=replace(plan.training, epochs=1))
    roar = roar_of(plan, data, tmp_path / "s")
    assert roar.run() == 4
    base = plan.base().digest
    roar.store.put_partial(base, base, Content({"step": 1}))
    assert roar.run() == 0
    assert not list(roar.store.folder.glob("*.partial"))
