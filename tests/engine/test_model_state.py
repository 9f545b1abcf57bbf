"""What a call leaves behind: nothing, in the model, the hooks, the generators and the memory."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import fullgrad
from fullgrad._compat import modules_in, tensors_of
from fullgrad.errors import CompletenessError, ModelError
from snippets import DOUBLE, Snippet, assert_exact, batch, in_threads

X = batch(3, 4)


def state_of(model: nn.Module) -> list[Any]:
    tensors = [
        (name, id(t), t.data_ptr(), t.shape, t.requires_grad, t.detach().clone().flatten().tolist())
        for name, t in model.state_dict(keep_vars=True).items()
    ]
    modules = [(name, m.training, sorted(m.__dict__)) for name, m in model.named_modules()]
    return [tensors, modules]


def plain(m: Any, x: Tensor) -> Tensor:
    return m.fc(x).tanh()


def creates(m: Any, x: Tensor) -> Tensor:
    m.note, m.extra, m.count = "seen", nn.Linear(2, 2), m.count + 1
    m.register_buffer("late", torch.ones(2))
    return m.fc(x)


def writes(m: Any, x: Tensor) -> Tensor:
    m.count.add_(1)
    m.fc.weight.data.clamp_(-0.1, 0.1)
    with torch.no_grad():
        m.fc.bias[0] = 7
    return m.fc(x)


def replaces(m: Any, x: Tensor) -> Tensor:
    m.fc.weight = nn.Parameter(m.fc.weight.detach() / 2)
    m.fc.bias.requires_grad_(False)
    m.eval()
    return m.fc(x)


def exchanges_data(m: Any, x: Tensor) -> Tensor:
    m.fc.weight.data = m.fc.weight.data / 2
    m.count.data = m.count + 1
    return m.fc(x)


def zeroes_views(m: Any, x: Tensor) -> Tensor:
    m.first.data.zero_()
    m.second.data.zero_()
    return m.fc(x)


@pytest.mark.parametrize(
    "run", [plain, creates, writes, replaces, exchanges_data], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_model_is_given_back_as_it_was(run: Callable[..., Tensor], fails: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = run(m, x)
        if fails:
            raise KeyError("in the middle")
        return y

    model = Snippet(forward, count=torch.zeros(2), inner=nn.Dropout()).train()
    model.inner.eval()
    before = state_of(model)
    if fails:
        with pytest.raises(KeyError, match="in the middle"):
            fullgrad.decompose(model, X, 1)
    else:
        fullgrad.decompose(model, X, 1)
    assert state_of(model) == before
    # The guard is gone too: a call in the other mode does not wait for it.
    model.run = plain
    in_threads(lambda: fullgrad.decompose(model, X, 1, mode="as_is"))


def test_parameters_that_share_memory_are_all_restored() -> None:
    flat = batch(20)
    model = Snippet(zeroes_views)
    model.first, model.second = nn.Parameter(flat[:10]), nn.Parameter(flat[10:])
    before = flat.clone()
    fullgrad.decompose(model, X, 1)
    assert torch.equal(flat, before)


def test_containers_and_plain_tensors_are_restored() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.features.append(x)
        m.maps["x"] = x
        m.plain.add_(1)
        return m.fc(x)

    model = Snippet(run)
    model.features, model.maps, model.plain = [], {}, nn.Parameter(torch.zeros(2)).detach()
    fullgrad.decompose(model, X, 1)
    assert (model.features, model.maps, model.plain.tolist()) == ([], {}, [0, 0])


def test_containers_in_containers_are_restored() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.store["steps"]["up"].append(x)
        m.store["steps"]["down"].append(x)
        m.store["bank"][0].add_(1)
        m.recent.append(x)
        m.named["new"].append(x)
        return m.fc(x)

    model = Snippet(run)
    model.store = {"steps": {"up": [], "down": [3]}, "bank": (bank := [torch.zeros(2)])}
    model.store["self"] = model.store
    model.recent, model.named = deque([1, 2], maxlen=2), defaultdict(list)
    fullgrad.decompose(model, X, 1)
    assert model.store["steps"] == {"up": [], "down": [3]}
    assert model.store["bank"] is bank and bank[0].tolist() == [0, 0]
    assert (model.recent, model.named) == (deque([1, 2]), {})


def test_statistics_of_layers_in_training_mode_are_restored() -> None:
    model = nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)
    ).double()
    before = state_of(model)
    fullgrad.decompose(model, X, 1, mode="as_is", per_sample=False)
    assert state_of(model) == before


def test_an_embedding_with_a_largest_norm_is_restored() -> None:
    model = Snippet(
        lambda m, x: m.fc(x + m.emb(torch.arange(3))), emb=nn.Embedding(3, 4, max_norm=0.5)
    )
    before = state_of(model)
    fullgrad.decompose(model, X, 1)
    assert state_of(model) == before


def test_gradients_of_parameters_are_not_touched() -> None:
    model = Snippet(plain)
    model.fc.bias.requires_grad_(False)
    kept = model.fc.weight.grad = torch.ones(3, 4, dtype=DOUBLE)
    assert_exact(model, X)
    assert model.fc.weight.grad is kept
    assert torch.equal(kept, torch.ones_like(kept))
    assert model.fc.bias.grad is None


@pytest.mark.parametrize("frozen", ["none", "some", "all"])
def test_frozen_parameters_change_nothing(frozen: str) -> None:
    model = Snippet(plain)
    wanted = assert_exact(model, X)
    model.fc.weight.requires_grad_(frozen == "none")
    model.fc.bias.requires_grad_(frozen != "all")
    result = assert_exact(model, X)
    assert [t.op for t in result] == [t.op for t in wanted]
    assert all(torch.equal(a.value, b.value) for a, b in zip(result, wanted, strict=True))


@pytest.mark.parametrize("where", ["target", "hook"])
def test_failures_outside_forward_restore_too(where: str) -> None:
    def fail(*args: Any) -> Tensor:
        raise KeyError("outside")

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        if where == "hook":
            y.register_hook(fail)
        return y

    model = Snippet(run).train()
    before = state_of(model)
    with pytest.raises(KeyError, match="outside"):
        fullgrad.decompose(model, X, fail if where == "target" else 1)
    assert state_of(model) == before
    assert not torch_module._global_forward_hooks
    assert not torch_module._global_forward_pre_hooks


def test_uninitialised_modules_are_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(3)).train()
    with pytest.raises(ModelError, match=r"not initialized yet.*run the model once"):
        fullgrad.decompose(model, X.float(), 1)
    assert model.training


# -- hooks ------------------------------------------------------------------------------------


def test_hooks_of_the_user_fire_and_remain() -> None:
    fired: list[str] = []
    model = Snippet(plain)
    model.fc.register_forward_pre_hook(lambda *a: fired.append("before"))
    model.fc.register_forward_hook(lambda *a: fired.append("after"))
    model.fc.weight.register_hook(lambda g: fired.append("parameter"))
    assert [t.module for t in fullgrad.decompose(model, X, 1)] == ["fc", ""]
    assert fired == ["before", "after"]
    assert len(model.fc._forward_hooks) == len(model.fc._forward_pre_hooks) == 1


def test_what_a_forward_hook_computes_is_explained() -> None:
    model = Snippet(plain)
    model.fc.register_forward_hook(lambda m, args, y: y * 2 + 1)
    assert [t.op for t in assert_exact(model, X)] == ["addmm", "add", "tanh"]


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_fire(kind: str) -> None:
    fired: list[int] = []
    model = Snippet(plain)
    getattr(model.fc, kind)(lambda *a: fired.append(1))
    assert_exact(model, X)
    assert fired


def test_a_hook_that_changes_the_gradient_breaks_the_proof() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x * 2
        y.register_hook(lambda g: g * 3)
        return m.fc(y)

    with pytest.raises(CompletenessError, match=r"sum of each operation holds.* change it\.$"):
        fullgrad.decompose(Snippet(run), X, 1)
    model = Snippet(plain)
    handle = model.fc.register_full_backward_hook(lambda m, below, above: (below[0] * 3,))
    with pytest.raises(CompletenessError, match=r"backward hooks .* \(there are some on fc\)"):
        fullgrad.decompose(model, X, 1)
    handle.remove()
    assert_exact(model, X)


def test_module_path_after_a_caught_exception() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("caught by the model")

    def run(m: Any, x: Tensor) -> Tensor:
        with pytest.raises(ValueError, match="caught"):
            m.inner(x)
        return m.fc(x + 1)

    model = Snippet(run, inner=nn.Sequential(nn.Sequential(Fails())))
    result = assert_exact(model, X)
    assert [(t.module, t.op) for t in result] == [("", "add"), ("fc", "addmm")]


def test_module_paths_of_reused_and_tied_modules() -> None:
    model = Snippet(lambda m, x: m.fc(m.a(m.b(m.a(x)))), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    model.b.weight = model.a.weight
    assert [t.module for t in assert_exact(model, X)] == ["a", "b", "a", "fc"]


# -- random state -----------------------------------------------------------------------------


def generators() -> tuple[Any, ...]:
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2], random.getstate()


def draws(m: Any, x: Tensor) -> Tensor:
    noise = torch.rand(1).item() + np.random.rand() + random.random()
    return m.fc(F.dropout(x)) * noise


@pytest.mark.parametrize("mode", ["eval", "as_is"])
def test_generators_are_as_before(mode: str) -> None:
    before = generators()
    fullgrad.decompose(Snippet(draws), X, 1, mode=mode)
    assert generators() == before
    with pytest.raises(ModelError, match="nothing of the output comes back"):
        fullgrad.decompose(
            Snippet(lambda m, x: draws(m, x).detach() * m.fc.bias),
            X,
            1,
            mode=mode,
            detached="constant",
        )
    assert generators() == before


def test_as_is_draws_what_the_model_would_have_drawn() -> None:
    # The batch is second inside, so the recording is repeated to tell the samples apart.
    model = Snippet(lambda m, x: m.fc(torch.tanh(m.drop(x.transpose(0, 1))).mean(0)))
    model.drop = nn.Dropout()
    model.train()
    x = batch(4, 4, 4)
    torch.manual_seed(5)
    wanted = model(x)[:, 1].detach()
    torch.manual_seed(5)
    assert torch.equal(fullgrad.decompose(model, x, 1, mode="as_is").output, wanted)


def test_generators_are_as_before_when_calls_overlap() -> None:
    one, two = Snippet(draws), Snippet(draws)
    inside, other_inside, left = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        def target(y: Tensor) -> Tensor:
            inside.set()
            assert other_inside.wait(10)
            return y[:, 1]

        fullgrad.decompose(one, X, target)
        left.set()

    def second() -> None:
        def target(y: Tensor) -> Tensor:
            other_inside.set()
            assert left.wait(10)
            return y[:, 1]

        assert inside.wait(10)
        fullgrad.decompose(two, X, target)

    before = generators()
    in_threads(first, second)
    assert generators() == before


# -- threads ----------------------------------------------------------------------------------


def slow_network() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.drop(m.a(x)).tanh()
        time.sleep(0.001)
        return m.fc(torch.atan(y))

    return Snippet(run, a=nn.Linear(4, 4), drop=nn.Dropout()).train()


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_explain_the_same_model(threads: int) -> None:
    model = slow_network()
    wanted = fullgrad.decompose(model, X, 1)

    def work() -> None:
        for _ in range(8):
            result = fullgrad.decompose(model, X, 1)
            assert torch.equal(result.output, wanted.output)
            assert torch.equal(result.input_gradients[0], wanted.input_gradients[0])
            for a, b in zip(result, wanted, strict=True):
                assert (a.module, a.op) == (b.module, b.op)
                assert torch.equal(a.value, b.value)

    in_threads(*[work] * threads)
    assert all(m.training for m in model.modules())


def test_threads_in_both_modes_take_turns() -> None:
    model = slow_network()
    wanted = fullgrad.decompose(model, X, 1).output

    def evaluate() -> None:
        for _ in range(8):
            assert torch.equal(fullgrad.decompose(model, X, 1).output, wanted)

    def as_is() -> None:
        for _ in range(8):
            fullgrad.decompose(model, X, 1, mode="as_is")

    in_threads(evaluate, as_is, evaluate, as_is)
    assert all(m.training for m in model.modules())


def test_a_model_and_its_part_at_once() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), nn.Linear(4, 3)).double()
    whole_inside, part_inside, whole_left = (threading.Event() for _ in range(3))

    def whole() -> None:
        def target(y: Tensor) -> Tensor:
            whole_inside.set()
            # Either the part waits for the whole, or both are inside at once.
            part_inside.wait(0.5)
            return y[:, 1]

        fullgrad.decompose(model, X, target)
        whole_left.set()

    def part() -> None:
        def target(y: Tensor) -> Tensor:
            part_inside.set()
            assert whole_left.wait(10)
            return y[:, 1]

        assert whole_inside.wait(10)
        fullgrad.decompose(model[0], X, target)

    in_threads(whole, part)
    assert all(m.training for m in model.modules())


def test_calls_may_be_nested() -> None:
    model = Snippet(plain)

    def target(y: Tensor) -> Tensor:
        fullgrad.decompose(model, X, 1)
        return y[:, 1]

    assert torch.equal(
        fullgrad.decompose(model, X, target).output, fullgrad.decompose(model, X, 1).output
    )


def test_a_nested_call_in_the_other_mode_is_refused() -> None:
    model = Snippet(plain)

    def target(y: Tensor) -> Tensor:
        fullgrad.decompose(model, X, 1, mode="as_is")
        return y[:, 1]

    def work() -> None:
        with pytest.raises(ModelError, match="other mode"):
            fullgrad.decompose(model, X, target)

    in_threads(work)


# -- memory -----------------------------------------------------------------------------------


def test_activations_are_released_without_the_garbage_collector() -> None:
    activations: list[weakref.ref[Tensor]] = []
    model = Snippet(lambda m, x: m.fc(torch.atan(F.gelu(m.a(x)))), a=nn.Linear(4, 4))
    model.a.register_forward_hook(lambda m, args, y: activations.append(weakref.ref(y)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            fullgrad.decompose(model, X, 1)
        fullgrad.saliency(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
            torch.rand(2, 1, 4, 4),
            1,
        )
        assert sum(ref() is not None for ref in activations) == 0
    finally:
        gc.enable()


def test_no_python_object_is_left() -> None:
    model = Snippet(plain)
    for _ in range(3):
        fullgrad.decompose(model, X, 1)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        fullgrad.decompose(model, X, 1)
    gc.collect()
    assert len(gc.get_objects()) - before < 20


def test_a_model_holds_each_module_and_tensor_once() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(nn.BatchNorm1d(2), shared), nn.ReLU())
    model.register_module("none", None)
    found = modules_in(model)
    assert len(found) == len({*found}) and {*found} == {*model.modules()} and found[0] is model
    own = {id(t) for module in found for t in tensors_of(module)}
    assert own == {id(t) for t in (*model.parameters(), *model.buffers())}
