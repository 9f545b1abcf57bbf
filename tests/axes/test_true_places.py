"""Maps lie where the model reads: crops, halves, tiles, pairs, turned and shifted images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad

DOUBLE = torch.float64


def encoder(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
    ).double()


class Read(nn.Module):
    """A forward given as a function of an encoder, a head and the inputs."""

    def __init__(self, run: Callable[..., Tensor], net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = encoder() if net is None else net
        self.head = nn.Linear(4, 3).double()
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self.net, self.head, *inputs)


def bias_map(model: nn.Module, x: Any, **options: Any) -> Tensor:
    return fullgrad.saliency(model, x, 1, psi="signed", terms="bias", **options)


def mean(z: Tensor) -> Tensor:
    return z.mean((2, 3))


@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
@pytest.mark.parametrize("rows", [slice(0, 16), slice(8, 24), slice(16, 32)])
def test_a_crop_s_terms_stay_inside_the_crop(rows: slice, psi: str) -> None:
    x = torch.rand(2, 3, 32, 32, dtype=DOUBLE)
    net = nn.Sequential(encoder(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    model = Read(lambda net, head, x: head(mean(net(x[..., rows, rows]))), net.double())
    found = fullgrad.saliency(model, x, 1, psi=psi, terms="bias")
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[rows, rows] = False
    assert float(found[:, 0, outside].abs().max()) == 0
    assert float(found[:, 0, rows, rows].abs().mean()) > 0


@pytest.mark.parametrize("read", ["left", "right"])
def test_halves_stay_in_their_half(read: str) -> None:
    def halves(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        left, right = net(x[..., :8]), net(x[..., 8:])
        return head(mean(left if read == "left" else right))

    found = bias_map(Read(halves), torch.rand(1, 3, 8, 16, dtype=DOUBLE))[0, 0].abs().sum(0)
    other = found[8:] if read == "left" else found[:8]
    assert float(other.sum()) == 0
    assert float(found.sum()) > 0


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_view(turns: int) -> None:
    x = torch.rand(2, 3, 12, 12, dtype=DOUBLE)
    model = Read(lambda net, head, x: head(mean(net(x.rot90(turns, (2, 3))))))
    straight = Read(lambda net, head, x: head(mean(net(x))), model.net)
    straight.head = model.head
    wanted = bias_map(straight, x.rot90(turns, (2, 3))).rot90(-turns, (2, 3))
    torch.testing.assert_close(bias_map(model, x), wanted)


@pytest.mark.parametrize("psi", ["layer", "signed"])
@pytest.mark.parametrize("join", ["beside the samples", "behind the samples"])
def test_a_pair_of_images_each_on_its_own_input(join: str, psi: str) -> None:
    def pair(net: nn.Module, head: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        if join == "beside the samples":
            return head(mean(net(torch.stack([a, b], 1).flatten(0, 1))).view(len(a), 2, -1)[:, 0])
        return head(mean(net(torch.cat([a, b])).chunk(2)[0]))

    a, b = torch.rand(2, 2, 3, 8, 8, dtype=DOUBLE).unbind(0)
    model = Read(pair)
    alone = Read(lambda net, head, x: head(mean(net(x))), model.net)
    alone.head = model.head
    of_a, of_b = fullgrad.saliency(model, (a, b), 1, psi=psi)
    assert float(of_b.abs().max()) == 0
    torch.testing.assert_close(of_a, fullgrad.saliency(alone, a, 1, psi=psi))


@pytest.mark.parametrize("count", [1, 2])
def test_tiles_on_the_batch_axis(count: int) -> None:
    def tiles(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        z = torch.cat(net(torch.cat([x[..., :8], x[..., 8:]])).chunk(2), -1)
        return head(z[:, :, :, 8:].mean((2, 3)))

    found = bias_map(Read(tiles), torch.rand(count, 3, 8, 16, dtype=DOUBLE)).abs()
    assert float(found[..., :8].sum()) == 0
    assert (found[..., 8:].sum((1, 2, 3)) > 0).all()


def test_channels_shifted_in_time_by_writing() -> None:
    def shifted(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        z = net(x.transpose(1, 2).flatten(0, 1)).view(b, t, 4, h, w)
        s = torch.zeros_like(z)
        s[:, :-1, :2] = z[:, 1:, :2]
        s[:, :, 2:] = z[:, :, 2:]
        return head(s[:, 1].mean((2, 3)))

    found = bias_map(Read(shifted), torch.rand(2, 3, 4, 8, 8, dtype=DOUBLE)).abs().sum((1, 3, 4))
    assert (found[:, [0, 3]] == 0).all()
    assert (found[:, 1:3].sum(0) > 0).all()


def test_a_skip_connection_that_is_cut_to_its_center() -> None:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
            self.u, self.c = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            e = self.a(x).relu()
            z = self.u(self.b(nn.functional.max_pool2d(e, 2)).relu())
            k = (e.shape[-1] - z.shape[-1]) // 2
            cut = e[..., k : k + z.shape[-2], k : k + z.shape[-1]]
            return self.c(torch.cat([cut, z], 1))

    x = torch.rand(1, 1, 34, 34, dtype=DOUBLE)
    found = fullgrad.saliency(UNet().double(), x, (1, 5, 5), psi="signed")
    assert float(found[0, 0, 24:].abs().max()) == 0
    assert float(found[0, 0, :, 24:].abs().max()) == 0
    assert float(found[0, 0, :20, :20].abs().max()) > 0


def test_an_input_without_selected_terms_has_an_empty_map() -> None:
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.l, self.h = nn.Conv2d(3, 4, 3), nn.Linear(12, 4), nn.Linear(8, 3)

        def forward(self, image: Tensor, series: Tensor) -> Tensor:
            seen, heard = mean(self.c(image).relu()), self.l(series.flatten(1)).relu()
            return self.h(torch.cat([seen, heard], 1))

    a, t = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 6)
    of_image, of_series = fullgrad.saliency(Fusion(), (a, t), 1, terms=["c"], layout=[None, "BCT"])
    assert of_image.shape == (2, 1, 8, 8)
    assert float(of_image.abs().max()) > 0
    assert of_series.shape == (2, 1, 6)
    assert float(of_series.abs().max()) == 0


def test_queries_that_are_no_part_of_the_input_have_no_place() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.c, self.q = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(5, 8))
            self.a, self.h = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.c(x).flatten(2).transpose(1, 2)
            q = self.q.expand(len(x), -1, -1)
            return self.h(q + self.a(q, z, z, need_weights=False)[0])

    model, x = Queries().double(), torch.rand(2, 3, 16, 16, dtype=DOUBLE)
    found = fullgrad.saliency(model, x, (2, 1), psi="signed")
    d = fullgrad.decompose(model, x, (2, 1))
    lying = [t for t in d.bias_terms if t.module == "c"]
    wanted = d.input_terms[0].sum(1, keepdim=True) + nn.functional.interpolate(
        lying[0].value.sum(1, keepdim=True), size=(16, 16), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(found, wanted)


def test_a_gate_after_a_global_pool_is_one_cell_over_what_it_reads() -> None:
    class Gated(nn.Module):
        def __init__(self, rows: slice) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rows, self.c, self.g = rows, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
            self.h = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.c(x[..., self.rows, self.rows]).relu()
            return self.h(mean(z * self.g(z.mean((2, 3), keepdim=True))))

    x = torch.rand(2, 3, 16, 16, dtype=DOUBLE)
    for rows, share in ((slice(0, 16), 1.0), (slice(4, 12), 0.25)):
        model = Gated(rows).double()
        found = fullgrad.saliency(model, x, 1, psi="signed", terms=["g"])
        drawn = found != 0
        assert float(drawn.double().mean()) == share
        assert torch.equal(drawn[:, :, rows, rows], torch.ones_like(drawn[:, :, rows, rows]))
        assert float((found.amax((2, 3)) - found[:, :, 8, 8]).abs().max()) == 0


def _global_queries(net: nn.Module, z: Tensor) -> Tensor:
    """Attention in windows of 8 x 8, with the queries of a coarse view of the whole."""
    b, c, h, w = z.shape
    rows = z.view(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, c)
    queries = nn.functional.adaptive_avg_pool2d(z, 8).flatten(2).transpose(1, 2)
    queries = queries.repeat_interleave(len(rows) // b, 0)
    found = (queries @ rows.transpose(1, 2)).softmax(2) @ rows
    return found.view(b, h // 8, w // 8, 8, 8, c).permute(0, 5, 1, 3, 2, 4).reshape(z.shape)


def _shifted(net: nn.Module, z: Tensor) -> Tensor:
    """A branch that reads far to the left."""
    return nn.functional.avg_pool2d(nn.functional.pad(z, (8, 0, 0, 0)), (1, 9), 1)


@pytest.mark.parametrize("branch", [_global_queries, _shifted])
@pytest.mark.parametrize("place", [(28, 20), (3, 9), (16, 31)])
def test_a_residual_sum_lies_where_its_shortcut_does(
    branch: Callable[[nn.Module, Tensor], Tensor], place: tuple[int, int]
) -> None:
    x = torch.rand(1, 3, 32, 32, dtype=DOUBLE)
    torch.manual_seed(1)
    net = nn.ModuleList([encoder(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)]).double()

    def read(net: nn.ModuleList, head: nn.Module, x: Tensor) -> Tensor:
        z = net[0](x)
        for last in (net[1], net[2]):
            z = last(z + branch(net, z))
        return head(z[:, :, place[0], place[1]])

    found = fullgrad.saliency(Read(read, net), x, 1, psi="signed", terms=["net.2"])[0, 0]
    assert found.abs().argmax() == place[0] * 32 + place[1]
    assert (found.abs() > 1e-6 * found.abs().max()).sum() == 1


def test_what_stays_of_a_constant_that_is_written_into_has_no_place() -> None:
    """As padding has none: the same model with the constant added has the same map."""
    row = torch.linspace(1, 2, 12, dtype=DOUBLE).expand(2, 4, 10, 12)

    def written(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        z = row.clone()
        z[:, :, 1:-1, 2:-2] = net(x)
        return head(mean(z.tanh()))

    def added(net: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        border = row.clone()
        border[:, :, 1:-1, 2:-2] = 0
        return head(mean((nn.functional.pad(net(x), (2, 2, 1, 1)) + border).tanh()))

    x = torch.rand(2, 3, 8, 8, dtype=DOUBLE)
    found, wanted = (fullgrad.complete_map(Read(run), x, 1) for run in (written, added))
    torch.testing.assert_close(found.map, wanted.map)
    torch.testing.assert_close(found.elsewhere, wanted.elsewhere)
    assert float(found.elsewhere_by_stage[""].abs().min()) > 0


@pytest.mark.parametrize("filled", [False, True], ids=["as it was", "with NaN"])
def test_circular_convolutions_have_places(filled: bool, request: pytest.FixtureRequest) -> None:
    """PyTorch pads into memory that it fills with NaN if it is to be deterministic."""
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    torch.use_deterministic_algorithms(filled)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()).double()
    model = Read(lambda net, head, x: head(mean(net(x))), net)

    def joined(net: Any, head: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([x[..., -1:], x, x[..., :1]], 3)
        x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
        return head(mean(nn.functional.conv2d(x, net[0].weight, net[0].bias).relu()))

    x = torch.rand(2, 3, 8, 9, dtype=DOUBLE)
    found = fullgrad.complete_map(model, x, 1)
    model.run = joined
    wanted = fullgrad.complete_map(model, x, 1)
    torch.testing.assert_close(found.map, wanted.map)
    torch.testing.assert_close(found.elsewhere, wanted.elsewhere)
