"""Stated layouts, several inputs, and maps in one to three dimensions."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.axes.layouts import parse
from fullgrad.errors import InputError, LayoutError
from fullgrad.maps.aggregation import rescaled_channel_sum
from fullgrad.maps.saliency import layer_maps, saliency_from_decomposition
from networks import ResNetLike, seeded


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        shape,
        dtype=torch.float64,
        generator=torch.Generator(torch.get_default_device()).manual_seed(seed),
    )


class Encoder(nn.Module):
    """A transformer, an LSTM or a perceptron on (B, T, C)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.proj = nn.Linear(5, 8)
        if kind == "lstm":
            self.body: nn.Module = nn.LSTM(8, 8, batch_first=True)
        elif kind == "mlp":
            self.body = nn.Sequential(nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh())
        else:
            self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.proj(x))
        return self.head((y[0] if isinstance(y, tuple) else y).mean(1))


def naive_sequence_map(d: fullgrad.Decomposition, time: int) -> Tensor:
    """Each (B, T, C) or (B * T, C) term rescaled as a whole, time kept."""
    total = torch.zeros(len(d.output), time, dtype=torch.float64)
    for value in [d.input_terms[0], *(t.value for t in d.bias_terms)]:
        if value.dim() < 3 and value.shape[0] == len(d.output):
            continue
        z = value.reshape(len(d.output), time, -1).abs()
        low, high = z.amin((1, 2), keepdim=True), z.amax((1, 2), keepdim=True)
        total += ((z - low) / (high - low + 1e-6)).sum(2)
    return total[:, None]


def test_sequences_with_channels_last() -> None:
    torch.manual_seed(0)
    model, x = Encoder("mlp").double(), randn(2, 7, 5)
    got = fullgrad.saliency(model, x, 1, layout="BTC")
    assert got.shape == (2, 1, 7)
    d = fullgrad.decompose(model, x, 1, layout="BTC")
    torch.testing.assert_close(got, saliency_from_decomposition(d))
    torch.testing.assert_close(got, naive_sequence_map(d, 7))


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_a_wrong_guess_is_refused(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Encoder(kind).double(), randn(2, 7, 5)
    for call in (fullgrad.saliency, fullgrad.complete_map):
        with pytest.raises(LayoutError, match="which axis of the input of shape") as refused:
            call(model, x, 1)
        assert "layout='BTC' if it is the last one" in str(refused.value)
        call(model, x, 1, layout="BTC")
    with pytest.raises(
        LayoutError, match=r"State it when you call fullgrad\.decompose: layout='BTC'"
    ):
        saliency_from_decomposition(fullgrad.decompose(model, x, 1))
    stated = fullgrad.decompose(model, x, 1, layout="BTC")
    assert saliency_from_decomposition(stated).shape == (2, 1, 7)


def test_of_several_inputs_those_that_are_not_clear_are_stated() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.series = nn.Conv2d(3, 4, 3), Encoder("mlp").double()

        def forward(self, image: Tensor, series: Tensor) -> Tensor:
            return self.series(series) + self.image(image).mean((1, 2, 3))[:, None]

    model, inputs = Both().double(), (randn(2, 3, 8, 8), randn(2, 7, 5))
    with pytest.raises(LayoutError, match=r"the input input1 of shape \(2, 7, 5\)") as refused:
        fullgrad.saliency(model, inputs, 1)
    assert "layout=[None, 'BTC'] if it is the last one" in str(refused.value)
    found = fullgrad.saliency(model, inputs, 1, layout=[None, "BTC"])
    assert [m.shape for m in found] == [(2, 1, 8, 8), (2, 1, 7)]


def test_series_without_channels() -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x[:, None]).relu().mean(2)

    model, x = Wave().double(), randn(2, 20)
    d = fullgrad.decompose(model, x, 1)
    expected = rescaled_channel_sum(d.input_terms[0][:, None]) + rescaled_channel_sum(
        d.bias_terms[0].value
    )
    torch.testing.assert_close(fullgrad.saliency(model, x, 1, layout="BT"), expected)
    with pytest.raises(InputError, match=r"shape \(2, 20\) has no map: .*layout='BT'"):
        fullgrad.saliency(model, x, 1)


def test_images_with_channels_last() -> None:
    model, x = seeded(ResNetLike), randn(2, 3, 32, 24)
    expected = fullgrad.saliency(model, x, 1)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.permute(0, 3, 1, 2))

    got = fullgrad.saliency(Last(), x.permute(0, 2, 3, 1), 1, layout="BHWC")
    torch.testing.assert_close(got, expected)
    smooth = {"method": "smooth_fullgrad", "noise": fullgrad.Noise(2, 0.0)}
    again = fullgrad.saliency(Last(), x.permute(0, 2, 3, 1), 1, layout="BHWC", **smooth)
    torch.testing.assert_close(again, expected)


class Two(nn.Module):
    """Two images, a convolution each; the sum of both through a third."""

    def __init__(self, how: str = "add") -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.c = nn.Conv2d(4 if how == "add" else 8, 2, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(y).relu()
        return self.c(a + b if self.how == "add" else torch.cat([a, b], 1)).mean((2, 3))


@pytest.mark.parametrize("how", ["add", "cat"])
def test_two_images(how: str) -> None:
    torch.manual_seed(0)
    model, x, y = Two(how).double(), randn(2, 3, 8, 6), randn(2, 2, 8, 6, seed=1)
    d = fullgrad.decompose(model, (x, y), 1)
    own = [rescaled_channel_sum(t) for t in d.input_terms]
    maps = {t.module: rescaled_channel_sum(t.value) for t in d.bias_terms}
    assert set(maps) == {"a", "b", "c"}
    expected = (own[0] + maps["a"] + maps["c"] / 2, own[1] + maps["b"] + maps["c"] / 2)
    got = fullgrad.saliency(model, (x, y), 1)
    assert isinstance(got, tuple)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(saliency_from_decomposition(d), expected)
    named = fullgrad.saliency(model, {"x": x, "y": y}, 1, batch_size=1)
    assert list(named) == ["x", "y"]
    torch.testing.assert_close(tuple(named.values()), expected)


def test_an_image_and_a_series() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.series = nn.Conv2d(3, 4, 3), nn.Conv1d(2, 4, 3)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.image(x).relu().mean((2, 3)) + self.series(y).relu().mean(2))

    torch.manual_seed(0)
    model, x, y = Both().double(), randn(2, 3, 8, 6), randn(2, 2, 9)
    image, series = fullgrad.saliency(model, (x, y), 1)
    assert image.shape == (2, 1, 8, 6)
    assert series.shape == (2, 1, 9)
    d = fullgrad.decompose(model, (x, y), 1)
    both = saliency_from_decomposition(d)
    torch.testing.assert_close((image, series), both)
    table = randn(2, 4)

    class WithTable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = Both(), nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return self.net(x, y) + self.head(z)

    wide = WithTable().double()
    with pytest.raises(InputError, match=r"shape \(2, 4\) has no map"):
        fullgrad.saliency(wide, (x, y, table), 1)
    assert len(fullgrad.saliency(wide, (x, y), 1, additional_forward_args=table)) == 2


def test_image_and_text_tokens_in_one_sequence() -> None:
    class Joint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, stride=4)
            self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor, words: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(self.body(torch.cat([tokens, words], 1)).mean(1))

    torch.manual_seed(0)
    model = Joint().double()
    image, words = fullgrad.saliency(
        model, (randn(2, 3, 8, 8), randn(2, 5, 8)), 1, layout=(None, "BTC")
    )
    assert image.shape == (2, 1, 8, 8)
    assert words.shape == (2, 1, 5)
    assert min(float(image.std()), float(words.std())) > 0


def test_segmentation_targets() -> None:
    """A pixel's class score is explained where the network can see from it, and nowhere else."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)
    ).double()
    x = randn(2, 3, 16, 16)
    one = fullgrad.saliency(net, x, (1, 8, 6), psi="signed")
    seen = torch.zeros(16, 16, dtype=torch.bool)
    seen[6:11, 4:9] = True
    assert float(one[:, :, ~seen].abs().max()) == 0
    assert float((one[:, :, seen] != 0).double().mean()) > 0.5
    each = fullgrad.saliency(net, x, [(1, 8, 6), (2, 3, 3)], psi="signed")
    torch.testing.assert_close(each[0], one[0])
    assert float(each[1, 0, 12, 12]) == 0
    region = fullgrad.saliency(net, x, lambda y: y[:, 1, 7:9, 6].sum(1), psi="signed")
    torch.testing.assert_close(region, fullgrad.saliency(net, x, (1, 7, 6), psi="signed") + one)


class Scrambled(nn.Module):
    """Tokens are sorted before they are pooled, which loses their places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 1)
        self.pool = nn.AvgPool1d(4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).flatten(2).sort(2).values
        return self.norm(self.pool(y)).tanh().mean(2)


def test_places_stated_by_hand() -> None:
    torch.manual_seed(0)
    model, x = Scrambled().double().eval(), randn(2, 3, 8, 4)
    with pytest.raises(
        LayoutError,
        match=r"native_batch_norm in norm .*as in activation_layouts=\{'norm': 'B K C'\} \(without positions\)",
    ):
        fullgrad.saliency(model, x, 1)
    got = fullgrad.saliency(model, x, 1, activation_layouts={"pool": "B C (H=4 W=2)"})
    plain = fullgrad.saliency(model, x, 1, activation_layouts={"norm": ["B C (H=4 W=2)"]})
    torch.testing.assert_close(got, plain)
    inferred = fullgrad.saliency(model, x, 1, activation_layouts={"pool": "B C (H W)"})
    torch.testing.assert_close(got, inferred)
    for places, message in (
        (
            {"head": "B C"},
            r"activation_layouts holds layouts that nothing needs: 'B C' in 'head'\. No activation there",
        ),
        ({"": "B C (H W=3)"}, r"the layout 'B C \(H W=3\)' does not fit the shape \(2, 4, 32\)"),
        ({"": "B C (K L)"}, r"give sizes, like 'K=14'"),
        ({"": "B C C"}, r"the layout 'B C C' cannot be read"),
        ({"": "B C [H]"}, r"cannot be read"),
        ({"": ""}, r"cannot be read"),
    ):
        with pytest.raises(LayoutError, match=message):
            fullgrad.saliency(model, x, 1, activation_layouts=places)


class Crops(nn.Module):
    """Each sample is cropped elsewhere; or all are at one place, and then scrambled."""

    def __init__(self, rows: Sequence[int], then: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.then = rows, then or nn.Identity()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.rows) == 1:
            x = x[:, :, self.rows[0] : self.rows[0] + 8]
        else:
            cut = [x[i, :, r : r + 8] for i, r in zip(range(len(x)), self.rows, strict=False)]
            x = torch.stack(cut)
        return self.conv(self.then(x)).relu().mean((2, 3))


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(2).values


def test_crops_that_differ_by_sample_are_drawn_one_sample_at_a_time() -> None:
    model, x = Crops((0, 8)).double(), randn(2, 3, 16, 6)
    with pytest.raises(
        LayoutError,
        match=r"B C H W'\} \(it covers the whole input\) or activation_layouts=\{'conv': 'B C K L'\} "
        r"\(without positions\), explain one sample at a time \(batch_size=1\) if only "
        r"the samples' places differ, choose terms='input', or aggregate the terms of fullgrad",
    ):
        fullgrad.saliency(model, x, 1)
    assert fullgrad.saliency(model, x, 1, batch_size=1).shape == (2, 1, 16, 6)
    fullgrad.saliency(model, x, 1, terms="input")
    first = fullgrad.saliency(model, x[:1], 1, terms="bias", psi="signed")
    assert float(first[:, :, 8:].abs().max()) == 0 < float(first.abs().max())


class Parts(nn.Module):
    """Cuts an image into rows of numbers or into small images, whose places are not known."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape = shape
        self.read = nn.Conv2d(3, 2, 3) if len(shape) == 4 else nn.Linear(shape[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.read(x.flatten(1).sort(1).values.reshape(self.shape)).relu()
        return found.transpose(0, 1).flatten(1).mean(1)[None]


@pytest.mark.parametrize("shape", [(4, 48), (4, 3, 4, 4)], ids=["rows", "images"])
def test_both_layouts_of_the_message_can_be_stated(shape: tuple[int, ...]) -> None:
    model, x = Parts(shape).double(), randn(1, 3, 8, 8)
    with pytest.raises(LayoutError) as refused:
        fullgrad.complete_map(model, x, 1)
    said = re.findall(r"activation_layouts=(\{.*?\}) \(", str(refused.value))
    whole, bare = (
        fullgrad.complete_map(model, x, 1, activation_layouts=ast.literal_eval(s)) for s in said
    )
    without = fullgrad.complete_map(model, x, 1, terms="input")
    assert abs(whole.map - without.map).max() > 1e-4
    assert torch.allclose(bare.map, without.map)
    assert abs(bare.elsewhere - whole.elsewhere).max() > 1e-4


@pytest.mark.parametrize("hooked", [False, True])
def test_a_stated_layout_for_a_part_of_the_input_is_refused(hooked: bool) -> None:
    x = randn(2, 3, 16, 6)
    model, stated = Crops((4,), Sorted()).double(), {"conv": "B C H W"}
    if hooked:
        model.then.register_full_backward_hook(lambda *gradients: None)
    for call in (fullgrad.saliency, fullgrad.complete_map, fullgrad.decompose):
        with pytest.raises(
            LayoutError,
            match=r"conv: the layout 'B C H W' covers the whole input, but the numbers read 4 to "
            r"11 of H=0 to 15 alone\. Leave it out: fullgrad\.decompose and maps with terms='input'",
        ):
            call(model, x, 1, activation_layouts=stated)
    fullgrad.decompose(model, x, 1)
    fullgrad.saliency(model, x, 1, terms="input")
    fullgrad.complete_map(model, x, 1, terms="input")
    model = nn.Sequential(nn.ZeroPad2d((0, 0, -3, 0)), Crops((0, 1))).double()
    with pytest.raises(
        LayoutError, match=r"read 3 to 15 .*maps of one sample at a time \(batch_size=1\) if only"
    ):
        fullgrad.saliency(model, x, 1, activation_layouts={"1.conv": "B C H W"})
    fullgrad.saliency(model, x[:1], 1)
    whole = nn.Sequential(Sorted(), nn.Conv2d(3, 2, 3, 2), nn.Flatten(), nn.LazyLinear(2)).double()
    whole(x)
    fullgrad.saliency(whole, x, 1, activation_layouts={"1": "B C H W"})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("BCH", "names 3 axes, but input has shape"),
        ("NCHW", "one letter for each axis, B .samples. among them"),
        ("BCHH", "one letter for each axis"),
        ("BC12", "one letter for each axis"),
        (("BCHW", "BT"), "2 layouts for 1 explained inputs"),
    ],
)
def test_refused_layouts(layout: object, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        fullgrad.saliency(seeded(ResNetLike), randn(2, 3, 8, 8), 1, layout=layout)


def test_five_grid_axes_are_too_many() -> None:
    with pytest.raises(LayoutError, match="'BHWDT' has 4 grid axes; 3 are the most"):
        fullgrad.decompose(nn.Flatten(), randn(2, 2, 2, 2, 2), 0, layout="BHWDT")


def test_parse() -> None:
    assert parse("B (H W=14) C") == ((("B", None),), (("H", None), ("W", 14)), (("C", None),))


def test_layer_maps_sum_to_the_bias_map() -> None:
    model, x = seeded(ResNetLike), randn(2, 3, 32, 32)
    d = fullgrad.decompose(model, x, 1)
    for depth in (1, 2, None):
        maps = layer_maps(d, depth=depth)
        assert next(iter(maps)) == "bn"
        torch.testing.assert_close(sum(maps.values()), saliency_from_decomposition(d, terms="bias"))
    assert list(layer_maps(d)) == ["bn", "block1", "block2"]
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        layer_maps(d, depth=0)
    with pytest.raises(ValueError, match="psi must be one of"):
        layer_maps(d, psi="no")


def test_terms_of_stages() -> None:
    model, x = seeded(ResNetLike), randn(2, 3, 32, 32)
    d = fullgrad.decompose(model, x, 1)
    maps = layer_maps(d)
    for terms, expected in (
        ("block2", maps["block2"]),
        (["block1", "block2"], maps["block1"] + maps["block2"]),
        (["input", "bn"], rescaled_channel_sum(d.input_terms[0]) + maps["bn"]),
        (["input"], rescaled_channel_sum(d.input_terms[0])),
    ):
        torch.testing.assert_close(fullgrad.saliency(model, x, 1, terms=terms), expected)
        torch.testing.assert_close(saliency_from_decomposition(d, terms=terms), expected)
    for terms, named in ((["blok1"], "'blok1'"), ([], "nothing"), (["bias"], "'bias'")):
        with pytest.raises(ValueError, match=f"or modules of the model .*, not {named}"):
            fullgrad.saliency(model, x, 1, terms=terms)


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: bool) -> None:
        super().__init__()
        self.net = getattr(nn, kind)(5, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[0].mean(1))


class ByHand(nn.Module):
    """Steps in Python; each order of the sum's two operands."""

    def __init__(self, memory_first: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.memory_first = memory_first

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            if self.memory_first:
                h = (self.b(h) + self.a(x[:, t])).tanh()
            else:
                h = (self.a(x[:, t]).relu() + self.b(h)).tanh()
        return self.head(h)


RECURRENT = {
    "LSTM": lambda: Recurrent("LSTM"),
    "GRU": lambda: Recurrent("GRU"),
    "RNN": lambda: Recurrent("RNN"),
    "bidirectional": lambda: Recurrent("LSTM", bidirectional=True),
    "by hand": lambda: ByHand(False),
    "by hand, memory first": lambda: ByHand(True),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_step_lies_at_the_input_it_reads(name: str) -> None:
    torch.manual_seed(0)
    model, x = RECURRENT[name]().double(), randn(2, 4, 5)
    d = fullgrad.decompose(model, x, 1, layout="BTC")
    places: list[list[float]] = []
    for term in d.bias_terms:
        coordinate = None if term.axes is None else term.axes.coordinates[0]
        if coordinate is not None and term.op in ("tanh", "tanh_"):
            places.append(coordinate.table[2].reshape(-1).tolist())
    if name.startswith("by hand"):  # one term for each step
        places = [[t for (t,) in places]]
    assert places
    assert all(p == [0, 1, 2, 3] for p in places)
    assert fullgrad.saliency(model, x, 1, layout="BTC").shape == (2, 1, 4)
