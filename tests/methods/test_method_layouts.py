"""Every method on inputs whose channels do not come first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import InputError, LayoutError, MethodError
from fullgrad.interop import captum, grad_cam, quantus

CONTROLS = ("random", "random_blobs", "random_phase", "sobel", "center", "contrast")
GRADIENTS = ("input_gradient", "input_x_gradient", "integrated_gradients", "smoothgrad")


class Moved(nn.Module):
    """A network of channels-first images that takes them in another layout."""

    def __init__(self, net: nn.Module, order: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.order = net, order

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.permute(self.order))
        return out


def network(rank: int) -> nn.Sequential:
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d)[rank - 1]
    flat = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[rank - 1]
    body = (conv(5, 6, 3, padding=1), nn.ReLU(), conv(6, 4, 3, padding=1))
    return nn.Sequential(*body, flat(1), nn.Flatten(), nn.Linear(4, 3)).double()


LAYOUTS = {
    "BTC": ((2, 12, 5), (0, 2, 1)),
    "BHWC": ((2, 7, 9, 5), (0, 3, 1, 2)),
    "BHCW": ((2, 7, 5, 9), (0, 2, 1, 3)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [n for n in methods.names() if "attention" not in n])
def test_a_layout_gives_the_numbers_of_channels_first(name: str, layout: str) -> None:
    shape, order = LAYOUTS[layout]
    x = torch.rand(
        shape,
        dtype=torch.float64,
        generator=torch.Generator(torch.get_default_device()).manual_seed(1),
    )
    net = network(len(shape) - 2)
    options: dict[str, Any] = {}
    if name == "fullgrad_plus":
        options = {"blocks": "net.2"}
    if name in ("smoothgrad", "smooth_fullgrad"):
        options = {"samples": 2, "scale": 0.0}
    first = x.permute(order).contiguous()
    plain = options | ({"blocks": "2"} if options.get("blocks") else {})
    expected = methods.attribute(name, net, first, 1, **plain)
    got = methods.attribute(name, Moved(net, order), x, 1, layout=layout, **options)
    assert got.shape == (2, 1, *first.shape[2:])
    torch.testing.assert_close(got, expected)
    again = methods.attribute(name, Moved(net, order), x, 1, layout=layout, batch_size=1, **options)
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("name", ["fullgrad", *CONTROLS])
def test_samples_may_be_on_another_axis(name: str) -> None:
    x = torch.rand(2, 5, 12, dtype=torch.float64)
    net = network(1)
    expected = methods.attribute(name, net, x, 1)
    moved = Moved(net, (1, 2, 0))
    found = methods.attribute(name, moved, x.permute(2, 0, 1), 1, layout="TBC")
    torch.testing.assert_close(found, expected)


def test_a_layout_may_have_no_channels_and_spaces() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 2).double()
    x = torch.rand(3, 6, dtype=torch.float64)
    for name in ("input_gradient", *CONTROLS, "fullgrad"):
        assert methods.attribute(name, model, x, 1, layout="B T").shape == (3, 1, 6)
    got = methods.attribute("input_gradient", model, x, 1, layout="BT", signed=True)
    torch.testing.assert_close(got, model.weight[1].detach().expand(3, 1, 6))
    mapped = methods.attribute("input_gradient", model, x, 1, layout=["BT"])
    torch.testing.assert_close(mapped, got.abs())


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x)[0][:, -1])
        return out


@pytest.mark.parametrize("name", GRADIENTS)
def test_series_have_one_number_for_each_step(name: str) -> None:
    x = torch.randn(2, 6, 5)
    found = methods.attribute(name, Series(), x, 1, layout="BTC")
    assert found.shape == (2, 1, 6) == fullgrad.saliency(Series(), x, 1, layout="BTC").shape
    got = quantus.explain(Series(), x.numpy(), [1, 1], method=name, layout="BTC")
    torch.testing.assert_close(torch.from_numpy(got), found)


def convolutions(transposed: bool) -> nn.Module:
    net = network(1)
    return Moved(net, (0, 2, 1)) if transposed else net


@pytest.mark.parametrize("name", [n for n in methods.names() if "attention" not in n])
def test_time_is_not_taken_for_channels(name: str) -> None:
    """The way out that the message names works; where a convolution tells, none is needed."""
    options: dict[str, Any] = {"samples": 2} if name in ("smoothgrad", "smooth_fullgrad") else {}
    own = {"blocks": "net.2"} if name == "fullgrad_plus" else {}
    x = torch.rand(2, 12, 5, dtype=torch.float64)
    with pytest.raises(LayoutError, match="layout='BTC' if it is the last one") as refused:
        methods.attribute(name, convolutions(True), x, 1, **options, **own)
    assert "which axis of the input of shape (2, 12, 5) holds channels" in str(refused.value)
    found = methods.attribute(name, convolutions(True), x, 1, layout="BTC", **options, **own)
    assert found.shape == (2, 1, 12)
    first, own = x.mT.contiguous(), {"blocks": "2"} if own else {}
    told = methods.attribute(name, convolutions(False), first, 1, **options, **own)
    stated = methods.attribute(name, convolutions(False), first, 1, layout="BCT", **options, **own)
    assert torch.equal(told, stated)


def test_time_is_not_taken_for_channels_in_other_call_styles() -> None:
    model, x = Series(), torch.randn(2, 6, 5)
    for style, shape in (
        (lambda **o: captum.FullGrad(model).attribute(x, 1, shape="map", **o), (2, 1, 6)),
        (lambda **o: captum.FullGrad(model).attribute(x, 1, **o), (2, 6, 5)),
        (
            lambda **o: quantus.explain(model, x.numpy(), [1, 1], method="smoothgrad", **o),
            (2, 1, 6),
        ),
        (lambda **o: grad_cam.FullGrad(model, **o)(x), (2, 6)),
        (lambda **o: fullgrad.complete_map(model, x, 1, **o).map, (2, 1, 6)),
    ):
        with pytest.raises(LayoutError, match="layout='BTC' if it is the last one"):
            style()
        assert tuple(style(layout="BTC").shape) == shape


def test_an_image_without_a_batch_axis_is_named_so() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"No batch axis\? Pass x\.unsqueeze\(0\)"):
        methods.attribute("input_gradient", net, torch.rand(3, 12, 12), 1)


def test_a_users_function_may_return_any_of_the_shapes() -> None:
    x = torch.rand(2, 4, 5, 3, dtype=torch.float64)
    model = Moved(nn.Flatten(), (0, 1, 2, 3))
    expected = x.sum(3)[:, None]
    for change in (lambda t: t, lambda t: t.sum(3)[:, None], lambda t: t.sum(3)):
        got = methods.attribute(
            lambda model, inputs, target, f=change: f(inputs), model, x, 1, layout="BHWC"
        )
        torch.testing.assert_close(got, expected)
    with pytest.raises(
        MethodError,
        match=r"accepted: \(2, 4, 5, 3\), \(2, 1, 5, 3\).* State with layout= which .*"
        r"if they are not as here: 'BCXY'",
    ):
        methods.attribute(lambda m, x, t: x.sum(3), model, x, 1)


def test_a_users_function_is_told_the_layout_if_it_asks() -> None:
    x = torch.rand(2, 4, 3)

    def mine(model: nn.Module, inputs: Tensor, target: Any, layout: str) -> Tensor:
        assert layout == "BTC"
        return inputs

    torch.testing.assert_close(
        methods.attribute(mine, nn.Flatten(), x, 1, layout="BTC"), x.sum(2)[:, None]
    )

    def direct(model: nn.Module, inputs: Tensor, target: Any, **call: Any) -> Tensor:
        return inputs.sum(2)[:, None]

    method = methods.Method("direct", direct, direct=True)
    with pytest.raises(MethodError, match="'direct' makes its maps itself and does not take layou"):
        methods.attribute(method, nn.Flatten(), x, 1, layout="BTC")


def test_layouts_that_do_not_fit() -> None:
    x = torch.rand(2, 6, 5)
    for name in ("fullgrad", "input_gradient", "sobel"):
        with pytest.raises(LayoutError, match="names 4 axes, but the input has shape"):
            methods.attribute(name, Series(), x, 1, layout="BHWC")
        with pytest.raises(LayoutError, match="'BC' names no axis of positions"):
            methods.attribute(name, nn.Flatten(), x[:, 0], 1, layout="BC")
        with pytest.raises(InputError, match="State other axes, as in layout='BTC'"):
            methods.attribute(name, nn.Flatten(), x[:, 0], 1)


class Rows(nn.Module):
    """A transformer's block by another name: what it returns has channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = Wrapped(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(x).mean(1))
        return out


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).relu()


def test_grad_cam_does_not_take_channels_for_positions() -> None:
    x, model = torch.rand(2, 12, 5), Rows()
    block = model.block(x).requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(block.mean(1))[:, 1].sum(), block)
    expected = (gradient.mean(1, keepdim=True) * block).sum(2).relu()[:, None].detach()
    for options in ({}, {"layer": "block"}):
        found = methods.attribute("grad_cam", model, x, 1, layout="BTC", **options)
        torch.testing.assert_close(found, expected)
