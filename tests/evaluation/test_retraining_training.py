"""Remove and retrain: killed trainings, networks that do not stack, group_size, imputation, sittings."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.errors import InputError
from fullgrad.evaluation import imputation
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.imputation import ImputationError, imputed
from fullgrad.evaluation.removal import filled, ranks_of, removed
from fullgrad.evaluation.store import Content, Store, StoreError
from fullgrad.evaluation.tests.remove_and_retrain import estimate
from fullgrad.evaluation.tests.remove_and_retrain import tables as results
from fullgrad.evaluation.training import state as checkpoint
from fullgrad.evaluation.training.loader import AugmentedLoader
from fullgrad.evaluation.training.loop import Settings, Trained, _fastest, train
from fullgrad.evaluation.training.networks import NetworkChoice
from fullgrad.evaluation.training.stacked import StackingError, check_stackable
from fullgrad.evaluation.training.state import Checkpoint
from patches import CLASSES, CPU, SIDE, patch_data, plan_for, roar_of, tasks_for


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
def test_no_room_for_a_company(
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


def equations(image: np.ndarray[Any, Any], gone: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Each removed pixel the weighted mean of its neighbors: one dense system, solved."""
    height, width = gone.shape
    a, b = np.eye(height * width), image.reshape(-1).astype(float)
    for y in range(height):
        for x in range(width):
            if not gone[y, x]:
                continue
            around = [
                (v, u)
                for v in range(y - 1, y + 2)
                for u in range(x - 1, x + 2)
                if (v, u) != (y, x) and 0 <= v < height and 0 <= u < width
            ]
            weights = [1 / 6 if v == y or u == x else 1 / 12 for v, u in around]
            b[y * width + x] = 0
            for (v, u), weight in zip(around, weights, strict=True):
                a[y * width + x, v * width + u] = -weight / sum(weights)
    return np.linalg.solve(a, b).reshape(height, width)


def test_imputation() -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 3, 9, 7), generator=generator).byte()
    gone = torch.rand(6, 63, generator=generator) < 0.6
    gone[4] = False
    gone[5, 1:] = True  # one pixel is left
    found = imputed(images, gone, 0, noise=0.0)
    for n in range(6):
        for c in range(3):
            expected = equations(images[n, c].numpy(), gone[n].view(9, 7).numpy())
            assert np.abs(found[n, c].numpy() - expected).max() < 0.51
    assert torch.equal(found[4], images[4])
    assert bool((found[5] == images[5, :, :1, :1]).all())
    noisy = imputed(images, gone, 0)
    mask = gone.view(6, 1, 9, 7).expand_as(images)
    assert torch.equal(noisy[~mask], images[~mask])
    gaps = (noisy.double() - found.double())[mask & (found > 12) & (found < 243)]
    assert abs(float(gaps.std()) - 2.55) < 0.3
    assert torch.equal(noisy, imputed(images, gone, 0))
    assert not torch.equal(noisy, imputed(images, gone, 1))
    assert not torch.equal(noisy, imputed(images, gone, 0, first=6))
    gone[0] = True
    with pytest.raises(InputError, match="every pixel is removed cannot be imputed"):
        imputed(images, gone, 0)


def test_products_that_are_rounded_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU may round a convolution's: ten bits of the fraction are left."""
    real = imputation._neighbors

    def rounding(x: Tensor) -> Tensor:
        return real(((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32))

    x = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).mul(255)
    kernel = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]).div(12)
    expected = F.conv2d(x.double().flatten(0, 1)[:, None], kernel.double()[None, None], padding=1)
    torch.testing.assert_close(real(x), expected.view(x.shape).float(), rtol=1e-6, atol=1e-4)
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=generator).byte()
    gone = torch.rand(6, 256, generator=generator) < 0.7
    right = imputed(images, gone, 0)
    plain = F.conv2d
    with monkeypatch.context() as patched:  # no convolution is asked
        patched.setattr(
            F, "conv2d", lambda x, *rest, **more: plain(x.bfloat16().float(), *rest, **more)
        )
        assert torch.equal(imputed(images, gone, 0), right)
    monkeypatch.setattr(imputation, "_neighbors", rounding)
    with pytest.raises(ImputationError, match=r"equations were not solved: .* is left"):
        imputed(images, gone, 0)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_imputation_as_the_grad_cam_package_does_it() -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road", reason="grad-cam is not installed")
    images = torch.randint(
        0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(1)
    ).byte()
    gone = removed(ranks_of(torch.zeros(3, 1, 16, 16), 0), 0.7, "most")
    found = imputed(images, gone, 0, noise=0.0)
    imputer = road.NoisyLinearImputer(noise=0.0)
    for image, mask, own in zip(images, gone, found, strict=True):
        expected = imputer(image.float(), (~mask).view(16, 16).float())
        assert float((own.float() - expected).abs().max()) < 0.51


def test_road_as_a_fill(tmp_path: Path) -> None:
    data = patch_data(40, 40)
    plan = plan_for(data, "random", fractions=(0.3, 0.6), runs=1, fill="road")
    plan = replace(plan, training=replace(plan.training, epochs=1))
    roar = roar_of(plan, data, tmp_path / "store")
    found = estimate.estimate(roar)
    assert found.fill_seconds > 0
    assert estimate.estimate(replace(roar, plan=replace(plan, fill="black"))).fill_seconds == 0
    assert roar.run() == len(plan.networks()) + 2
    rows = results.rows(plan, roar.store)
    other = replace(roar, plan=replace(plan, fill="mean"))
    assert other.run() == 2  # the masks' networks and the maps are shared
    assert set(rows["fill"]) == {"road"}
    colors = Colors.of(data.train)
    gone = removed(roar.ranks(plan.choices[0])[0], 0.3, "most")
    a, b = (filled(data.train, gone, f, colors, 5) for f in ("road", "mean"))
    mask = gone.view(-1, 1, SIDE, SIDE)
    assert torch.equal(a[~mask], b[~mask])
    assert not torch.equal(a, b)
    everything = replace(roar, plan=replace(plan, fractions=(0.3, 0.999)))
    with pytest.raises(InputError, match=r"the fraction 0\.999 removes all 144"):
        everything.run()


def test_sittings(tmp_path: Path) -> None:
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


def test_a_company_killed_between_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_what_a_kill_leaves_beside_finished_stages_goes(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path / "s", said.append)
    store.mend()  # nothing is there
    assert not store.folder.exists()
    store.put("done", Content({}))
    for name in ("done", "begun", "damaged"):
        store.put_partial(name, name, Content({"step": 1}))
    store.path("damaged").write_bytes(b"")
    (store.folder / "bad.group").write_bytes(b"no group")
    store.mend()
    names = {p.name for p in store.folder.glob("*.partial")}
    assert names == {"begun.partial", "damaged.partial"}
    assert not list(store.folder.glob("*.group"))
    assert said[0] == (
        f"damaged, its stages are done again: {store.folder / 'bad.group'} (it does not begin as "
        "a stage's file)"
    )
    arrays = {"0.weight": np.arange(3), "a/b": np.zeros((0, 2))}
    store.put_together({"x": Content({"n": 1}, arrays), "x1": Content({"n": 2})})
    for digest, values, names in (("x", {"n": 1}, set(arrays)), ("x1", {"n": 2}, set())):
        found = store.get(digest)
        assert found is not None
        assert (dict(found.values), set(found.arrays)) == (values, names)
    assert not list(store.folder.glob("*.group"))


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
