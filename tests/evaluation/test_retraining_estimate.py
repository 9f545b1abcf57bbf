"""Networks that do not stack, and the fastest group size."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.tests.remove_and_retrain import estimate
from fullgrad.evaluation.training.loader import AugmentedLoader
from fullgrad.evaluation.training.networks import NetworkChoice
from fullgrad.evaluation.training.stacked import StackingError, check_stackable
from patches import CLASSES, CPU, SIDE, patch_data, plan_for, roar_of


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drawn = torch.randn(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.drawn


def test_networks_that_do_not_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def builds(inner: Any) -> Any:
        def build(seed: int) -> nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                head = nn.Linear(2 * (SIDE - 2) ** 2, 3)
                return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(inner()), nn.Flatten(), head)

        return build

    x = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    for inner in (nn.ReLU, nn.Dropout, lambda: nn.BatchNorm2d(2), lambda: nn.GroupNorm(1, 2)):
        check_stackable(builds(inner), x, "fine")
    for inner, culprit, reason in (
        (lambda: nn.BatchNorm2d(2, momentum=None), r"1\.0 \(BatchNorm2d\)", r"\.item\(\)"),
        (Branching, r"1\.0 \(Branching\)", "data-dependent control flow"),
    ):
        with pytest.raises(
            StackingError,
            match=r"^odd cannot be trained several at once: the module "
            + culprit
            + r" does not stack \(.*"
            + reason
            + r".*\)\. Train them one after the other: "
            "--group-size 1$",
        ):
            check_stackable(builds(inner), x, "odd")
    with pytest.raises(
        StackingError,
        match=r"its output differs by .* neither parameters nor buffers\? .*group-size 1",
    ):
        check_stackable(builds(Hidden), x, "odd")
    assert torch.equal(before, torch.get_rng_state())


def test_stacking_is_tried_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = patch_data(40, 40)
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.BatchNorm2d(1, momentum=None),"
        f" nn.Flatten(), nn.Linear({SIDE**2}, {CLASSES}))\n"
    )
    plan = plan_for(data, "random", network=NetworkChoice(f"{file}:net", None, CLASSES, 1))
    roar = roar_of(plan, data, tmp_path / "store", group_size=2)
    with pytest.raises(StackingError, match=r"the module 0 \(BatchNorm2d\) does not stack"):
        roar.run()
    assert not (tmp_path / "store").exists()
    said: list[str] = []
    assert list(estimate.fastest_group(roar, said.append)) == [1]
    assert len(said) == 1
    assert "does not stack" in said[0]
    plan = replace(plan, training=replace(plan.training, epochs=1), fractions=(0.5,), runs=1)
    assert roar_of(plan, data, tmp_path / "store").run() == 5


def test_the_fastest_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = patch_data(40, 40)
    roar = roar_of(plan_for(data, "random"), data, tmp_path / "store")  # eight networks
    tried: dict[int, float] = {}

    def trial(roar: Any, colors: Colors) -> float:
        if tried[roar.group_size] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tried[roar.group_size]

    monkeypatch.setattr(estimate, "_step_trial", trial)
    said: list[str] = []
    for seconds, seen in (
        ({1: 4.0, 2: 3.0, 4: 2.0}, [1, 2, 4]),  # 8 are more than are left beside the base network
        ({1: 4.0, 2: 4.5, 4: 2.0}, [1, 2, 4]),
        ({1: 4.0, 2: 6.0}, [1, 2]),
        ({1: 4.0, 2: 3.0, 4: -1.0}, [1, 2]),
    ):
        tried = seconds
        assert list(estimate.fastest_group(roar, said.append)) == seen
    assert said == ["4 networks at once do not fit in memory"]
    tried = {1: -1.0}
    with pytest.raises(torch.OutOfMemoryError):
        estimate.fastest_group(roar, said.append)
    monkeypatch.undo()
    found = estimate.fastest_group(roar, said.append)
    assert set(found) <= {1, 2, 4}
    assert all(s > 0 for s in found.values())
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (TypeError("out of memory"), False),
    ],
)
def test_no_room_for_a_group_size(
    error: Exception, memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = patch_data(40, 40)
    roar = roar_of(plan_for(data, "random"), data, tmp_path / "store")
    emptied: list[BaseException | None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(sys.exc_info()[1]))

    def trial(roar: Any, colors: Colors) -> float:
        if roar.group_size == 2:
            raise error
        return 1.0

    monkeypatch.setattr(estimate, "_step_trial", trial)
    said: list[str] = []
    if memory:
        assert estimate.fastest_group(roar, said.append) == {1: 1.0}
        assert said == ["2 networks at once do not fit in memory"]
        assert emptied == [None, None]  # after each trial, and behind its except
    else:
        with pytest.raises(type(error), match=str(error)):
            estimate.fastest_group(roar, said.append)
        assert said == []


def test_a_trial_weighs_as_much_as_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = patch_data(200, 40)
    plan = plan_for(data, "random")
    plan = replace(plan, training=replace(plan.training, batch=3, shift=2))
    roar = roar_of(plan, data, tmp_path / "store", group_size=4)

    def held(count: int) -> int:
        return AugmentedLoader(
            data.train[:count], data.train_labels, 0, (1,), 2, True, CPU
        )._images.numel()

    most = 3 * max(estimate._STEPS_GPU)
    assert most < 200
    assert estimate._unseen(roar) == 4 * (held(200) - held(most))
    large = replace(plan, training=replace(plan.training, batch=32))
    assert estimate._unseen(replace(roar, plan=large)) == 0  # the trial holds them all
    asked: list[Any] = []
    real = torch.empty

    def empty(*size: int, **options: Any) -> Tensor:
        if options.get("dtype") == torch.uint8 and options.get("device") == "cuda":
            asked.append(size)
            options["device"] = "cpu"
        return real(*size, **options)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(estimate, "compute_networks", lambda *args: None)
    estimate._step_trial(replace(roar, device="cuda"), Colors.of(data.train))
    assert asked == [(estimate._unseen(roar),)]
