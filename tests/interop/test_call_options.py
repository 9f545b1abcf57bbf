"""One name and meaning for every option, and advice that the call which gave it can take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.decomposition import _decompose
from fullgrad.engine.request import ModelOptions
from fullgrad.errors import (
    BlockedGradientError,
    CompletenessError,
    FullGradError,
    InputError,
    LayoutError,
    ModelError,
    OptionError,
)
from fullgrad.interop import captum, grad_cam, quantus
from fullgrad.maps.saliency import (
    SaliencyOptions,
    layer_maps,
    saliency_from_decomposition,
    term_map,
)
from fullgrad.maps.tokens import attribute_tokens, token_saliency
from fullgrad.methods import attribute

DOUBLE = torch.float64


def by_saliency(model: nn.Module, x: Tensor, **options: Any) -> Any:
    return fullgrad.saliency(model, x, [1] * len(x), **options)


def by_attribute(model: nn.Module, x: Tensor, **options: Any) -> Any:
    return attribute("fullgrad", model, x, [1] * len(x), **options)


def by_captum(model: nn.Module, x: Tensor, **options: Any) -> Any:
    return captum.FullGrad(model).attribute(x, [1] * len(x), shape="map", **options)


def by_quantus(model: nn.Module, x: Tensor, **options: Any) -> Any:
    return torch.from_numpy(quantus.explain(model, x, [1] * len(x), **options))


def by_grad_cam(model: nn.Module, x: Tensor, **options: Any) -> Any:
    cam = grad_cam.FullGrad(model, **options)
    return torch.from_numpy(cam(x, [lambda out: out[1]] * len(x)))


MAPS = [by_saliency, by_attribute, by_captum, by_quantus, by_grad_cam]
Call = Callable[..., Any]
calls = pytest.mark.parametrize("call", MAPS, ids=lambda c: c.__name__)


class Net(nn.Module):
    """A small network with one thing that needs an option."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.conv, self.norm = nn.Conv2d(3, 6, 2), nn.BatchNorm2d(6)
        self.mix, self.head = nn.Linear(9, 9), nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        if self.how == "detached":
            y = y * torch.sigmoid(y.detach())
        if self.how == "scrambled":  # the reshape cuts across channels and positions
            y = self.mix(y.transpose(1, 3).reshape(len(x), 6, 9)).reshape(len(x), 6, 3, 3)
        return self.head(y.mean((2, 3))) * gain


def images(count: int = 2) -> Tensor:
    return torch.randn(
        count,
        3,
        4,
        4,
        dtype=DOUBLE,
        generator=torch.Generator(torch.get_default_device()).manual_seed(1),
    )


def assert_same(call: Call, got: Tensor, expected: Tensor) -> None:
    """Equal maps, up to the stretching of grad-cam's style."""
    if call is by_grad_cam:
        low, high = expected.amin((1, 2, 3), True), expected.amax((1, 2, 3), True)
        expected = ((expected - low) / (high - low)).squeeze(1).float()
    torch.testing.assert_close(got, expected)


@calls
def test_values_that_were_detached_can_be_constants(call: Call) -> None:
    model, x = Net("detached"), images()
    with pytest.raises(BlockedGradientError, match="pass detached='constant' to count such values"):
        call(model, x)
    d = fullgrad.decompose(model, x, 1, detached="constant")
    assert_same(call, call(model, x, detached="constant"), saliency_from_decomposition(d))


@calls
def test_the_batch_s_sum_is_explained_where_samples_depend_on_each_other(call: Call) -> None:
    model, x = Net().train(), images()
    with pytest.raises(ModelError, match="or pass per_sample=False to explain the batch's sum"):
        call(model, x, mode="as_is")
    d = fullgrad.decompose(model, x, [1, 1], mode="as_is", per_sample=False)
    found = call(model, x, mode="as_is", per_sample=False)
    assert_same(call, found, saliency_from_decomposition(d))
    with pytest.raises(ValueError, match="sum over the whole batch, which batch_size would cut"):
        call(model, x, mode="as_is", per_sample=False, batch_size=1)


@calls
def test_an_activation_s_layout_can_be_stated(call: Call) -> None:
    model, x = Net("scrambled"), images()
    with pytest.raises(
        LayoutError,
        match=r"as in activation_layouts=\{'mix': '\(B K\) C'\} \(without positions\), explain one "
        r"sample at a time \(batch_size=1\) if .*, choose terms='input', or aggregate",
    ):
        call(model, x)
    d = fullgrad.decompose(model, x, 1)
    with pytest.raises(
        LayoutError, match=r"State it when you call fullgrad\.decompose, as in activ"
    ):
        layer_maps(d)
    with pytest.raises(LayoutError, match=r"State it when you call fullgrad.decompose.* yourself"):
        saliency_from_decomposition(d)
    unknown = next(t for t in d.bias_terms if t.module == "mix")
    with pytest.raises(LayoutError, match="it is not known where the numbers of addmm in mix"):
        term_map(unknown, d)
    stated = {"mix": "(B H=3 W=2) C"}
    expected = fullgrad.saliency(model, x, 1, activation_layouts=stated)
    assert_same(call, call(model, x, activation_layouts=stated), expected)
    assert_same(call, call(model, x, terms="input"), fullgrad.saliency(model, x, terms="input"))
    advised = {"mix": "(B K) C"}
    expected = fullgrad.saliency(model, x, 1, activation_layouts=advised)
    assert_same(call, call(model, x, activation_layouts=advised), expected)


class Sequence_(nn.Module):
    """Channels last, positions between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)).mean(1))


@calls
def test_the_input_s_layout_can_be_stated(call: Call) -> None:
    model, x = Sequence_(), torch.randn(2, 7, 6, dtype=DOUBLE)
    d = fullgrad.decompose(model, x, 1, layout="BTC")
    got = call(model, x, layout="BTC")
    if call is by_grad_cam:
        got = got.unsqueeze(1)
    expected = saliency_from_decomposition(d)
    low, high = expected.amin((1, 2), True), expected.amax((1, 2), True)
    stretched = ((expected - low) / (high - low)).float()
    torch.testing.assert_close(got, stretched if call is by_grad_cam else expected)


def test_captum_s_style_shares_a_map_among_channels_wherever_they_are() -> None:
    model, x = Sequence_(), torch.randn(2, 7, 6, dtype=DOUBLE)
    expected = fullgrad.saliency(model, x, 1, layout="BTC")
    got = captum.FullGrad(model).attribute(x, 1, layout="BTC")
    assert got.shape == x.shape
    torch.testing.assert_close(got.sum(2), expected.squeeze(1))


@calls
def test_other_options_of_the_call(call: Call) -> None:
    model, x = Net(), images(3)
    expected = fullgrad.saliency(model, x, 1)
    assert_same(call, call(model, x, batch_size=2), expected)
    assert_same(call, call(model, x, batch_size="auto", memory=10**5), expected)
    twice = fullgrad.saliency(model, x, 1, forward_kwargs={"gain": 2.0}, psi="signed")
    torch.testing.assert_close(twice, 2 * fullgrad.saliency(model, x, 1, psi="signed"))
    assert_same(call, call(model, x, forward_kwargs={"gain": 2.0}, psi="signed"), twice)
    assert_same(call, call(model, x, additional_forward_args=2.0, psi="signed"), twice)
    with pytest.raises(ValueError, match="tolerance must be positive, not 0"):
        call(model, x, tolerance=0)
    with pytest.raises(CompletenessError, match="tolerance 1e-30"):
        call(model, x, tolerance=1e-30)
    with pytest.raises(ValueError, match="mode must be 'eval' or 'as_is', not 'train'"):
        call(model, x, mode="train")


@calls
def test_old_names_work_with_a_warning(call: Call) -> None:
    model, x, stated = Net("scrambled"), images(), {"mix": "(B H=3 W=2) C"}
    with pytest.warns(DeprecationWarning, match="places= is now activation_layouts=; the old name"):
        got = call(model, x, places=stated)
    assert_same(call, got, fullgrad.saliency(model, x, 1, activation_layouts=stated))
    with pytest.raises(OptionError, match="places is the old name of activation_layouts: give"):
        call(model, x, places=stated, activation_layouts=stated)


@calls
def test_unknown_options_are_type_errors_that_say_where_they_belong(call: Call) -> None:
    with pytest.raises(
        TypeError, match=r"has no option 'embedding'.*attribute_tokens, token_salie"
    ):
        call(Net(), images(), embedding="x")
    with pytest.raises(TypeError, match="has no option 'magic'") as caught:
        call(Net(), images(), magic=1)
    assert isinstance(caught.value, FullGradError) and isinstance(caught.value, ValueError)
    assert "it is an option" not in str(caught.value)


def test_options_that_belong_elsewhere() -> None:
    model, x = Net(), images()
    with pytest.raises(
        TypeError, match=r"decompose\(\) has no option 'batch_size'; it is an option of saliency, "
    ):
        fullgrad.decompose(model, x, 1, batch_size=2)  # type: ignore[call-arg]
    with pytest.raises(
        TypeError, match="noise is an option of 'smooth_fullgrad', not of 'fullgrad'"
    ):
        fullgrad.saliency(model, x, 1, noise=fullgrad.Noise())
    with pytest.raises(
        TypeError,
        match="method 'sobel' has no option 'detached'; it has no options; it is an option of "
        "fullgrad, simple_fullgrad, smooth_fullgrad",
    ):
        attribute("sobel", model, x, 1, detached="constant")
    with pytest.raises(
        TypeError, match=r"'fullgrad' has no option 'samples'; .*of smooth_fullgrad"
    ):
        attribute("fullgrad", model, x, 1, samples=2)  # type: ignore[call-overload]


def test_a_user_s_method_may_have_options_of_those_names() -> None:
    def mine(
        model: nn.Module, inputs: Tensor, target: Any, mode: str = "a", places: int = 0
    ) -> Any:
        return inputs * 0 + len(mode) + places

    got = attribute(mine, Net(), images(), 1, mode="abc", places=2)
    assert torch.equal(got, torch.full((2, 1, 4, 4), 15.0, dtype=DOUBLE))


class Words(nn.Module):
    def __init__(self, how: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.embed, self.norm = nn.Embedding(9, 4), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        y = self.embed(ids)
        if self.how == "detached":
            y = y * torch.sigmoid(y.detach())
        if self.how == "coupled":
            y = self.norm(y.transpose(1, 2)).transpose(1, 2)
        return self.head(y.mean(1))


@pytest.mark.parametrize("call", [attribute_tokens, token_saliency])
def test_advice_of_token_calls(call: Call) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(BlockedGradientError, match="pass detached='constant'"):
        call(Words("detached"), ids, 1)
    call(Words("detached"), ids, 1, detached="constant")
    with pytest.raises(ModelError, match="depend on each other") as caught:
        call(Words("coupled").train(), ids, 1, mode="as_is")
    assert "per_sample" not in str(caught.value)
    with pytest.raises(TypeError, match="has no option 'per_sample'; it is an option of decompose"):
        call(Words(), ids, 1, per_sample=False)


def test_typed_options_are_those_of_the_calls() -> None:
    keywords = {
        f: {p.name for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for f in (fullgrad.saliency, fullgrad.decompose)
    }
    assert keywords[fullgrad.saliency] == SaliencyOptions.__optional_keys__
    assert keywords[fullgrad.decompose] == ModelOptions.__optional_keys__ | {
        "additional_forward_args"
    }
    assert _decompose.decompose is fullgrad.decompose


def test_a_list_of_functions_is_one_for_each_sample() -> None:
    model, x = Net(), images()
    targets = [lambda out: out[0], lambda out: out[2]]
    for size in (None, 1):
        got = fullgrad.saliency(model, x, targets, batch_size=size)
        torch.testing.assert_close(got, fullgrad.saliency(model, x, [0, 2]))
    with pytest.raises(InputError, match="needs one input tensor"):
        fullgrad.saliency(model, (x,), targets, "smooth_fullgrad")
