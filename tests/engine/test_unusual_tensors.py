"""Unusual tensors: taken as they are, or refused by name; never a crash."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import BlockedGradientError, ModelError, UnsupportedOperationError
from snippets import Snippet, batch


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


class Image(torch.Tensor):
    """A subclass as ``tv_tensors`` or MONAI have them."""


def test_a_subclass_as_input_is_a_plain_tensor_to_us() -> None:
    model, x = small(), torch.rand(2, 3, 8, 8)
    given = x.as_subclass(Image)
    found = fullgrad.saliency(model, given, 1)
    assert torch.equal(found.as_subclass(Tensor), fullgrad.saliency(model, x, 1))
    assert type(given) is Image


class Int8(torch.Tensor):
    """A weight that keeps whole numbers and a scale, as quantization packages have them."""

    @staticmethod
    def __new__(cls, q: Tensor, s: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, q.shape, dtype=s.dtype)  # type: ignore[attr-defined]

    def __init__(self, q: Tensor, s: Tensor) -> None:
        self.q, self.s = q, s

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, w, *b = args
            return F.linear(x, w.q.to(w.s.dtype) * w.s, *b)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return Int8(args[0].q, args[0].s)
        raise NotImplementedError(str(func))


def test_a_wrapped_weight_is_left_alone() -> None:
    model, x = small(), torch.rand(1, 3, 8, 8)
    w = model[4].weight.data
    s = w.abs().amax(1, keepdim=True) / 127
    q = (w / s).round()
    model[4].weight = nn.Parameter(q * s)
    plain = fullgrad.saliency(model, x, 1)
    wrapped = nn.Parameter(Int8(q.to(torch.int8), s), requires_grad=False)
    model[4].weight = wrapped
    torch.testing.assert_close(fullgrad.saliency(model, x, 1), plain)
    assert model[4].weight is wrapped


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        n = torch.nested.as_nested_tensor([x[0, :3], x[1, :4]], layout=torch.jagged)
        return torch.stack([t.mean(0) for t in self.layer(n).relu().unbind()])


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return (adjacency @ self.layer(x)).mean(0, keepdim=True)


@pytest.mark.filterwarnings("ignore:.*(prototype|beta).*")
def test_nested_and_sparse_tensors_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"uses a NestedTensor \(.*padded, with a mask"):
        fullgrad.decompose(Nested(), torch.rand(2, 4, 5), 1)
    model, x, adjacency = Graph(), torch.rand(6, 5), (torch.rand(6, 6) < 0.5).float()
    dense = fullgrad.decompose(model, x, 1, additional_forward_args=(adjacency,))
    for sparse in (adjacency.to_sparse(), adjacency.to_sparse_csr()):
        with pytest.raises(ModelError, match=r"uses a sparse tensor \(sparse_cs?o?o?r?\) in .*mm"):
            fullgrad.decompose(model, x, 1, additional_forward_args=(sparse,))
        again = fullgrad.decompose(model, x, 1, additional_forward_args=(sparse.to_dense(),))
        assert torch.equal(again.bias_sums, dense.bias_sums)
    made = Snippet(lambda m, u: m.fc(u.to_sparse().to_dense()))
    with pytest.raises(ModelError, match=r"uses a sparse tensor \(sparse_coo\) in _to_sparse"):
        fullgrad.decompose(made, batch(2, 4), 1)


class Named(NamedTuple):
    features: Tensor
    logits: Tensor


def test_a_named_tuple_is_explained_at_its_logits() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Named:
            features = self.net[:4](x)
            return Named(features, self.net[4](features))

    model, x = Both(), torch.rand(2, 3, 8, 8)
    d = fullgrad.decompose(model, x, 1)
    assert d.output_source == "output['logits']"
    assert torch.equal(d.output, model(x).logits[:, 1])


def test_writes_outside_the_graph_that_change_nothing_are_no_loss() -> None:
    model, x = small().double(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    concept = torch.randn(1, 3, dtype=torch.float64)
    got = fullgrad.decompose(model, x, lambda z: F.cosine_similarity(z, concept))
    by_hand = fullgrad.decompose(model, x, lambda z: (F.normalize(z) * F.normalize(concept)).sum(1))
    torch.testing.assert_close(got.input_sums, by_hand.input_sums)
    with pytest.raises(BlockedGradientError, match=r"under no_grad \(clamp_min_\)"):
        fullgrad.decompose(model, x, lambda z: F.cosine_similarity(z, concept, eps=1e6))


def test_a_packed_sequence_is_a_rearrangement() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
            return self.head(self.layer(packed)[1][0][-1])

    model, x = Packed().double(), torch.randn(3, 6, 5, dtype=torch.float64)
    lengths = torch.tensor([6, 3, 4])
    got = fullgrad.decompose(model, x, 1, additional_forward_args=(lengths,), layout="BTC")
    for i, n in enumerate(lengths.tolist()):
        alone = fullgrad.decompose(
            model, x[i : i + 1, :n], 1, additional_forward_args=(torch.tensor([n]),), layout="BTC"
        )
        torch.testing.assert_close(got.input_sums[i], alone.input_sums[0])


@pytest.mark.filterwarnings("ignore")
def test_an_operation_without_a_derivative_is_refused_by_name() -> None:
    from torch.ao.quantization import quantize_dynamic

    model, x = small().eval(), torch.rand(1, 3, 8, 8)
    quantized = quantize_dynamic(model, {nn.Linear})
    for call in (fullgrad.decompose, fullgrad.saliency):
        with pytest.raises(UnsupportedOperationError, match=r"linear_dynamic in 4 has no deriv.*"):
            call(quantized, x, 1)
    assert fullgrad.saliency(model, x, 1).shape == (1, 1, 8, 8)  # the way out


def test_an_output_of_cancelled_numbers_is_exact_to_rounding() -> None:
    """The mean over the batch of what its statistics normalize is zero but for rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).double()
    x = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    d = fullgrad.decompose(model, x, 1, per_sample=False)
    assert float(d.output.sum().abs()) < 1e-14
    assert float(d.relative_residual.max()) < 1e-13
    assert fullgrad.saliency(model, x, 1, per_sample=False).shape == (2, 1, 12, 12)
