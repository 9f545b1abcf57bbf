"""Remove and retrain: ranks, training, stages, and data whose answer is known."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

from fullgrad import methods
from fullgrad.errors import InputError, ModelLoadError
from fullgrad.evaluation.datasets import Colors
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.removal import ranks_of
from fullgrad.evaluation.store import StoreError
from fullgrad.evaluation.tests.remove_and_retrain import tables as results
from fullgrad.evaluation.tests.remove_and_retrain.executors import InProcess
from fullgrad.evaluation.tests.remove_and_retrain.plan import RetrainPlan
from fullgrad.evaluation.training.loop import Settings, TrainingError, train
from fullgrad.evaluation.training.networks import NetworkChoice
from patches import (
    CLASSES,
    CORNER,
    CPU,
    PATCH,
    SIDE,
    patch_data,
    plan_for,
    reversed_mask,
    roar_of,
    tasks_for,
    true_mask,
)


@pytest.fixture
def oracles() -> Iterator[None]:
    methods.register("true_mask", true_mask)
    methods.register("reversed_mask", reversed_mask)
    yield
    methods.unregister("true_mask")
    methods.unregister("reversed_mask")


def test_the_true_mask_comes_first_and_its_reverse_last(oracles: None, tmp_path: Path) -> None:
    data = patch_data()
    plan = plan_for(data, "reversed_mask", "random", "true_mask")
    roar = roar_of(plan, data, tmp_path / "store")
    assert roar.run() == len(plan.networks()) + 6
    table = results.rows(plan, roar.store)
    means = results.summary(table).set_index(["input", "method", "fraction"])["accuracy"]
    small, large = plan.fractions
    deviation = (0.25 * 0.75 / len(data.test)) ** 0.5
    assert means["images", "none", 0.0] > 0.95
    assert means["images", "true_mask", small] < 0.25 + 4 * deviation  # the class is gone
    assert means["images", "reversed_mask", small] > 0.9  # it is all there
    assert means["images", "reversed_mask", large] > 0.9
    assert means["images", "random", large] > 0.5
    for method in ("true_mask", "reversed_mask", "random"):  # masks that know no class
        assert means["masks", method, small] < 0.25 + 4 * deviation
    ranking = results.ranking(table, plan.order)
    assert list(ranking["method"]) == ["true_mask", "random", "reversed_mask"]
    assert results.ranking(table, "least")["method"][0] == "reversed_mask"
    found = results.differences(table).set_index(["first", "second"])
    assert found.loc[("reversed_mask", "true_mask"), "difference"] > 0.2
    assert roar.run() == 0


def test_masks_that_tell_the_class_are_measured(tmp_path: Path) -> None:
    """A "method" that marks one place for each class: the masks alone say everything."""
    data = patch_data(160, 100)

    def leaking(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        found = torch.zeros(len(inputs), 1, *inputs.shape[2:])
        y, x = CORNER
        for i, image in enumerate(inputs):
            patch = image[0, y : y + PATCH, x : x + PATCH]
            seen = [float(patch.mean()), float(patch[0].mean() - patch[1].mean())]
            which = 0 if seen[0] > 1 else 1 if seen[0] < -1 else 2 if seen[1] > 1 else 3
            found[i, 0, 3 * which : 3 * which + 3, which : which + 3] = 1
        return found

    methods.register("leaking", leaking)
    try:
        plan = plan_for(data, "leaking", fractions=(9 / 144,), runs=1)
        plan = replace(plan, training=replace(plan.training, epochs=12))
        roar = roar_of(plan, data, tmp_path / "store")
        roar.run()
        table = results.rows(plan, roar.store)
    finally:
        methods.unregister("leaking")
    (leak,) = table.loc[table["input"] == "masks", "accuracy"]
    assert leak > 0.9


def test_ranks_are_permutations_in_the_maps_order() -> None:
    maps = torch.randn(5, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    ranks = ranks_of(maps, 0)
    assert ranks.dtype == np.uint16
    assert ranks.shape == (5, 42)
    for row, map_ in zip(ranks.tolist(), maps.flatten(1).tolist(), strict=True):
        assert [map_[row.index(k)] for k in range(42)] == sorted(map_, reverse=True)
    flat = ranks_of(torch.zeros(3, 1, 4, 4), 1)
    assert sorted(flat[0].tolist()) == list(range(16))
    assert len({tuple(r) for r in flat.tolist()}) == 3  # ties differ from image to image
    assert np.array_equal(flat, ranks_of(torch.zeros(3, 1, 4, 4), 1))
    with pytest.raises(InputError, match="maps must be finite"):
        ranks_of(torch.full((1, 1, 2, 2), float("nan")), 0)
    with pytest.raises(InputError, match="images of more than 65536 pixels cannot be ranked"):
        ranks_of(torch.zeros(1, 1, 257, 257), 0)


def test_in_a_group_as_alone() -> None:
    data = patch_data(96, 60)
    colors = Colors.of(data.train)
    settings = Settings(epochs=2, batch=32, rate=0.05, shift=1, mirror=True)
    choice = NetworkChoice("small", 4, CLASSES, 1)
    before = torch.get_rng_state()
    together = train(choice.build, tasks_for(data, range(3)), settings, colors, CPU)
    again = train(choice.build, tasks_for(data, range(3)), settings, colors, CPU)
    for seed, (found, repeated) in enumerate(zip(together, again, strict=True)):
        (alone,) = train(
            choice.build, tasks_for(data, range(seed, seed + 1)), settings, colors, CPU
        )
        assert list(alone.state) == list(found.state)
        for name, value in alone.state.items():
            torch.testing.assert_close(value, found.state[name], rtol=1e-3, atol=1e-4, msg=name)
            assert torch.equal(repeated.state[name], found.state[name])
        assert abs(alone.accuracy - found.accuracy) <= 1 / 60 + 1e-9
        assert abs(alone.loss - found.loss) < 1e-3
    assert not torch.equal(together[0].state["0.weight"], together[1].state["0.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_training_by_hand() -> None:
    """Two steps on a linear model, against Nesterov's formulas written out."""
    data = patch_data(8, 8)
    colors = Colors.of(data.train)
    settings = Settings(
        epochs=2, batch=8, rate=0.1, decay=0.01, smoothing=0.0, shift=0, mirror=False
    )

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, CLASSES)).double()

    class Double(Colors):
        def standardizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
            return lambda images: Colors(self.mean, self.std).standardized(images).double()

    with torch.random.fork_rng():
        weight = build(5)[1].weight.detach().clone()  # type: ignore[index]
        bias = build(5)[1].bias.detach().clone()  # type: ignore[index]
    (found,) = train(
        build, tasks_for(data, range(5, 6)), settings, Double(colors.mean, colors.std), CPU
    )
    x = Double(colors.mean, colors.std).standardized(data.train).flatten(1)
    velocity: list[Tensor] | None = None
    assert [settings.rate_at(s, 2) for s in range(2)] == [0.1, 0.05]
    for rate in (0.1, 0.05):
        error = (x @ weight.T + bias).softmax(1) - nn.functional.one_hot(data.train_labels, CLASSES)
        gradients = [error.T @ x / 8 + 0.01 * weight, error.mean(0)]
        velocity = (
            gradients if velocity is None else [0.9 * v + g for v, g in zip(velocity, gradients)]
        )
        weight = weight - rate * (gradients[0] + 0.9 * velocity[0])
        bias = bias - rate * (gradients[1] + 0.9 * velocity[1])
    # the logits are rounded to float32 before the loss
    torch.testing.assert_close(found.state["1.weight"], weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.state["1.bias"], bias, rtol=1e-5, atol=1e-6)


def test_mixed_precision_and_divergence() -> None:
    data = patch_data(64, 40)
    colors = Colors.of(data.train)
    choice = NetworkChoice("small", 4, CLASSES, 1)
    settings = Settings(epochs=1, batch=32, shift=0, mirror=False, precision="bfloat16")
    for count in (1, 2):
        found = train(choice.build, tasks_for(data, range(count)), settings, colors, CPU)
        assert all(v.dtype in (torch.float32, torch.int64) for v in found[0].state.values())
    wild = Settings(epochs=3, batch=8, rate=1e30, shift=0, mirror=False)
    with pytest.raises(TrainingError, match=r"take a lower learning rate than 1e\+30"):
        train(choice.build, tasks_for(data, range(1)), wild, colors, CPU)


def test_digests_change_with_what_they_depend_on() -> None:
    data = patch_data(40, 40)
    plan = plan_for(data, "fullgrad", "random")
    fullgrad = plan.choices[0]

    def networks(p: RetrainPlan) -> dict[Any, str]:
        return {(s.label, s.fraction, s.run, s.content): s.digest for s in p.networks()}

    def changed(p: RetrainPlan) -> set[str]:
        """Which of: networks without removal, maps, retrained networks, mask networks."""
        before, after = networks(plan), networks(p)
        kinds = {
            k[3] if k[0] != "none" else "base"
            for k in before
            if k in after and before[k] != after[k]
        }
        return kinds | {
            f"maps {c.name}" for c in plan.choices if plan.ranks_key(c) != p.ranks_key(c)
        }

    everything = {"base", "images", "masks", "maps fullgrad"}
    assert len(set(networks(plan).values())) == len(plan.networks())
    assert changed(replace(plan, runs=3)) == set()
    assert changed(replace(plan, fractions=(0.5, 0.9))) == set()
    assert changed(replace(plan, choices=(fullgrad, MethodChoice("sobel")))) == set()
    assert changed(replace(plan, data="elsewhere")) == set()
    assert changed(replace(plan, fill="black")) == {"images"}
    assert changed(replace(plan, order="least")) == {"images", "masks"}
    assert changed(replace(plan, training=replace(plan.training, epochs=6))) == everything
    assert changed(replace(plan, network=replace(plan.network, width=7))) == everything
    assert changed(replace(plan, content="other")) == everything | {"maps random"}
    assert changed(replace(plan, seed=1)) == everything | {"maps random"}
    other = MethodChoice("fullgrad", {"psi": "channel"})
    assert plan.ranks_key(other) != plan.ranks_key(fullgrad)
    noisy, same = MethodChoice("smoothgrad"), MethodChoice("smoothgrad", {"samples": 25})
    assert plan.ranks_key(noisy) == plan.ranks_key(same)  # the default, written out


def test_a_users_method_that_changes_is_another() -> None:
    plan = plan_for(patch_data(40, 40), "random")
    keys = []
    for function in (true_mask, reversed_mask):
        methods.register("mine", function)
        keys.append(plan.ranks_key(MethodChoice("mine")))
        methods.unregister("mine")
    assert keys[0] != keys[1]


def test_a_users_network_that_changes_is_another(tmp_path: Path) -> None:
    data = patch_data(40, 40)
    file = tmp_path / "own.py"
    spec = f"{file}:net"

    def plan_of(inner: str) -> RetrainPlan:
        file.write_text(
            "from torch import nn\ndef net():\n"
            f"    return nn.Sequential(nn.Flatten(), {inner}, nn.Linear({SIDE**2}, {CLASSES}))\n"
        )
        network = NetworkChoice.for_images(spec, None, data.train, CLASSES)
        return plan_for(data, "random", "fullgrad", network=network)

    first, other, again = map(plan_of, ("nn.ReLU()", "nn.Sigmoid()", "nn.ReLU()"))
    assert first.network == again.network
    assert [s.digest for s in first.networks()] == [s.digest for s in again.networks()]
    assert not {s.digest for s in first.networks()} & {s.digest for s in other.networks()}
    random, fullgrad = first.choices
    assert first.ranks_key(random) == other.ranks_key(random)  # knows nothing of the network
    assert first.ranks_key(fullgrad) != other.ranks_key(fullgrad)
    assert first.values()["network"]["code"] != other.values()["network"]["code"]
    assert NetworkChoice(**first.values()["network"]) == first.network
    again.network.build(0)
    with pytest.raises(ModelLoadError, match=r"own\.py:net: the Python file is not the one that"):
        other.network.build(0)
    missing = NetworkChoice.for_images(f"{tmp_path / 'no.py'}:net", None, data.train, CLASSES)
    with pytest.raises(ModelLoadError, match=r"no\.py does not exist"):
        missing.build(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": ()}, "at least one method is needed"),
        ({"choices": (MethodChoice("sobel"),) * 2}, "asked for twice: sobel"),
        ({"fractions": (0.5, 0.1)}, "fractions must be given once each, in ascending order"),
        ({"fractions": (0.0, 0.1)}, r"fractions must lie in \(0, 1\], not 0.0"),
        ({"order": "best"}, "order must be 'least' or 'most', not 'best'"),
        ({"fill": "blur"}, "fill must be one of mean, black, road, not 'blur'"),
        ({"runs": 0}, "runs must be at least 1, not 0"),
        ({"mask_runs": -1}, "mask_runs must be at least 0, not -1"),
        ({"map_batch": 0}, "map_batch must be at least 1, not 0"),
        ({"map_batch": 7}, "map_batch must divide 1000, not 7"),
        ({"seed": -1}, r"the seed must be at least 0 and below 2\*\*40, not -1"),
        ({"seed": 2**40}, r"the seed must be at least 0 and below 2\*\*40, not 1099511627776"),
    ],
)
def test_plans_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_for(patch_data(40, 40), "random", **changes)


def test_each_write_may_fail_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = patch_data(40, 40)
    plan = plan_for(data, "input_gradient", fractions=(0.3,), runs=2)
    plan = replace(plan, training=replace(plan.training, epochs=1, batch=20))
    whole = roar_of(plan, data, tmp_path / "whole")
    whole.run()
    stages = len(list((tmp_path / "whole").glob("*.stage")))
    real, left = Path.replace, 0

    def failing(self: Path, target: Any) -> Path:
        nonlocal left
        if target.suffix == ".stage":
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= 1
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    for done in range(stages):
        left = 1
        cut = roar_of(plan, data, tmp_path / "cut")
        if done < stages - 1:
            with pytest.raises(StoreError, match=r"cannot write to .*cut: No space left on device"):
                cut.run()
        else:
            assert cut.run() == 1
        assert len(list((tmp_path / "cut").glob("*.stage"))) == done + 1
        assert not list((tmp_path / "cut").glob("*.tmp"))
    monkeypatch.undo()
    cut = roar_of(plan, data, tmp_path / "cut")
    assert cut.run() == 0
    pandas.testing.assert_frame_equal(
        results.rows(plan, cut.store), results.rows(plan, whole.store)
    )


class Watching(InProcess):
    """Sees what is handed out."""

    def __init__(self) -> None:
        self.stored: list[tuple[int, int]] = []

    def run(self, function: Any, calls: Any, done: Any, tick: Any) -> None:
        def seen() -> Iterator[Any]:
            for call in calls:
                if isinstance(call[1], Tensor):
                    self.stored.append((call[1].nbytes, call[1].untyped_storage().nbytes()))
                yield call

        super().run(function, seen(), done, tick)


def test_a_part_of_maps_is_handed_out_with_its_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view of a tensor is pickled with all that it is a view of."""
    monkeypatch.setattr("fullgrad.evaluation.tests.remove_and_retrain.plan.CHUNK", 20)
    data = patch_data(60, 40)
    plan = plan_for(data, "random", fractions=(0.5,), runs=1, mask_runs=0, map_batch=10)
    plan = replace(plan, training=replace(plan.training, epochs=1))
    executor = Watching()
    assert replace(roar_of(plan, data, tmp_path / "s"), executor=executor).run() == 7
    assert executor.stored == [(20 * SIDE**2, 20 * SIDE**2)] * 5
