"""Cut into batches a call gives the same maps; noise is averaged as its definition says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.engine.request import Request
from fullgrad.errors import InputError, OptionError, TargetError
from fullgrad.maps import minibatches
from fullgrad.maps.aggregation import rescaled_channel_sum, upsample
from fullgrad.maps.smoothing import Noise, noisy
from networks import ResNetLike, seeded, vgg_like

X = torch.randn(
    5,
    3,
    32,
    32,
    dtype=torch.float64,
    generator=torch.Generator(torch.get_default_device()).manual_seed(0),
)


class Conditioned(nn.Module):
    """An extra argument for each sample, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(ResNetLike)

    def forward(self, x: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
        return self.net(x + shift[:, None, None, None]) * gain


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, "auto"])
@pytest.mark.parametrize(
    "target", [None, 3, [0, 1, 2, 3, 4], torch.tensor([4, 3, 2, 1, 0]), lambda y: y[:, 0]]
)
def test_batches_change_nothing(size: Any, target: Any) -> None:
    model = seeded(ResNetLike)
    whole = fullgrad.saliency(model, X, target)
    torch.testing.assert_close(fullgrad.saliency(model, X, target, batch_size=size), whole)


def test_arguments_are_cut_with_the_samples() -> None:
    model, extra = Conditioned(), (torch.arange(5.0).double() / 5, torch.tensor([2.0]).double())
    whole = fullgrad.saliency(model, X, additional_forward_args=extra)
    cut = fullgrad.saliency(model, X, additional_forward_args=extra, batch_size=2)
    torch.testing.assert_close(cut, whole)
    by_name = {"shift": extra[0], "gain": extra[1]}
    named = fullgrad.saliency(model, {"x": X}, forward_kwargs=by_name, batch_size=2)
    torch.testing.assert_close(named["x"], whole)


def test_a_memory_budget_sets_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = seeded(vgg_like), []
    one = minibatches.bytes_per_sample(Request(model, X))
    # Autograd keeps at least every convolution's input: 3 and 8 channels of 32 x 32, 8 of 16 x 16.
    assert (11 * 32 * 32 + 8 * 16 * 16) * 8 < one < 40 * 32 * 32 * 8
    compute = lambda part: (seen.append(len(part.inputs)), (part.inputs,))[1]  # noqa: E731
    for memory, expected in ((2 * one, [2, 2, 1]), (one // 2, [1] * 5), (100 * one, [5])):
        seen.clear()
        assert torch.equal(
            minibatches.in_minibatches(Request(model, X), compute, "auto", memory)[0], X
        )
        assert seen == expected
    monkeypatch.setattr(minibatches, "free_bytes", lambda device: 6 * one)
    assert minibatches.largest_minibatch(Request(model, X), None) == 3


def test_free_memory_is_told_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert minibatches.free_bytes(torch.device("cpu")) > 2**20
    monkeypatch.setattr(minibatches.Path, "read_text", lambda *_: "")  # as on macOS, Windows
    monkeypatch.delattr(minibatches.os, "sysconf")
    model = seeded(vgg_like)
    with pytest.raises(OptionError, match=r"does not tell: pass memory= in bytes as well, or ba"):
        fullgrad.saliency(model, X, batch_size="auto")
    for options in ({"batch_size": "auto", "memory": 10**8}, {"batch_size": 2}):
        assert fullgrad.saliency(model, X, **options).shape == (5, 1, 32, 32)


def test_measuring_leaves_the_model_alone() -> None:
    model = seeded(ResNetLike).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    minibatches.bytes_per_sample(Request(model, X, mode="as_is"))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_full_gpu_is_tried_with_less() -> None:
    sizes: list[int] = []

    def compute(part: Request) -> tuple[Tensor, ...]:
        sizes.append(len(part.inputs))
        if len(part.inputs) > 2:
            raise torch.OutOfMemoryError("full")
        return (part.inputs * 2,)

    model = seeded(vgg_like)
    result = minibatches.in_minibatches(Request(model, X), compute, "auto", 2**40)
    assert torch.equal(result[0], X * 2)
    assert sizes[-3:] == [2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        minibatches.in_minibatches(Request(model, X), compute, 3, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer or 'auto', not 0"),
        ({"batch_size": "all"}, "batch_size must be a positive integer or 'auto', not 'all'"),
        ({"batch_size": True}, "not True"),
        ({"memory": 5}, "memory needs batch_size='auto'"),
        ({"memory": -5, "batch_size": "auto"}, "memory must be a positive number of bytes, not -5"),
        ({"noise": Noise()}, "noise is an option of 'smooth_fullgrad', not of 'fullgrad'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fullgrad.saliency(vgg_like(), X, **options)


def test_refused_noise() -> None:
    with pytest.raises(ValueError, match=r"Noise\.samples must be a positive integer, not 0"):
        Noise(samples=0)
    with pytest.raises(ValueError, match=r"Noise\.scale must not be negative, not -1"):
        Noise(scale=-1)
    with pytest.raises(InputError, match="smooth_fullgrad needs one input tensor"):
        fullgrad.saliency(vgg_like(), (X, X), method="smooth_fullgrad")


def test_smooth_is_the_map_of_the_mean_terms_for_one_target() -> None:
    model, noise = seeded(ResNetLike), Noise(samples=3, scale=0.4, seed=7)
    predicted = model.eval()(X).argmax(1)
    copies = list(noisy(X, noise))
    ds = [fullgrad.decompose(model, x, predicted) for x in copies]
    own = sum(d.input_terms[0] for d in ds) / 3
    expected = rescaled_channel_sum(own)
    for terms in zip(*(d.bias_terms for d in ds), strict=True):
        if terms[0].value.dim() == 4:
            mean = sum(t.value for t in terms) / 3
            expected = expected + upsample(rescaled_channel_sum(mean), X.shape[2:])
    smooth = fullgrad.saliency(model, X, method="smooth_fullgrad", noise=noise)
    torch.testing.assert_close(smooth, expected)
    for size in (1, 2, 4, 10, 100, "auto"):
        again = fullgrad.saliency(model, X, method="smooth_fullgrad", noise=noise, batch_size=size)
        torch.testing.assert_close(again, expected)
    alone = fullgrad.saliency(model, X[2:3], method="smooth_fullgrad", noise=noise)
    torch.testing.assert_close(alone[0], expected[2])


def test_noise_is_a_share_of_each_samples_range() -> None:
    x = torch.stack([X[0], 10 * X[1]])
    copies = torch.stack(list(noisy(x, Noise(samples=64, scale=0.2))))
    assert copies.shape == (64, *x.shape)
    deviation = (copies - x).flatten(2).std(2).mean(0)
    torch.testing.assert_close(
        deviation, 0.2 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))), rtol=0.02, atol=0
    )
    same = torch.stack(list(noisy(x, Noise(samples=64, scale=0.2))))
    assert torch.equal(copies, same)
    assert not torch.equal(copies[0], copies[1])


def test_smooth_without_noise_is_fullgrad() -> None:
    model = seeded(vgg_like)
    smooth = fullgrad.saliency(model, X, 1, "smooth_fullgrad", noise=Noise(2, 0.0))
    torch.testing.assert_close(smooth, fullgrad.saliency(model, X, 1))


@pytest.mark.parametrize("target", [[0, 1], torch.tensor([0, 1])])
def test_targets_that_fit_only_a_part_are_refused(target: Any) -> None:
    with pytest.raises(TargetError, match="2 targets for a batch of 5"):
        fullgrad.saliency(vgg_like(), X, target, batch_size=2)


def test_smooth_predicts_in_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = seeded(ResNetLike), []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    fullgrad.saliency(model, X, method="smooth_fullgrad", noise=Noise(3), batch_size=2)
    assert max(sizes) == 2
