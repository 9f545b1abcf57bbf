"""Each kind of target: its number, that it is exact, in every call, in minibatches and in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import TargetError
from fullgrad.targets import (
    Described,
    instance,
    log_probability,
    margin,
    neuron,
    one_class,
    region,
    regression,
    several_classes,
    similarity,
    similarity_to_input,
    token,
    words,
)

B, SIDE = 3, 8
X = torch.rand(B, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
MASK = torch.zeros(SIDE, SIDE)
MASK[2:5, 1:4] = torch.tensor([1.0, 0.5, 2.0])
EACH = torch.stack([MASK, MASK.T, 1 - MASK.clamp(max=1)])
VECTOR = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25])


def body(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(4, 5, 3, padding=1), nn.GELU(), *more).double().eval()


def classifier() -> nn.Module:
    return body(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def dense() -> nn.Module:
    return body()


class Sequences(nn.Module):
    """Outputs of shape (batch, positions, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body(nn.Flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).transpose(1, 2)


class Queries(nn.Module):
    """Boxes and logits, as DETR returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body(nn.AdaptiveAvgPool2d(2), nn.Flatten(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x).transpose(1, 2)  # (B, 4 queries, 5 classes)
        boxes = torch.tensor([[x, y, 0.5, 0.5] for y in (0.25, 0.75) for x in (0.25, 0.75)])
        return {"logits": y, "pred_boxes": boxes.expand(len(x), 4, 4) + 0.01 * y[:, :, :4].tanh()}


class Detections(nn.Module):
    """A list with boxes, scores and labels of each sample, sorted by score."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = Queries()

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = []
        out = self.queries(x)
        best = out["logits"].softmax(-1).max(-1)
        for scores, labels, boxes in zip(*best, out["pred_boxes"], strict=True):
            order = scores.argsort(descending=True)
            corners = torch.cat(
                [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1
            )
            found.append(
                {"boxes": corners[order], "scores": scores[order], "labels": labels[order]}
            )
        return found


def detected(model: nn.Module, x: Tensor) -> Tensor:
    """The score of the box in the lower right corner, by hand."""
    return model.queries(x)["logits"].softmax(-1).amax(-1)[:, 3]


def where_predicted(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x)
    return (y[:, 2] * (y.detach().argmax(1) == 2)).sum((1, 2))


def at(position: int, id: int) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda m, x: m(x)[:, position, id]


Case = tuple[Callable[[], nn.Module], Any, Callable[[nn.Module, Tensor], Tensor], str]
CASES: dict[str, Case] = {
    "one class": (classifier, one_class(3), lambda m, x: m(x)[:, 3], "class 3"),
    "predicted": (classifier, one_class(), lambda m, x: m(x).amax(1), "class"),
    "several": (
        classifier,
        several_classes([1, 4], [1, -0.5]),
        lambda m, x: m(x)[:, 1] - m(x)[:, 4] / 2,
        "class 1 + -0.5 x class 4",
    ),
    "regression": (
        classifier,
        regression("height", "m", index=2, scale=3, offset=-1.5),
        lambda m, x: m(x)[:, 2] * 3 - 1.5,
        "height in m (output 2 x 3 - 1.5)",
    ),
    "similarity": (
        classifier,
        similarity(VECTOR, name="the prototype"),
        lambda m, x: torch.cosine_similarity(m(x), VECTOR.double()[None]),
        "cosine similarity to the prototype",
    ),
    "each vector": (
        classifier,
        similarity(torch.stack([VECTOR, -VECTOR, VECTOR * 2 + 1]), measure="dot"),
        lambda m, x: (m(x) * torch.stack([VECTOR, -VECTOR, VECTOR * 2 + 1])[: len(x)]).sum(1),
        "dot product with a vector",
    ),
    "region": (
        dense,
        region(2, MASK),
        lambda m, x: (m(x)[:, 2] * MASK).sum((1, 2)),
        "class 2 in 9 of 64 positions",
    ),
    "mean of a region": (
        dense,
        region(2, MASK > 0, mean=True),
        lambda m, x: m(x)[:, 2, 2:5, 1:4].mean((1, 2)),
        "mean of class 2 in 9 of 64 positions",
    ),
    "each mask": (
        dense,
        region(0, EACH, each_sample=True),
        lambda m, x: (m(x)[:, 0] * EACH[: len(x)]).sum((1, 2)),
        "class 0 in a mask for each sample",
    ),
    "a small mask": (
        dense,
        region(1, torch.eye(2), fit=True),
        lambda m, x: m(x)[:, 1, :4, :4].sum((1, 2)) + m(x)[:, 1, 4:, 4:].sum((1, 2)),
        "class 1 in 2 of 4 positions",
    ),
    "where predicted": (dense, region(2), where_predicted, "class 2 where it is predicted"),
    "token": (Sequences, token(-2, 4), at(-2, 4), "token 4 at position -2"),
    "answer": (
        Sequences,
        token([0, 5], [1, 2], log=True),
        lambda m, x: m(x).log_softmax(2)[:, 0, 1] + m(x).log_softmax(2)[:, 5, 2],
        "log-probability of token 1 at position 0 + token 2 at position 5",
    ),
    "predicted token": (
        Sequences,
        token(3),
        lambda m, x: m(x)[:, 3].amax(1),
        "the predicted token at position 3",
    ),
    "neuron": (
        classifier,
        neuron("1", (2, 3, 4)),
        lambda m, x: m[1](m[0](x))[:, 2, 3, 4],
        "neuron (2, 3, 4) of 1",
    ),
    "channel": (
        dense,
        neuron("3", 1),
        lambda m, x: m[:4](x.clone())[:, 1].mean((1, 2)),
        "neuron 1 of 3",
    ),
    "query": (
        Queries,
        instance(2, c=1),
        lambda m, x: m(x)["logits"][:, 2, 1],
        "score of class 1 of box 2",
    ),
    "query by box": (
        Queries,
        instance(box=(0.5, 0, 1, 0.4), form="cxcywh"),
        lambda m, x: m(x)["logits"][:, 1].amax(1),
        "score of the box that overlaps (0.5, 0, 1, 0.4) best",
    ),
    "detection": (
        Detections,
        instance(box=(0.6, 0.6, 1, 1)),
        detected,
        "score of the box that overlaps (0.6, 0.6, 1, 1) best",
    ),
    "margin of them": (
        dense,
        margin(region(2, MASK), region(1)),
        lambda m, x: (
            (m(x)[:, 2] * MASK).sum((1, 2))
            - (m(x)[:, 1] * (m(x).detach().argmax(1) == 1)).sum((1, 2))
        ),
        "class 2 in 9 of 64 positions rather than class 1 where it is predicted",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_is_exact_in_every_call(case: str) -> None:
    build, target, by_hand, said = CASES[case]
    model = build().double().eval()
    leaf = X.clone().requires_grad_()
    wanted = by_hand(model, leaf)
    (gradient,) = torch.autograd.grad(wanted.sum(), leaf)
    d = fullgrad.decompose(model, X, target)
    torch.testing.assert_close(d.output, wanted.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(d.input_gradients[0], gradient, rtol=1e-9, atol=1e-12)
    assert d.output_source.startswith(said)
    whole = fullgrad.saliency(model, X, target, psi="signed")
    parts = fullgrad.saliency(model, X, target, psi="signed", batch_size=2)
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)
    complete = fullgrad.complete_map(model, X, target)
    total = complete.map.flatten(1).sum(1) + complete.elsewhere + complete.residual
    torch.testing.assert_close(total, wanted.detach(), rtol=1e-9, atol=1e-9)
    attributed = methods.attribute("input_gradient", model, X, target, signed=True, batch_size=2)
    torch.testing.assert_close(attributed, gradient.sum(1, keepdim=True), rtol=1e-9, atol=1e-12)
    own = methods.attribute("fullgrad", model, X, target, psi="signed")
    torch.testing.assert_close(own, whole, rtol=1e-9, atol=1e-12)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("case", ["several", "where predicted", "neuron", "detection", "token"])
def test_each_kind_is_one_of_several_targets(case: str) -> None:
    build, target, _, _ = CASES[case]
    model = build().double().eval()
    found = fullgrad.saliency(model, X, [[target, target]], batch_size=2)
    alone = fullgrad.saliency(model, X, target)
    torch.testing.assert_close(found, alone.expand_as(found))


@pytest.mark.parametrize(
    "case", ["similarity", "where predicted", "predicted token", "query by box"]
)
def test_what_the_output_decides_is_that_of_the_input_itself(case: str) -> None:
    """Noisy copies and paths keep to it."""
    build, target, _, _ = CASES[case]
    model = build().double().eval()
    output = model(X)
    settled = target.settled(output)
    assert settled.is_open is False
    noise = fullgrad.Noise(samples=3, scale=2.0)
    smooth: dict[str, Any] = {"method": "smooth_fullgrad", "noise": noise}
    found = [fullgrad.saliency(model, X, t, **smooth) for t in (target, settled)]
    torch.testing.assert_close(*found)
    steps = [
        methods.attribute("integrated_gradients", model, X, t, n_steps=3) for t in (target, settled)
    ]
    torch.testing.assert_close(*steps)


def test_targets_for_each_sample() -> None:
    model, each = dense(), [region(k, MASK) for k in (0, 3, 1)]
    found = fullgrad.decompose(model, X, each)
    wanted = torch.stack([(model(X)[i, k] * MASK).sum() for i, k in enumerate((0, 3, 1))])
    torch.testing.assert_close(found.output, wanted.detach())
    with pytest.raises(TargetError, match="is explained in all samples of a batch, not in one"):
        fullgrad.decompose(classifier(), X, [neuron("0", (0, 0, 0))] * 3)


def test_an_input_like_another() -> None:
    model = classifier()
    alike = similarity_to_input(model, X[:1], name="the first")
    found = fullgrad.decompose(model, X, alike).output
    torch.testing.assert_close(found, torch.cosine_similarity(model(X), model(X[:1])).detach())
    assert float(found[0]) == pytest.approx(1)
    pairs = fullgrad.decompose(model, X, similarity_to_input(model, X.flip(0))).output
    torch.testing.assert_close(pairs, torch.cosine_similarity(model(X), model(X.flip(0))).detach())
    with pytest.raises(TargetError, match=r"that returns shape \(batch, D\), not \(3, 5, 8, 8\)"):
        similarity_to_input(dense(), X)


def test_a_layer_that_is_overwritten_or_called_twice() -> None:
    """ReLU works in place on the layer's output here, and the number is the layer's own."""
    model = classifier()
    convolution = fullgrad.decompose(model, X, neuron("0", (1, 2, 3))).output
    torch.testing.assert_close(convolution, model[0](X)[:, 1, 2, 3].detach())

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.idle = nn.Linear(8, 8).double(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())[:, 0, 0]

    twice = Twice()
    for call in (0, 1):
        found = fullgrad.decompose(twice, X, neuron("layer", (0, 0, 1), call=call)).output
        y = twice.layer(X)
        wanted = y if call == 0 else twice.layer(y.relu())
        torch.testing.assert_close(found, wanted[:, 0, 0, 1].detach())
    for target, message in (
        (neuron("layer", 0), "called layer 2 times: say which with call=0 to call=1"),
        (neuron("layer", 0, call=2), "call=2 of layer, which the model called 2 times"),
        (neuron("idle", 0), "the model did not call idle"),
        (neuron("lair", 0), r"the model has no layer 'lair'; did you mean layer\?"),
        (neuron("", 0), "the model has no layer ''"),
        (neuron("layer", (0, 0, 9), call=0), "index .* is out of range: layer returns shape"),
        (neuron("layer", (0, 0, 0, 0), call=0), r"which has no index \(0, 0, 0, 0\)"),
    ):
        with pytest.raises(TargetError, match=message):
            fullgrad.saliency(twice, X, target)
    with pytest.raises(TargetError, match="is known only while fullgrad runs the model: pass this"):
        neuron("layer", 0)(X)


@pytest.mark.parametrize(
    ("build", "target", "message"),
    [
        (classifier, lambda: one_class(9), "target 9 is out of range"),
        (classifier, lambda: several_classes([1, 7]), "target 7 is out of range for an output of"),
        (classifier, lambda: several_classes([]), "needs at least one class"),
        (classifier, lambda: several_classes([1, 1]), "has class 1 twice; give it a weight of 2"),
        (classifier, lambda: several_classes([1], [1, 2]), "2 weights for 1 classes"),
        (classifier, lambda: several_classes([0.5]), "a class must be a whole number, not 0.5"),
        (
            dense,
            lambda: several_classes([1]),
            r"several_classes needs an output of shape \(batch, cl",
        ),
        (
            classifier,
            lambda: regression(),
            "does not hold one number for each sample where index is None",
        ),
        (classifier, lambda: regression(index=5), "index 5 is out of range for 5 numbers"),
        (classifier, lambda: regression(scale=0), "scale must be finite and not 0"),
        (classifier, lambda: similarity([1.0, 2.0]), "to a vector of 2 numbers needs an output of"),
        (
            classifier,
            lambda: similarity(EACH[:2, 0, :5]),
            "a vector of zeros has no direction: use me",
        ),
        (classifier, lambda: similarity(torch.ones(2, 5)), "vectors for 2 samples, a batch of 3"),
        (classifier, lambda: similarity("text"), "a vector is an array of numbers, not str"),
        (classifier, lambda: similarity(EACH), r"needs a vector of shape \(D,\) or \(batch, D\)"),
        (classifier, lambda: similarity([float("nan")]), "the vector holds NaN"),
        (classifier, lambda: similarity([1.0], measure="l2"), "measure must be 'cosine' or 'dot'"),
        (
            classifier,
            lambda: region(1),
            r"region needs an output of shape \(batch, classes, \*posi",
        ),
        (dense, lambda: region(5, MASK), "target 5 is out of range for an output of size 5"),
        (dense, lambda: region(1, MASK[:4]), r"mask is 4x8, and the output 8x8: give .*fit=True\)"),
        (dense, lambda: region(1, MASK * 0), "the mask marks nothing"),
        (dense, lambda: region(1, EACH * 0, each_sample=True), "mask of sample 0 marks nothing"),
        (
            dense,
            lambda: region(1, EACH[:2], each_sample=True),
            "masks of 2 samples for a batch of 3",
        ),
        (dense, lambda: region(1, -MASK), "holds numbers that are negative or not finite"),
        (dense, lambda: region(1, "m.png"), "a mask is an array of numbers, not str"),
        (dense, lambda: region(1, 1.0), r"a mask of shape \(\) has no positions"),
        (
            dense,
            lambda: region(1, fit=True),
            "fit and each_sample belong to a mask, and there is no mask",
        ),
        (Sequences, lambda: token(64, 1), "position 64 is out of range for 64 positions"),
        (Sequences, lambda: token(1, 5), "token id 5 is out of range for a vocabulary of 5"),
        (Sequences, lambda: token([1, 2], [1]), "1 token ids for 2 positions"),
        (Sequences, lambda: token([]), "token needs at least one position"),
        (
            classifier,
            lambda: token(1, 1),
            r"token needs an output of shape \(batch, positions, voc",
        ),
        (classifier, lambda: neuron("0", ()), "needs the path of a layer and at least one index"),
        (classifier, lambda: instance(0), "finds no boxes in the model's output"),
        (Queries, lambda: instance(4), "box 4 is out of range: sample 0 has 4 boxes"),
        (Queries, lambda: instance(0, c=5), "target 5 is out of range for boxes of 5 classes"),
        (
            Queries,
            lambda: instance(box=(5, 5, 6, 6)),
            r"none of the 4 boxes of sample 0 overlaps \(5",
        ),
        (Detections, lambda: instance(box=(0, 0, 1, 1), c=9), "of sample 0 of class 9 overlaps"),
        (Queries, lambda: instance(), "needs either the number of a box, or box="),
        (
            Queries,
            lambda: instance(box=(1, 1, 0, 2)),
            "box must be .left, top, right, bottom. with",
        ),
        (Queries, lambda: instance(0, form="xywh"), "form must be 'xyxy' or 'cxcywh', not 'xywh'"),
    ],
)
def test_targets_that_do_not_fit(
    build: Callable[[], nn.Module], target: Callable[[], Any], message: str
) -> None:
    with pytest.raises(TargetError, match=message):
        fullgrad.decompose(build().double().eval(), X, target())


def test_a_class_that_is_predicted_nowhere() -> None:
    model = dense()
    with torch.no_grad():
        model[3].bias[1] -= 100
    with pytest.raises(
        TargetError, match="class 1 is predicted nowhere in sample 0: choose another"
    ):
        fullgrad.decompose(model, X, region(1))


def test_names_of_classes_are_in_the_words() -> None:
    names = ["cat", "dog", "cow"]
    for target, said in (
        (log_probability(1), "log-probability of dog"),
        (margin(0, several_classes([1, 2])), "cat rather than dog + cow"),
        (region(2, MASK), "cow in 9 of 64 positions"),
        (token(0, 1), "token 'dog' at position 0"),
        (instance(1, c=0), "score of cat of box 1"),
        (margin([0, 1], 2), "cat, dog rather than cow"),
    ):
        assert isinstance(target, Described)
        assert target.describe(names) == said == words(target, names)


def test_vectors_and_masks_made_in_inference_mode() -> None:
    model, encoder = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(4, 5)
    with torch.inference_mode():
        fullgrad.decompose(encoder, torch.ones(2, 4), similarity(torch.randn(5)))
        fullgrad.decompose(model, X.float(), region(2, torch.rand(SIDE, SIDE)))
