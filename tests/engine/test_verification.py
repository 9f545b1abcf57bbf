"""The proof: tolerances, and what is said when the sum does not close."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.engine import verification as completeness
from fullgrad.errors import CompletenessError, UnsupportedOperationError

CPU = torch.device("cpu")


def test_tolerance_is_that_of_the_coarsest_dtype() -> None:
    of = completeness.tolerance_for
    assert of({torch.float64}, CPU) == 1e-10
    assert of({torch.float64, torch.float32}, CPU) == 1e-5
    assert of({torch.float32, torch.float16}, CPU) == 5e-3
    assert of({torch.float16, torch.bfloat16}, CPU) == 3e-2
    assert of({torch.complex64}, CPU) == 1e-5


def test_tolerance_knows_tensor_float_32(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(completeness, "_tf32_allowed", lambda: True)
    assert completeness.tolerance_for({torch.float32}, gpu) == 5e-3
    assert completeness.tolerance_for({torch.float64}, gpu) == 1e-10
    monkeypatch.setattr(completeness, "_tf32_allowed", lambda: False)
    assert completeness.tolerance_for({torch.float32}, gpu) == 1e-5


class WrongGradient(nn.Module):
    """A user's hook falsifies the gradient behind the second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        y.grad_fn.register_hook(lambda inputs, outputs: (inputs[0], inputs[1] * 1.5, inputs[2]))
        return y


def test_breach_names_the_module_where_the_local_sum_fails() -> None:
    torch.manual_seed(0)
    model = WrongGradient().double()
    x = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(
        CompletenessError,
        match=r"(?s)relative residual .* tolerance 1e-10.*Local sums fail most at:\n  second: addmm",
    ):
        fullgrad.decompose(model, x, 0)
    assert not model.second._forward_hooks
    lenient = fullgrad.decompose(model, x, 0, tolerance=0.99)
    assert lenient.tolerance == 0.99
    assert float(lenient.relative_residual.max()) > 1e-3


def test_the_advice_fits_the_dtype() -> None:
    torch.manual_seed(0)
    model, x = WrongGradient(), torch.randn(2, 4)
    with pytest.raises(CompletenessError, match=r"Try float64 \(model.double"):
        fullgrad.decompose(model, x, 0)
    with pytest.raises(CompletenessError, match=r"computes in float64.*\(tolerance=1e-6 accepts"):
        fullgrad.decompose(model.double(), x.double(), 0)


def test_the_way_out_for_coarse_kernels_works() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, dtype=torch.float64)

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = layer(x)
            y.grad_fn.register_hook(
                lambda inputs, outputs: tuple(
                    g if g is None else g.float().double() for g in inputs
                )
            )
            return y

    x = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(CompletenessError, match="tolerance=1e-6 accepts"):
        fullgrad.decompose(Model(), x, 0)
    assert fullgrad.decompose(Model(), x, 0, tolerance=1e-6).relative_residual.max() < 1e-7


def test_unsupported_operations_are_listed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Distance()
            self.b = Distance()

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x * 2)

    class Distance(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.aten._pdist_forward.default(x, 2.0).sum().expand(len(x))

    x = torch.randn(3, 4, dtype=torch.float64)
    with pytest.raises(
        UnsupportedOperationError, match=r"(?s)_pdist_forward in a\n.* in b\n.*operations.register"
    ):
        fullgrad.decompose(Two(), x, per_sample=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "train"}, r"mode must be 'eval' or 'as_is', not 'train'"),
        ({"detached": "yes"}, r"detached must be 'error' or 'constant', not 'yes'"),
        ({"tolerance": -1.0}, r"tolerance must be positive, not -1.0"),
        ({"tolerance": True}, r"tolerance must be positive, not True"),
        ({"tolerance": float("nan")}, r"tolerance must be positive, not nan"),
        (
            {"tolerance": float("inf")},
            r"tolerance must be below 1, not inf: residuals are relative",
        ),
        ({"tolerance": 2}, r"tolerance must be below 1, not 2: residuals are relative"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fullgrad.decompose(nn.Linear(2, 2), torch.randn(1, 2), 0, **options)
