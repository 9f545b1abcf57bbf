"""The complete map: against plain loops, exact sums, what is elsewhere, several inputs."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models

import fullgrad
from complete_oracle import DOUBLE, Layer, chain, check_sum, naive_map
from fullgrad.axes import spread
from fullgrad.errors import CompletenessError, InputError, LayoutError, OptionError
from networks import ResNetLike, seeded, vgg_like
from snippets import Snippet, batch, state_of

PLACEMENTS = ("receptive_field", "cells")


# -- against the oracle -----------------------------------------------------------------------

LAYERS = st.builds(
    Layer, st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2)
).filter(lambda layer: 2 * layer.padding <= layer.kernel - 1)


def _fits(layers: list[Layer], size: int) -> bool:
    """Whether each window reads something, and only the last grid may be of one cell."""
    for layer in layers:
        if size < 2:
            return False
        size = layer.after(size)
    return size > 0


@st.composite
def chains(draw: st.DrawFn, rank: int) -> tuple[list[list[Layer]], list[int]]:
    """Layers along each axis, and the sizes of an input that they can be applied to."""
    depth = draw(st.integers(1, 3))
    axes = [draw(st.lists(LAYERS, min_size=depth, max_size=depth)) for _ in range(rank)]
    sizes = []
    for layers in axes:
        size = draw(st.integers(5, 14))
        while not _fits(layers, size):
            size += 1
        sizes.append(size)
    return axes, sizes


@settings(max_examples=25)
@given(chains(2), st.sampled_from(PLACEMENTS))
def test_chains_in_two_dimensions(
    drawn: tuple[list[list[Layer]], list[int]], placement: str
) -> None:
    _compare(*drawn, placement)


@settings(max_examples=25)
@given(chains(1), st.sampled_from(PLACEMENTS))
def test_chains_in_one_dimension(
    drawn: tuple[list[list[Layer]], list[int]], placement: str
) -> None:
    _compare(*drawn, placement)


def test_a_chain_in_three_dimensions() -> None:
    along = [Layer(3, 2, 1), Layer(2, 2, 0, pool=True)]
    for placement in PLACEMENTS:
        _compare([along, along, [Layer(2), Layer(2, 1, 0, pool=True)]], [9, 8, 5], placement)


def _compare(axes: list[list[Layer]], sizes: list[int], placement: str) -> None:
    model, x = chain(axes), batch(2, 2, *sizes)
    found = fullgrad.complete_map(model, x, 1, placement=placement)
    expected = naive_map(fullgrad.decompose(model, x, 1), axes, placement)
    torch.testing.assert_close(found.map, expected, rtol=1e-7, atol=1e-9)
    check_sum(found)


def test_without_the_normalization_the_sum_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is a test of the weights: interpolation alone does not pass it."""
    columns = spread._columns

    def unnormalized(*args: object) -> object:
        found, numbers = columns(*args)  # type: ignore[arg-type]
        return found / np.maximum(found.max(0), 1e-9), numbers

    model = chain([[Layer(3, 2, 1)], [Layer(3, 3)]])
    monkeypatch.setattr(spread, "_columns", unnormalized)
    spread._shared.cache_clear()
    try:
        with pytest.raises(CompletenessError, match="not those that lie at each sample's places"):
            fullgrad.complete_map(model, batch(1, 2, 11, 9), 1)
    finally:
        spread._shared.cache_clear()


# -- exact sums -------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("build", [vgg_like, ResNetLike])
def test_sums_in_both_precisions(build: type, placement: str) -> None:
    model, x = seeded(build), batch(3, 3, 32, 32)
    found = fullgrad.complete_map(model, x, placement=placement)
    check_sum(found)
    assert found.map.shape == (3, 1, 32, 32)
    assert torch.equal(found.output, fullgrad.decompose(model, x).output)
    assert torch.equal(found.target, fullgrad.decompose(model, x).target)
    single = fullgrad.complete_map(model.float(), x.float(), found.target, placement=placement)
    check_sum(single, 1e-5)
    torch.testing.assert_close(single.map.double(), found.map, rtol=1e-3, atol=1e-4)


CLASSIFIERS = {  # torchvision's, the transformers narrow and of few layers
    "resnet18": (models.resnet18, 65, {}),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 65, {}),
    "swin": (
        models.SwinTransformer,
        80,
        {
            "patch_size": [4, 4],
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 3],
            "window_size": [7, 7],
        },
    ),
    "vit": (
        models.VisionTransformer,
        64,
        {
            "image_size": 64,
            "patch_size": 16,
            "num_layers": 3,
            "num_heads": 3,
            "hidden_dim": 24,
            "mlp_dim": 48,
        },
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_image_classifiers(name: str) -> None:
    torch.manual_seed(0)
    build, size, options = CLASSIFIERS[name]
    model = build(num_classes=5, **options).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1 or not bool(p.any()):
                p.add_(0.05 * torch.randn_like(p))
    x = batch(2, 3, size, size)
    before = state_of(model, x)
    found = fullgrad.complete_map(model, x, 3)
    check_sum(found)
    assert state_of(model, x) == before
    last = {"resnet18": "fc", "swin": "head", "vit": "heads"}.get(name, "classifier")
    d = fullgrad.decompose(model, x, 3)
    outside = sum(t.sums for t in d.select(last))
    torch.testing.assert_close(found.elsewhere_by_stage[last], outside)
    assert list(found.elsewhere_by_stage)[-1] == last
    if name == "resnet18":
        assert list(found.elsewhere_by_stage) == ["fc"]


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_half_precision_is_float32(how: str) -> None:
    model, x = seeded(vgg_like).float(), batch(2, 3, 32, 32).float()
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = fullgrad.complete_map(model, x, 1)
    else:
        found = fullgrad.complete_map(model.to(torch.bfloat16), x.to(torch.bfloat16), 1)
    assert found.map.dtype == torch.float32
    total = found.map.flatten(1).sum(1) + found.elsewhere + found.residual
    torch.testing.assert_close(total, found.output.double(), rtol=1e-4, atol=1e-4)


def test_selected_terms_and_those_left_out() -> None:
    model, x = seeded(ResNetLike), batch(2, 3, 16, 16)
    whole = fullgrad.complete_map(model, x, 1)
    parts = [fullgrad.complete_map(model, x, 1, terms=t) for t in ("input", "bias")]
    d = fullgrad.decompose(model, x, 1)
    torch.testing.assert_close(parts[0].map, d.input_terms[0].sum(1, keepdim=True))
    torch.testing.assert_close(parts[0].elsewhere_by_stage["left out"], d.bias_sums)
    torch.testing.assert_close(parts[1].elsewhere_by_stage["left out"], d.input_sums)
    torch.testing.assert_close(parts[0].map + parts[1].map, whole.map)
    for found in (*parts, fullgrad.complete_map(model, x, 1, terms=["block1", "input"])):
        check_sum(found)
    with pytest.raises(ValueError, match=r"terms must be one of all, .* not 'n'"):
        fullgrad.complete_map(model, x, terms="n")


def test_minibatches_change_nothing() -> None:
    model, x = seeded(ResNetLike), batch(5, 3, 16, 16)
    whole = fullgrad.complete_map(model, x)
    for options in ({"batch_size": 2}, {"batch_size": "auto", "memory": 1_000_000}):
        cut = fullgrad.complete_map(model, x, **options)
        torch.testing.assert_close(cut.map, whole.map)
        assert cut.elsewhere_by_stage.keys() == whole.elsewhere_by_stage.keys()
        torch.testing.assert_close(cut.elsewhere, whole.elsewhere)
        assert torch.equal(cut.target, whole.target)
        assert cut.residual.shape == (5,)
        check_sum(cut)
    alone = fullgrad.complete_map(model, x[3:4], whole.target[3:4])
    torch.testing.assert_close(alone.map[0], whole.map[3])


# -- what is elsewhere ------------------------------------------------------------------------


class Tokens(nn.Module):
    """Patches and a class token through attention; the class token is read."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 13, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(x), -1, -1), y], 1) + self.place
        return self.head(self.last(self.block(y))[:, 0])


def test_the_class_token_is_elsewhere() -> None:
    model, x = seeded(Tokens).double(), batch(2, 3, 12, 16)
    found, d = fullgrad.complete_map(model, x, 1), fullgrad.decompose(model, x, 1)
    check_sum(found)
    outside = dict.fromkeys(("", "block", "last", "head"), torch.zeros(2, dtype=DOUBLE))
    for t in d.bias_terms:
        value, stage = t.value, t.module.split(".")[0]
        if stage == "patch":
            continue
        if t.module.endswith("self_attn") and value.dim() < 4:  # tokens first
            own = value.reshape(13, 2, -1)[0].sum(1)
        elif value.dim() == 4:  # heads before tokens
            own = value[:, :, 0].sum((1, 2))
        elif stage == "head":
            own = value.sum(1)
        else:
            own = value.reshape(2, 13, -1)[:, 0].sum(1)
        outside[stage] = outside[stage] + own
    assert list(found.elsewhere_by_stage) == list(outside)
    for stage, expected in outside.items():
        torch.testing.assert_close(found.elsewhere_by_stage[stage], expected)
    assert float(found.elsewhere_by_stage["last"].abs().min()) > 0


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_pooled_numbers_and_grids_of_one_cell_are_elsewhere(size: tuple[int, int]) -> None:
    """Squeeze and excitation, a grid of one cell, dense layers; also where strides leave a rest."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2, 2),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 5, 1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(5, 6),
        nn.GELU(),
        nn.Linear(6, 3),
    ).double()
    x = batch(2, 3, *size)
    found, d = fullgrad.complete_map(model, x, 1), fullgrad.decompose(model, x, 1)
    assert list(found.elsewhere_by_stage) == ["3", "4", "6", "7", "8"]
    for stage, own in found.elsewhere_by_stage.items():
        torch.testing.assert_close(own, sum(t.sums for t in d.select(stage)))
    check_sum(found)
    rest = found.map[:, :, 2 * (size[0] // 2) :], found.map[..., 2 * (size[1] // 2) :]
    assert not any(bool(r.any()) for r in rest)  # not read


def test_halves_that_are_pooled_apart_keep_their_halves() -> None:
    def forward(model: Snippet, x: Tensor) -> Tensor:
        halves = [nn.functional.gelu(h.mean((2, 3))) for h in (x[..., :4], x[..., 4:])]
        return model.fc(torch.cat([halves[0], 2 * halves[1]], 1))

    model, x = Snippet(forward, 6), batch(2, 3, 6, 8)
    found, d = fullgrad.complete_map(model, x, 1), fullgrad.decompose(model, x, 1)
    own = [t for t in d.bias_terms if t.op == "gelu"]
    extra = found.map - d.input_terms[0].sum(1, keepdim=True)
    for part, term in zip((extra[..., :4], extra[..., 4:]), own, strict=True):
        expected = (term.sums / 24).reshape(2, 1, 1, 1).expand_as(part)
        torch.testing.assert_close(part, expected)
    assert list(found.elsewhere_by_stage) == ["fc"]


def test_a_token_mixers_hidden_axis_is_elsewhere() -> None:
    def forward(model: Snippet, x: Tensor) -> Tensor:
        y = model.patch(x).flatten(2)
        return model.fc((y + model.down(nn.functional.gelu(model.up(y)))).mean(2))

    torch.manual_seed(0)
    parts = {"patch": nn.Conv2d(3, 4, 2, 2), "up": nn.Linear(12, 7), "down": nn.Linear(7, 12)}
    model, x = Snippet(forward, **parts), batch(2, 3, 6, 8)
    found, d = fullgrad.complete_map(model, x, 1), fullgrad.decompose(model, x, 1)
    check_sum(found)
    hidden = [t for t in d.bias_terms if t.op == "gelu" or t.module == "up"]
    outside = sum(found.elsewhere_by_stage.values()) - d.select("fc")[0].sums
    torch.testing.assert_close(outside, sum(t.sums for t in hidden))


# -- several inputs ---------------------------------------------------------------------------


class Two(nn.Module):
    """An image and a series, joined where both are read."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GELU())
        self.series = nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.GELU())
        self.both = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor, series: Tensor) -> Tensor:
        rows = self.image(image).flatten(2).transpose(1, 2)  # (B, 16, 4)
        steps = self.series(series).transpose(1, 2)  # (B, 16, 4)
        fused = self.both(rows * steps)
        return self.head(fused.mean(1) + torch.cat([rows, steps], 1).mean(1))


def test_what_lies_on_two_grids_is_fused() -> None:
    torch.manual_seed(0)
    model = Two().double()
    image, series = batch(2, 3, 8, 8), batch(2, 2, 32, seed=1)
    found, d = (
        fullgrad.complete_map(model, (image, series), 1),
        fullgrad.decompose(model, (image, series), 1),
    )
    check_sum(found)
    assert [tuple(m.shape) for m in found.map] == [(2, 1, 8, 8), (2, 1, 32)]
    fused = [t for t in d.bias_terms if t.module.startswith("both") or t.op == "mul"]
    torch.testing.assert_close(found.elsewhere_by_stage["fused"], sum(t.sums for t in fused))
    torch.testing.assert_close(found.elsewhere_by_stage["head"], d.select("head")[0].sums)
    assert set(found.elsewhere_by_stage) == {"fused", "head"}
    for m, name, term in zip(found.maps, ("image", "series"), d.input_terms, strict=True):
        own = term.flatten(1).sum(1) + sum(t.sums for t in d.select(name))
        torch.testing.assert_close(m.flatten(1).sum(1), own)
    named = fullgrad.complete_map(model, {"image": image, "series": series}, 1)
    assert list(named.map) == ["image", "series"] == list(named.input_names)
    torch.testing.assert_close(named.map["series"], found.map[1])
    assert list(named.pooled(2)) == ["image", "series"]
    assert [tuple(m.shape) for m in found.pooled(4)] == [(2, 1, 4, 4), (2, 1, 4)]


# -- the object and refusals ------------------------------------------------------------------


def test_the_object() -> None:
    model, x = seeded(vgg_like), batch(2, 3, 32, 32)
    found = fullgrad.complete_map(model, x, 1)
    assert repr(found).startswith("CompleteMap(2x1x32x32; residual=")
    with pytest.raises((FrozenInstanceError, AttributeError)):
        found.output = x  # type: ignore[misc]
    torch.testing.assert_close(found.positive, found.map.clamp(min=0).flatten(1).sum(1))
    torch.testing.assert_close(found.negative, found.map.clamp(max=0).flatten(1).sum(1))
    assert not found.map.requires_grad and found.input_names == ("input",)


class Scrambled(nn.Module):
    """Its reshape cuts across channels and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 6)
        self.mix = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.embed(x).transpose(1, 3).reshape(-1, 6, 9)).mean(1)


def test_unknown_places_are_refused_never_elsewhere() -> None:
    x = batch(2, 3, 8, 8)
    model = Scrambled().double()
    with pytest.raises(LayoutError, match=r"addmm in mix .*activation_layouts=\{'mix': "):
        fullgrad.complete_map(model, x, 1)
    check_sum(fullgrad.complete_map(model, x, 1, terms="input"))
    stated = fullgrad.complete_map(model, x, 1, activation_layouts={"": "B N C"})
    check_sum(stated)


def test_refusals() -> None:
    model, x = seeded(vgg_like), batch(2, 3, 32, 32)
    with pytest.raises(ValueError, match="placement must be 'receptive_field' or 'cells', not 'x'"):
        fullgrad.complete_map(model, x, placement="x")  # type: ignore[arg-type]
    with pytest.raises(
        OptionError,
        match=r"complete_map\(\) has no option 'per_sample'; it is an option of decompose",
    ):
        fullgrad.complete_map(model, x, per_sample=False)  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"shape \(2, 4\) has no map"):
        fullgrad.complete_map(nn.Linear(4, 2), torch.randn(2, 4))
    with pytest.raises(ValueError, match="batch_size must be a positive integer or 'auto', not 0"):
        fullgrad.complete_map(model, x, batch_size=0)
