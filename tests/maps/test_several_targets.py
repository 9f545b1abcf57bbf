"""Maps of several targets for each sample: those of separate calls, from one forward."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.engine import pipeline, tape
from fullgrad.engine.request import Request
from fullgrad.engine.targets import Several
from fullgrad.errors import CompletenessError, OptionError, TargetError
from fullgrad.interop import quantus
from fullgrad.maps import tokens
from fullgrad.maps.selection import selection
from fullgrad.maps.sinks import Draw
from fullgrad.targets import against_rest, log_probability, margin
from networks import ResNetLike, classifier, dropout_net, ids, seeded
from snippets import Snippet, batch

X = batch(3, 3, 16, 16)
EACH = [[3, 7, 9], [1, 0, 2], [5, 5, 4]]


class Attention(nn.Module):
    """Patches, a class token, one block, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(x), -1, -1), y], 1)
        return self.head(self.block(y)[:, 0])


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
    ).double()


def apart(model: nn.Module, x: Any, columns: Any, **options: Any) -> Tensor:
    """A call for each target."""
    return torch.cat([fullgrad.saliency(model, x, c, **options) for c in columns], 1)


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    scale = float(wanted.abs().max())
    assert scale > 0
    assert float((found - wanted).abs().max()) <= 1e-12 * scale


@pytest.mark.parametrize("build", [small, ResNetLike, Attention])
@pytest.mark.parametrize(
    ("target", "columns"),
    [
        ([[3, 7, 9]], [3, 7, 9]),
        (EACH, [[3, 1, 5], [7, 0, 5], [9, 2, 4]]),
        (torch.tensor(EACH), [[3, 1, 5], [7, 0, 5], [9, 2, 4]]),
        (np.array([[2, 4]]), [2, 4]),
        ([[3], [1], [5]], [[3, 1, 5]]),
        ([[6]], [6]),
        ([[(6,), (1,)]], [6, 1]),
        ([[margin(1, 2), against_rest(), 4]], None),
    ],
    ids=str,
)
def test_maps_are_those_of_separate_calls(build: Any, target: Any, columns: Any) -> None:
    model = seeded(build)
    if columns is None:  # numbers and callables do not mix
        with pytest.raises(TargetError, match="must be an integer, not"):
            fullgrad.saliency(model, X, [[4, margin(1, 2)], [4, 3], [margin(1, 2), 4]])
        target, columns = [target[0][:2]], [margin(1, 2), against_rest()]
    found = fullgrad.saliency(model, X, target)
    assert found.shape == (3, len(columns), 16, 16)
    close(found, apart(model, X, columns))
    for size in (1, 2, "auto"):
        close(fullgrad.saliency(model, X, target, batch_size=size), found)


@pytest.mark.parametrize(
    "options",
    [
        {"psi": "signed"},
        {"psi": "channel"},
        {"terms": "explicit"},
        {"method": "simple_fullgrad"},
        {"per_sample": False},
        {"mode": "as_is", "per_sample": False},
        {"tolerance": 1e-9},
        {"linearization": "balanced"},
    ],
    ids=str,
)
def test_options(options: dict[str, Any]) -> None:
    model = seeded(small)
    close(fullgrad.saliency(model, X, [[3, 7]], **options), apart(model, X, [3, 7], **options))


def test_the_highest_classes() -> None:
    model = seeded(small)
    rows = model(X).topk(4).indices
    found = fullgrad.saliency(model, X, top=4)
    close(found, fullgrad.saliency(model, X, rows))
    close(found[:, :1], fullgrad.saliency(model, X))
    close(fullgrad.saliency(model, X, top=1), found[:, :1])
    close(fullgrad.saliency(model, X, top=4, batch_size=2), found)


@pytest.mark.parametrize(
    "options", [{"target": [[3, 7]]}, {"top": 2}, {"target": [[margin(1, 2), log_probability()]]}]
)
def test_smooth_maps(options: dict[str, Any]) -> None:
    model = seeded(small)
    smooth = {"method": "smooth_fullgrad", "noise": fullgrad.Noise(samples=5, scale=0.5)}
    found = fullgrad.saliency(model, X, **options, **smooth)
    if "top" in options:
        columns: Any = model(X).topk(2).indices.unbind(1)
    else:
        columns = [options["target"][0][0], options["target"][0][1]]
    wanted = [fullgrad.saliency(model, X, c, **smooth) for c in columns]
    close(found, torch.cat(wanted, 1))
    close(fullgrad.saliency(model, X, **options, **smooth, batch_size=6), found)
    close(fullgrad.saliency(model, X, **options, **smooth, batch_size=2), found)


def test_several_inputs() -> None:
    def add(m: Any, left: Tensor, right: Tensor) -> Tensor:
        return m.fc((m.conv(left).tanh() + right.tanh()).mean((2, 3)))

    model = Snippet(add, conv=nn.Conv2d(3, 4, 3, padding=1))
    pair = (batch(2, 3, 8, 8), batch(2, 4, 8, 8, seed=1))
    found = fullgrad.saliency(model, pair, [[0, 2]])
    alone = [fullgrad.saliency(model, pair, c) for c in (0, 2)]
    for i in range(2):
        close(found[i], torch.cat([alone[0][i], alone[1][i]], 1))


def test_samples_that_axes_do_not_tell() -> None:
    """The second pass, which asks back-propagation, is taken for each target."""

    def turned(m: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x.permute(2, 0, 1).sort(0).values + torch.ones(4, dtype=x.dtype))
        return m.fc(y.mean(0))

    model, x = Snippet(turned), batch(3, 4, 5)
    options: dict[str, Any] = {"terms": "input", "layout": "BCT"}
    found = fullgrad.saliency(model, x, [[0, 1]], **options)
    close(found, apart(model, x, [0, 1], **options))


def test_the_model_is_left_as_it_was() -> None:
    model = dropout_net()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    x = batch(2, 3, 8, 8, seed=3).float().double().requires_grad_()
    fullgrad.saliency(model, x, [[0, 1, 2, 3]])
    assert len(calls) == 1
    assert model.training
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_all_targets_meet_the_same_dropout() -> None:
    model = dropout_net()
    x = batch(1, 3, 8, 8)
    options: dict[str, Any] = {"mode": "as_is", "psi": "signed"}
    torch.manual_seed(5)
    found = fullgrad.saliency(model, x, [[1, 4]], **options)
    wanted = []
    for c in (1, 4):
        torch.manual_seed(5)
        wanted.append(fullgrad.saliency(model, x, c, **options))
    close(found, torch.cat(wanted, 1))


def test_what_biases_are_made_of_is_let_go_in_the_last_pass_alone() -> None:
    seen: list[list[int]] = []

    def open_sink(traced: Any, number: int) -> Draw:
        seen.append([len(entry.held) for entry in traced.tape.entries])
        kept.append(traced.tape)
        return Draw(traced, selection("all"), "layer")

    kept: list[tape.Tape] = []
    pipeline.explain_each(Request(seeded(small), X, Several([[1, 2, 3]])), open_sink)
    assert seen[0] == seen[1] == seen[2]
    assert max(seen[0]) > 0
    assert all(entry.held == () for entry in kept[0].entries)


def second(output: Tensor) -> Tensor:
    return output[:, 2]


def spread(output: Tensor) -> Tensor:
    return output.amax(1) - output.amin(1)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"batch_size": 1}], ids=str)
def test_callables_in_a_list_for_all_samples_take_the_whole_output(options: Any) -> None:
    model = seeded(small)
    found = fullgrad.saliency(model, X, [[second, spread, 2, margin(None, 2), None]], **options)
    columns = [second, spread, 2, margin(None, 2), None]
    close(found, apart(model, X, columns))
    one = fullgrad.saliency(model, X[:1], [[second, spread]], **options)
    close(one, found[:1, :2])
    smooth: Any = {"method": "smooth_fullgrad", "noise": fullgrad.Noise(samples=3, scale=0.5)}
    found = fullgrad.saliency(model, X, [[spread, None, margin(None, 2)]], **smooth, **options)
    columns = [spread, None, margin(None, 2)]
    close(found, torch.cat([fullgrad.saliency(model, X, c, **smooth) for c in columns], 1))


@pytest.mark.parametrize("size", [None, 1, 2])
def test_callables_in_a_list_for_each_sample_take_its_output(size: Any) -> None:
    model = seeded(small)
    rows = [[lambda row, k=k: row[k], lambda row, k=k: row[k + 1]] for k in (3, 1, 5)]
    found = fullgrad.saliency(model, X, rows, batch_size=size)
    close(found, apart(model, X, [[3, 1, 5], [4, 2, 6]]))


@pytest.mark.parametrize("size", [None, 1, 2])
def test_a_callable_of_the_whole_output_in_a_list_for_each_sample(size: Any) -> None:
    model = seeded(small)
    for rows, what in (
        ([[second, spread]] * 3, "the target second failed on one sample's output, of shape (10,)"),
        ([[Tensor.exp, spread]] * 3, "must return one number for one sample's output, not shape"),
    ):
        with pytest.raises(TargetError, match=re.escape(what)) as caught:
            fullgrad.saliency(model, X, rows, batch_size=size)
        assert str(caught.value).endswith("single list for all samples: target=[[f, g]]")
    with pytest.raises(TargetError, match=r"is given alone: target=f$"):
        fullgrad.decompose(model, X, [second] * 3)
    assert fullgrad.decompose(model, X, second).output.shape == (3,)  # the way out
    assert fullgrad.saliency(model, X, [[second, spread]], batch_size=size).shape[:2] == (3, 2)


# -- meanings that were there before -----------------------------------------------------------


def dense(m: Any, x: Tensor) -> Tensor:
    return m.fc(m.conv(x).tanh().movedim(1, -1)).movedim(-1, 1)


def dense_model() -> Snippet:
    return Snippet(dense, conv=nn.Conv2d(2, 4, 3, padding=1))


def test_a_row_of_indices_into_a_dense_output_stays_one_index() -> None:
    model, x = dense_model(), batch(2, 2, 6, 6)
    rows = [[0, 1, 2], [2, 5, 3]]
    wanted = fullgrad.saliency(model, x, [(0, 1, 2), (2, 5, 3)])
    for target in (rows, torch.tensor(rows), np.array(rows)):
        found = fullgrad.saliency(model, x, target)
        assert found.shape == (2, 1, 6, 6)
        assert torch.equal(found, wanted)
    assert torch.equal(
        fullgrad.decompose(model, x, rows).output,
        fullgrad.decompose(model, x, [(0, 1, 2), (2, 5, 3)]).output,
    )
    several = fullgrad.saliency(model, x, [[(0, 1, 2), (2, 5, 3)]])
    close(several, apart(model, x, [(0, 1, 2), (2, 5, 3)]))
    mixed = [[(0, 1, 2), (1, 1, 1)], [(2, 5, 3), (0, 0, 0)]]
    columns = [[(0, 1, 2), (2, 5, 3)], [(1, 1, 1), (0, 0, 0)]]
    close(fullgrad.saliency(model, x, mixed), apart(model, x, columns))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[3, 7]], "needs a tuple of 3 indices per sample, not (3, 7)"),
        ([[3, 1, 1]], "target 3 is out of range for an output of size 3"),
        (torch.tensor([[0, 1, 2]] * 3), "3 lists of targets for a batch of 2 samples"),
    ],
    ids=str,
)
def test_rows_that_do_not_fit_a_dense_output(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=re.escape(message)):
        fullgrad.saliency(dense_model(), batch(2, 2, 6, 6), target)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"target": [[3, 10]]}, TargetError, "target 10 is out of range for an output of size 10"),
        ({"target": [[3, 7], [1, 2]]}, TargetError, "2 lists of targets for a batch of 3 samples"),
        ({"target": [[3, 7], [1]]}, TargetError, "as many targets as the others, and at least one"),
        ({"target": [[]]}, TargetError, "at least one, not 0"),
        ({"target": [[1.0, 2]]}, TargetError, "must be an integer, not 1.0"),
        ({"target": [[None, 2]] * 3}, TargetError, "must be an integer, not None"),
        ({"target": [["a"]]}, TargetError, "a callable or None, not str"),
        ({"target": torch.tensor([[1.0, 2.0]] * 3)}, TargetError, "must hold integers"),
        ({"target": (3, 7)}, TargetError, "inputs, target=[[3, 7]])"),
        ({"top": 11}, TargetError, "top=11, but the model has 10 classes"),
        ({"top": 0}, ValueError, "top must be a positive integer, not 0"),
        ({"top": True}, ValueError, "top must be a positive integer, not True"),
        ({"top": 2, "target": 3}, OptionError, "leave target out, or top"),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [None, 2])
def test_refusals(options: dict[str, Any], kind: type, message: str, size: Any) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        fullgrad.saliency(seeded(small), X, **options, batch_size=size)


def test_no_classes_to_take_the_highest_of() -> None:
    with pytest.raises(
        TargetError, match=r"top=2 needs an output of shape \(batch, classes\), not"
    ):
        fullgrad.saliency(dense_model(), batch(2, 2, 6, 6), top=2)
    with pytest.raises(TargetError, match="no class to choose: leave the target out"):
        model = Snippet(lambda m, x: m.fc(x.mean(2))[:, 0])
        fullgrad.saliency(model, batch(2, 4, 6), [[0, 1]], layout="BCT")


def test_other_calls_take_one_target() -> None:
    model = seeded(small)
    calls: list[Callable[..., Any]] = [
        fullgrad.FullGrad(model).attribute,
        partial(methods.attribute, "fullgrad", model),
        partial(quantus.explain, model),
    ]
    for call in calls:
        with pytest.raises(TargetError, match=r"one target for each sample, not 2: fullgrad.sal"):
            call(X, [[3, 7]])
    way_out = re.escape("fullgrad.saliency(model, inputs, target=[[3, 7]])")
    with pytest.raises(TargetError, match=way_out):
        fullgrad.decompose(model, X, [[3, 7]] * 3)
    with pytest.raises(TargetError, match=way_out):
        methods.attribute("input_x_gradient", model, X, [[3, 7]] * 3)
    with pytest.raises(TargetError, match=way_out):
        tokens.attribute_tokens(classifier(), ids(), [[3, 7]] * 3)
    with pytest.raises(OptionError, match="'top'; it is an option of saliency"):
        fullgrad.FullGrad(model).attribute(X, top=2)


def test_the_sum_of_every_target_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong gradient that only one of the targets meets."""

    class Wrong(torch.autograd.Function):
        pass

    def run(m: Any, x: Tensor) -> Tensor:
        y = x.mean((2, 3))
        bad = y[:, :1].tanh()
        bad.register_hook(lambda g: 2 * g)
        return torch.cat([m.fc(y), bad], 1)

    model, x = Snippet(run), batch(2, 4, 6, 6)
    assert fullgrad.saliency(model, x, [[0, 1, 2]]).shape == (2, 3, 6, 6)
    for rows in ([[0, 3]], [[3, 0]]):
        with pytest.raises(CompletenessError, match="do not sum to the output"):
            fullgrad.saliency(model, x, rows)


def test_an_output_of_cancelled_numbers_is_judged_by_itself() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.norm(x.mean((2, 3)))
        return torch.cat([m.fc(y), y.mean(1, keepdim=True)], 1)

    model = Snippet(run, norm=nn.LayerNorm(4))
    x = batch(2, 4, 6, 6)
    for rows in ([[0, 3, 1]], [[3, 0, 1]]):
        found = fullgrad.saliency(model, x, rows, terms="input", psi="signed")
        wanted = apart(model, x, rows[0], terms="input", psi="signed")
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-15)


def test_a_target_without_gradient_is_named() -> None:
    model = Snippet(lambda m, x: torch.cat([m.fc(x.mean(2)), torch.ones(2, 1).double()], 1))
    assert fullgrad.saliency(model, batch(2, 4, 6), [[0, 1]], layout="BCT").shape == (2, 2, 6)
