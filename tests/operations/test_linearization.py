"""Linear maps of operations: forward and transposed action agree, by rule and by choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import CompletenessError, ModelError
from fullgrad.operations.registry import registered
from rule_cases import Case, subsets
from rule_table import ALL
from snippets import Snippet

DOUBLE = torch.float64


def random() -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(3)


class Weighted(nn.Module):
    """The sum of an operation's first output, each number times its own weight."""

    def __init__(self, case: Case, values: list[Tensor], depend: tuple[int, ...]) -> None:
        super().__init__()
        self.case, self.values, self.depend = case, values, depend
        self.explained: Tensor | None = None

    def forward(self, *inputs: Tensor) -> Tensor:
        values = [v.clone() for v in self.values]
        for place, value in zip(self.depend, inputs, strict=True):
            values[place] = value * 1
        y = self.case.op(*values)
        y = y[0] if isinstance(y, (tuple, list)) else y
        y = torch.view_as_real(y) if y.is_complex() else y
        if not torch.isfinite(y).all():
            y = torch.where(torch.isfinite(y), y, 0)
        weights = torch.randn(y.shape, generator=random(), dtype=y.dtype)
        return (weights * y).sum().view(1, 1)


RUNS = [
    pytest.param(case, depend, id=f"{i}-{case.note or 'op'}-{depend}")
    for i, case in enumerate(ALL)
    for depend in subsets(case.vary)
    if depend and "_neg_view" not in case.note  # a view that PyTorch makes for complex numbers
]


@pytest.mark.parametrize(("case", "depend"), RUNS)
def test_forward_and_transposed_action_agree(case: Case, depend: tuple[int, ...]) -> None:
    """<Lu, g> = <u, L^T g>: the sum, with b = y - Lu, of a scalar <y, g> with random g."""
    generator = random()
    values = [make(generator) for make in case.args]
    if any(v.is_complex() or not torch.isfinite(v).all() for v in (values[i] for i in depend)):
        pytest.skip("inputs are real and finite")
    model = Weighted(case, values, depend)
    inputs = tuple(values[i] for i in depend)
    options = {"per_sample": False, "tolerance": 1e-10, "linearization": "balanced"}
    try:
        fullgrad.decompose(model, inputs, 0, **options)
    except ModelError as error:
        assert "does not depend on the input" in str(error)  # a constant, whatever it is given
    except RuntimeError as error:  # PyTorch's own gradient of batch-norm without a weight
        assert "argument #2 'weight'" in str(error)


SECANTS = [
    *(F.silu, F.gelu, F.hardswish, F.mish, F.elu, F.celu, F.relu6, F.softplus, F.logsigmoid),
    *(torch.tanh, torch.erf, torch.sin, torch.expm1, torch.log1p, torch.exp, torch.cos),
    F.softshrink,
    lambda u: F.gelu(u, approximate="tanh"),
    lambda u: F.softplus(u, 3.0),
    lambda u: u.clamp(-0.5, 2),
    lambda u: u.clamp(0.5, 2),
]


@pytest.mark.parametrize("g", SECANTS)
def test_secants_near_zero(g: Callable[[Tensor], Tensor]) -> None:
    """In float32 the slope is that of float64, also where u is tiny or zero."""
    tiny = torch.tensor([0.0, 1e-42, 1e-38, 1e-30, 1e-12, 1e-6, 1e-4, 3e-4, 1e-3, 1e-2, 0.3])
    u = torch.cat([tiny, -tiny])
    at_zero = float(g(torch.zeros(1, dtype=DOUBLE)))
    exact = ((g(u.double()) - at_zero) / u.double()).nan_to_num()
    probe = (1e-7 * u.sign()).double().requires_grad_()
    (slope,) = torch.autograd.grad(g(probe).sum(), probe)
    exact = torch.where(u.abs() < 1e-9, slope, exact)
    model = Snippet(lambda m, x: g(x))
    d = fullgrad.decompose(model, u[:, None], 0, linearization="balanced")
    found = d.input_gradients[0][:, 0].double()
    assert torch.isfinite(found).all()
    there = u != 0  # at a kink any slope will do: its term is zero
    torch.testing.assert_close(found[there], exact[there], rtol=2e-3, atol=2e-4)
    assert d.relative_residual.max() < 1e-6


def scaled_silu(factor: float) -> fullgrad.Rule:
    """Sigmoid held constant; the transposed action is right for a factor of one."""
    return fullgrad.Rule(
        lambda call: call.args[0] * torch.sigmoid(call.args[0]),
        lambda call, g: [factor * g * torch.sigmoid(call.args[0])],
    )


def two_layers() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 3)).double(), torch.randn(
        2, 4, dtype=DOUBLE
    )


def test_a_wrong_transpose_fails_on_the_call_and_is_named() -> None:
    model, x = two_layers()
    right = fullgrad.Linearization(operations={"silu": scaled_silu(1.0)})
    balanced = fullgrad.decompose(model, x, 1, linearization="balanced")
    found = fullgrad.decompose(model, x, 1, linearization=right)
    torch.testing.assert_close(found.input_gradients, balanced.input_gradients)
    wrong = fullgrad.Linearization(operations={"silu": scaled_silu(1.5)})
    with pytest.raises(CompletenessError, match=r"(?s)Local sums fail most at:\n  1: silu"):
        fullgrad.decompose(model, x, 1, linearization=wrong)


@pytest.mark.parametrize("name", sorted(n for n, e in registered().items() if e.balanced))
def test_each_wrong_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every balanced rule whose way back is tripled breaks the sum of some case of the table."""
    cases = [c for c in CASES_OF.get(name.removeprefix("aten::"), ())]
    if not cases:
        pytest.skip("not in the table of cases")
    from fullgrad.engine import _linearizer

    plain = _linearizer.Handover

    def tripled(node, places, slots, transpose, *rest):
        def wrong(given, above, *kept):
            return [None if g is None else 3 * g for g in transpose(given, above, *kept)]

        return plain(node, places, slots, wrong, *rest)

    monkeypatch.setattr(_linearizer, "Handover", tripled)
    broken = 0
    for case, depend in cases:
        values = [make(random()) for make in case.args]
        model, inputs = Weighted(case, values, depend), tuple(values[i] for i in depend)
        try:
            fullgrad.decompose(
                model, inputs, 0, per_sample=False, tolerance=1e-6, linearization="balanced"
            )
        except CompletenessError:
            broken += 1
        except (ModelError, RuntimeError):
            pass
    handed = HANDED.get(name, True)
    assert bool(broken) is handed


def seen(case: Case) -> set[str]:
    found: set[str] = set()

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found.add(func._schema.name.split("::")[-1].removesuffix("_"))
            return func(*args, **(kwargs or {}))

    with Spy():
        case.op(*[make(random()) for make in case.args])
    return found


CASES_OF: dict[str, list[tuple[Case, tuple[int, ...]]]] = {}
for _case in ALL:
    for _depend in subsets(_case.vary):
        _values = [make(random()) for make in _case.args]
        _usable = all(torch.isfinite(v).all() and not v.is_complex() for v in _values)
        if _depend and _usable:
            for _name in seen(_case):
                CASES_OF.setdefault(_name, []).append((_case, _depend))
HANDED = {
    "aten::_batch_norm_no_update": False,  # affine: autograd's way back is right
    "aten::_native_batch_norm_legit_no_training": False,
    "aten::_batch_norm_with_update": False,  # PyTorch has no gradient without a weight
    "aten::lerp": False,  # by a gate only: test_a_gate_between
}


# -- choices ----------------------------------------------------------------------------------


def test_choices_by_module_operation_and_class() -> None:
    model, x = two_layers()
    jacobian, balanced = (
        fullgrad.decompose(model, x, 1, linearization=name).input_gradients[0]
        for name in ("jacobian", "balanced")
    )
    assert (jacobian - balanced).abs().max() > 1e-3
    choose = fullgrad.Linearization
    for chosen, expected in (
        (choose("balanced", modules={"1": "jacobian"}), jacobian),
        (choose("balanced", modules={"": "jacobian"}), jacobian),
        (choose(modules={"": "jacobian", "1": "balanced"}), balanced),
        (choose("balanced", operations={"silu": "jacobian"}), jacobian),
        (choose(operations={"aten::silu": "balanced"}), balanced),
        (choose("balanced", families={"element-wise": "jacobian"}), jacobian),
        (choose(families={"element-wise": "balanced"}), balanced),
        (choose(families={"element-wise": "jacobian"}, operations={"silu": "balanced"}), balanced),
    ):
        found = fullgrad.decompose(model, x, 1, linearization=chosen)
        torch.testing.assert_close(found.input_gradients[0], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fullgrad.Linearization("exact"), "linearization must be 'jacobian', 'balanced'"),
        (
            lambda: fullgrad.Linearization(operations={"slu": "balanced"}),
            "operations: PyTorch has no operation 'slu'",
        ),
        (
            lambda: fullgrad.Linearization(operations={"silu_": "balanced"}),
            "operations: 'silu_' shares the entry of 'silu': name that",
        ),
        (
            lambda: fullgrad.Linearization(operations={"layer_norm": "balanced"}),
            "operations: 'layer_norm' is taken apart before it runs",
        ),
        (
            lambda: fullgrad.Linearization(operations={"softmax": "balanced"}),
            "as in 'native_layer_norm' or '_softmax'",
        ),
        (
            lambda: fullgrad.Linearization(operations={"silu": "none"}),
            r"operations\['silu'\] must be 'jacobian', 'balanced', 'difference', 'quotient' or a fullgrad.Rule, not 'none'",
        ),
        (
            lambda: fullgrad.Linearization(families={"convex": "balanced"}),
            "families: there is no 'convex', but affine",
        ),
        (lambda: fullgrad.Linearization(modules=["a"]), "modules must be a mapping"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_options_are_checked_by_the_call() -> None:
    model, x = two_layers()
    with pytest.raises(
        ValueError,
        match="linearization must be 'jacobian', 'balanced', 'difference', 'quotient' or a Lin",
    ):
        fullgrad.decompose(model, x, 1, linearization="exact")
    with pytest.raises(ValueError, match="not 3"):
        fullgrad.decompose(model, x, 1, linearization=3)
    elsewhere = fullgrad.Linearization(modules={"4": "balanced"})
    with pytest.raises(ValueError, match="linearization: the model has no module '4'"):
        fullgrad.decompose(model, x, 1, linearization=elsewhere)


def test_a_rule_for_a_write_into_a_part() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4).double(), torch.randn(2, 4, dtype=DOUBLE)

    def inside(m, x):
        y = layer(x).clone()
        F.silu(y[:, :2], inplace=True)
        return y

    def beside(m, x):
        y = layer(x)
        return torch.cat([F.silu(y[:, :2]), y[:, 2:]], 1)

    chosen = fullgrad.Linearization(operations={"silu": scaled_silu(1.0)})
    found, expected = (
        fullgrad.decompose(Snippet(run), x, 0, linearization=chosen) for run in (inside, beside)
    )
    torch.testing.assert_close(found.input_gradients, expected.input_gradients)
    assert found.relative_residual.max() < 1e-12


def test_a_rule_that_cannot_be_applied_is_named_and_the_way_out_works() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4).double(), torch.randn(2, 4, dtype=DOUBLE)

    def run(m, x):
        y = torch.fft.rfft(layer(x))
        F.silu(torch.view_as_real(y), inplace=True)
        return y.real

    own = {"silu": scaled_silu(1.0)}
    with pytest.raises(ModelError, match="the rule for silu cannot be applied in the model") as no:
        fullgrad.decompose(Snippet(run), x, 0, linearization=fullgrad.Linearization(operations=own))
    assert "modules={'': 'jacobian'}" in str(no.value)
    way_out = fullgrad.Linearization(operations=own, modules={"": "jacobian"})
    found = fullgrad.decompose(Snippet(run), x, 0, linearization=way_out)
    assert found.relative_residual.max() < 1e-12


@pytest.mark.parametrize(
    ("transpose", "message"),
    [
        (lambda call, g: g, "the rule for silu: transpose must return a list with one gradient"),
        (lambda call, g: [g, g], "for each of its 1 arguments that depend on the input"),
        (lambda call, g: [g[:1]], r"gradient of shape \(1, 5\) for an argument of shape \(2, 5\)"),
    ],
)
def test_a_rule_with_a_wrong_answer(transpose, message: str) -> None:
    model, x = two_layers()
    own = fullgrad.Rule(lambda call: call.args[0], transpose)
    with pytest.raises(ModelError, match=message):
        fullgrad.decompose(
            model, x, 1, linearization=fullgrad.Linearization(operations={"silu": own})
        )


def test_a_rule_reads_an_activation_as_it_was() -> None:
    model, x = two_layers()
    model[1].inplace = True
    chosen = fullgrad.Linearization(operations={"silu": scaled_silu(1.0)})
    found = fullgrad.decompose(model, x, 1, linearization=chosen).input_gradients
    expected = fullgrad.decompose(model, x, 1, linearization="balanced").input_gradients
    torch.testing.assert_close(found, expected)
    relu = fullgrad.Rule(
        lambda call: call.args[0] * (call.args[0] > 0), lambda call, g: [g * (call.args[0] > 0)]
    )
    overwritten = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)).double()
    chosen = fullgrad.Linearization(operations={"relu": relu})
    found = fullgrad.decompose(overwritten, x, 1, linearization=chosen)
    torch.testing.assert_close(
        found.input_gradients, fullgrad.decompose(overwritten, x, 1).input_gradients
    )


def test_what_a_linearization_is_called() -> None:
    assert str(fullgrad.Linearization("balanced")) == "balanced"
    chosen = fullgrad.Linearization(operations={"silu": "balanced"}, modules={"a": "balanced"})
    assert str(chosen) == "jacobian with 2 choices of its own"
