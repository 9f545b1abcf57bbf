"""What only a GPU shows: its kernels, precisions, memory and random state.

`FULLGRAD_DEVICE=cuda pytest tests/engine tests/maps ...` puts the other tests' tensors there as well.
Many of those tests fail then for reasons of their own: generators and lengths of the CPU, NumPy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fullgrad
from fullgrad import errors, methods

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
CUDA = "cuda"
MODELS = ("resnet18", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16")


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


def lively(name: str, size: int = 224) -> nn.Module:
    """A model whose numbers neither die out nor explode, on the CPU in float32."""
    torchvision = pytest.importorskip("torchvision")
    from benchmarks.subjects import make_lively

    torch.manual_seed(0)
    with torch.device("cpu"):
        model: nn.Module = torchvision.models.get_model(name, weights=None)
        make_lively(model, torch.randn(4, 3, size, size))
    return model.eval()


def images(batch: int = 2, dtype: torch.dtype = torch.float32, size: int = 224) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=generator, device="cpu").to(dtype)


def numbers(found: fullgrad.Decomposition) -> list[Tensor]:
    """Every term of a decomposition."""
    return [*found.input_terms, *(term.value for term in found.bias_terms)]


@pytest.mark.parametrize("linearization", ["jacobian", "balanced"])
@pytest.mark.parametrize("name", MODELS)
def test_terms_are_the_processors(name: str, linearization: str) -> None:
    model, x = lively(name).double(), images(dtype=torch.float64)
    target, options = [3, 7], {"linearization": linearization}
    there = fullgrad.decompose(copy.deepcopy(model).to(CUDA), x.to(CUDA), target, **options)
    here = fullgrad.decompose(model, x, target, **options)
    assert there.residual.abs().max() < 1e-10 * (1 + here.output.abs().max())
    torch.testing.assert_close(there.output.cpu(), here.output)
    pairs = [(there.input_sums, here.input_sums), (there.bias_sums, here.bias_sums)]
    for a, b in pairs:  # by operation they may differ: attention has another kernel
        torch.testing.assert_close(a.cpu(), b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["fullgrad", "simple_fullgrad"])
@pytest.mark.parametrize("name", MODELS)
def test_maps_are_the_processors(name: str, method: str) -> None:
    model, x = lively(name), images()
    there = methods.attribute(method, copy.deepcopy(model).to(CUDA), x.to(CUDA), [3, 7])
    assert there.device.type == CUDA
    here = methods.attribute(method, model, x, [3, 7])
    scale = here.amax((1, 2, 3), keepdim=True)
    assert (
        (there.cpu() - here).abs() / scale
    ).max() < 1e-2  # cuDNN and oneDNN sum in another order


@pytest.mark.parametrize("method", ["complete_fullgrad", "balanced_fullgrad", "balanced_input"])
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_complete_maps_are_the_processors(name: str, method: str) -> None:
    model, x = lively(name).double(), images(dtype=torch.float64)
    there = methods.attribute(method, copy.deepcopy(model).to(CUDA), x.to(CUDA), [3, 7])
    here = methods.attribute(method, model, x, [3, 7])
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-9)


def test_several_targets_of_one_forward() -> None:
    model, x = lively("resnet18").double().to(CUDA), images(dtype=torch.float64).to(CUDA)
    several = fullgrad.saliency(model, x, [[3, 7, 9]])
    for number, target in enumerate((3, 7, 9)):
        alone = fullgrad.saliency(model, x, target)[:, 0]
        torch.testing.assert_close(several[:, number], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [3, 16, 20])
def test_samples_are_told_apart_where_axes_do_not_tell(size: int) -> None:
    """2 to the 15th was rounded there, so batches of 16 and more were refused."""

    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.tanh(x.flip(0)).mean(1)).flip(0)

    torch.manual_seed(0)
    model, x = Reversed().double().to(CUDA), torch.randn(size, 3, 4, device=CUDA).double()
    there = fullgrad.decompose(model, x, 1)
    here = fullgrad.decompose(copy.deepcopy(model).cpu(), x.cpu(), 1)
    torch.testing.assert_close(there.input_sums.cpu(), here.input_sums)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("allowed", [False, True], ids=["float32", "TensorFloat-32"])
def test_the_residual_is_within_what_is_said(
    allowed: bool, memory_format: torch.memory_format
) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    for name in MODELS:
        model = lively(name).to(CUDA).to(memory_format=memory_format)
        x = images().to(CUDA).to(memory_format=memory_format)
        found = fullgrad.decompose(model, x)  # raises where the sum is further from the output
        assert found.relative_residual.max() < (5e-3 if allowed else 1e-5), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model, x = lively(name).to(CUDA), images().to(CUDA)
    exact = fullgrad.saliency(model, x, [3, 7])
    with torch.autocast(CUDA, dtype):
        mixed = fullgrad.saliency(model, x, [3, 7])
    whole = fullgrad.saliency(copy.deepcopy(model).to(dtype), x.to(dtype), [3, 7])
    for found in (mixed, whole):
        both = torch.stack([found.float().flatten(1), exact.flatten(1)])
        assert min(torch.corrcoef(both[:, i])[0, 1].item() for i in range(2)) > 0.9


class Attention(nn.Module):
    """Two heads over sixteen positions, with the kernel that the context chooses."""

    def __init__(self, causal: bool, mask: bool) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(64, 192), nn.Linear(64, 5)
        self.causal, self.mask = causal, mask

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (2, 32)).transpose(1, 2) for part in self.project(x).chunk(3, 2)
        )
        mask = None
        if self.mask:
            mask = torch.zeros(16, 16, device=x.device, dtype=x.dtype)
            mask[:, 12:] = -torch.inf
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@pytest.mark.parametrize("masking", ["all", "causal", "mask"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_each_attention_kernel_is_exact(kernel: str, masking: str) -> None:
    if kernel == "flash" and masking == "mask":
        pytest.skip("the kernel takes no mask")
    torch.manual_seed(0)
    dtype = torch.float32 if kernel in {"efficient", "math"} else torch.bfloat16
    model = Attention(masking == "causal", masking == "mask").to(CUDA, dtype)
    x = torch.randn(3, 16, 64, device=CUDA, dtype=dtype)
    with sdpa_kernel(KERNELS[kernel]):
        model(x)  # the kernel takes these shapes here
        found = fullgrad.decompose(model, x, [0, 1, 2])
    exact = fullgrad.decompose(copy.deepcopy(model).double(), x.double(), [0, 1, 2])
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found.input_sums, exact.input_sums, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)

    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = make(5, 7, 2, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)[0][:, -1])

    model, x = Series().double().eval().to(CUDA), torch.randn(2, 30, 5, device=CUDA).double()
    there = fullgrad.decompose(model, x, [0, 1])
    here = fullgrad.decompose(copy.deepcopy(model).cpu(), x.cpu(), [0, 1])
    assert there.residual.abs().max() < 1e-10
    for a, b in zip(numbers(there), numbers(here), strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad], ids=["plain", "no_grad"])
def test_nothing_of_the_user_is_changed(
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    model, x = lively("mobilenet_v3_small").to(CUDA), images().to(CUDA)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random, given = torch.cuda.get_rng_state(), x.clone()
    with context():
        fullgrad.saliency(model, x)
        methods.attribute("smooth_fullgrad", model, x, samples=2)
        with pytest.raises(ValueError):
            fullgrad.saliency(model, x, [5000, 1])
    assert torch.equal(random, torch.cuda.get_rng_state())
    assert torch.equal(given, x)
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_memory_is_given_back() -> None:
    model, x = lively("resnet18").to(CUDA), images(8).to(CUDA)
    fullgrad.saliency(model, x)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        fullgrad.saliency(model, x)
    assert torch.cuda.memory_allocated() == before


def test_minibatches_fit_the_memory() -> None:
    model, x = lively("resnet18").to(CUDA), images(12).to(CUDA)
    whole = fullgrad.saliency(model, x)
    parts = fullgrad.saliency(model, x, batch_size="auto")
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)


def test_a_model_elsewhere_than_its_input_is_named() -> None:
    with pytest.raises(errors.ModelError, match="cannot run on input of shape"):
        fullgrad.saliency(lively("resnet18").to(CUDA), images())


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("method", ["input_gradient", "integrated_gradients", "fullgrad"])
def test_methods_explain_recurrent_layers(name: str, method: str) -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = getattr(nn, name.upper())(5, 7, batch_first=True)
            self.head = nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x.transpose(1, 2))[0][:, -1])

    torch.manual_seed(0)
    model, x = Series().eval().to(CUDA), torch.randn(2, 5, 9, device=CUDA)
    there = methods.attribute(method, model, x, [0, 1])
    here = methods.attribute(method, copy.deepcopy(model).cpu(), x.cpu(), [0, 1])
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)
    assert torch.backends.cudnn.enabled


def test_constants_of_the_processor_are_moved() -> None:
    torch.manual_seed(0)

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[:, 0] = 3.0
            return self.head(y)

    found = fullgrad.decompose(Written().to(CUDA), torch.randn(2, 4, device=CUDA), [0, 1])
    assert all(term.bias.is_cuda for term in found.bias_terms)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stacked_networks_train(precision: str) -> None:
    from fullgrad.evaluation.training.stacked import Networks

    def build() -> nn.Module:
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * 14 * 14, 3))

    networks = Networks([build(), build()], torch.device(CUDA))
    networks.train(True)
    with torch.autocast(CUDA, torch.bfloat16, enabled=precision == "bfloat16"):
        out = networks(torch.stack([images(8, size=16), images(8, size=16)]).to(CUDA))
    out.float().square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in networks.parameters.values())


def test_the_commands_explain_on_it(tmp_path) -> None:
    pytest.importorskip("pydantic")
    from PIL import Image

    from fullgrad.cli.main import main

    for number in range(3):
        picture = (images(1)[0].clamp(-2, 2) + 2).mul(63).byte().permute(1, 2, 0)
        Image.fromarray(picture.numpy()).save(tmp_path / f"{number}.png")
    out = tmp_path / "out"
    call = ["explain", str(tmp_path), "--device", CUDA, "--out", str(out), "--model"]
    assert main([*call, "torchvision:resnet18", "--weights", "none"]) == 0


@pytest.mark.parametrize("mode", ["graph", "cudagraphs"])
@pytest.mark.parametrize("method", ["fullgrad", "complete_fullgrad"])
@pytest.mark.parametrize("name", MODELS)
def test_compiled_maps_are_the_eager_ones(name: str, method: str, mode: str) -> None:
    model = lively(name).to(CUDA)
    one = fullgrad.compile(model, images().to(CUDA), method=method, mode=mode)
    x = images().flip(0).to(CUDA)
    assert one.verify(x, [3, 7]) < 1e-5
    first = one(x, [3, 7]).map
    kept = first.clone()
    one(x * 2, [1, 2])
    assert torch.equal(first, kept), "a result belongs to its caller"
    assert len(one.seconds) == 1


def test_a_recording_follows_the_parameters() -> None:
    model, x = lively("resnet18").to(CUDA), images().to(CUDA)
    one = fullgrad.compile(model, x, mode="cudagraphs")
    with torch.no_grad():
        model.fc.weight.mul_(2)  # in place: read where it lies
    assert one.verify(x, [3, 7]) < 1e-5
    moved = {k: v.clone() * 1.5 for k, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict(moved, assign=True, strict=False)  # elsewhere: recorded again
    assert one.verify(x, [3, 7]) < 1e-5
    assert len(one.seconds) == 1
    with pytest.raises(errors.OptionError, match="use mode='graph'"):
        fullgrad.compile(copy.deepcopy(model).cpu(), x.cpu(), mode="cudagraphs")


def test_what_cannot_be_recorded_names_the_mode_that_works() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[x.detach() > 0] = 3.0  # PyTorch counts the chosen numbers on the CPU
            return y.mean((2, 3))

    model, x = Masked(), images().to(CUDA)
    with pytest.raises(errors.GraphError, match="mode='graph'"):
        fullgrad.compile(model, x, mode="cudagraphs", detached="constant")
    assert fullgrad.compile(model, x, mode="graph", detached="constant").verify(x, [0, 1]) < 1e-5
