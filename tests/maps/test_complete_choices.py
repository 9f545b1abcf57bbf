"""What a complete map may be asked for: a linearization, a reference, as a method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad import methods
from fullgrad.errors import InputError

DOUBLE = torch.float64


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 3 * 3, 5)).double()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 12, 12, dtype=DOUBLE)


def whole(found: fullgrad.CompleteMap) -> Tensor:
    return found.map.flatten(1).sum(1) + found.elsewhere


def test_linearizations_have_maps_of_one_sum() -> None:
    model, x = network(), images()
    jacobian, balanced = (
        fullgrad.complete_map(model, x, 2, linearization=name) for name in ("jacobian", "balanced")
    )
    assert (jacobian.map - balanced.map).abs().max() > 1e-3
    for found in (jacobian, balanced):
        torch.testing.assert_close(whole(found), found.output)
    assert (jacobian.linearization, balanced.linearization) == ("jacobian", "balanced")
    chosen = fullgrad.Linearization("balanced", modules={"3": "jacobian"})
    mixed = fullgrad.complete_map(model, x, 2, linearization=chosen)
    assert mixed.linearization == "balanced with 1 choice of its own"


REFERENCES = {
    "number": 0.3,
    "one image": torch.linspace(-1, 1, 3 * 12 * 12, dtype=DOUBLE).view(1, 3, 12, 12),
    "an image for each": torch.linspace(-1, 1, 3 * 3 * 12 * 12, dtype=DOUBLE).view(3, 3, 12, 12),
    "a list": [torch.full((1, 3, 12, 12), 0.3, dtype=DOUBLE)],
}


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES)
def test_a_reference_splits_the_input_term(reference, batch_size: int | None) -> None:
    model, x = network(), images()
    d = fullgrad.decompose(model, x, 2)
    plain = fullgrad.complete_map(model, x, 2)
    found = fullgrad.complete_map(model, x, 2, baseline=reference, batch_size=batch_size)
    given = reference[0] if isinstance(reference, list) else reference
    at = d.input_gradients[0] * given
    torch.testing.assert_close(found.map, plain.map - at.sum(1, keepdim=True))
    torch.testing.assert_close(found.elsewhere_by_stage["reference"], at.flatten(1).sum(1))
    torch.testing.assert_close(whole(found), found.output)
    assert (
        found.zero == ("0.3 everywhere in the input" if reference == 0.3 else "the given baseline")
        if isinstance(reference, float)
        else found.zero == "the given baseline"
    )
    assert plain.zero == "zero of the input"


def test_the_output_is_explained_and_its_difference_by_the_target() -> None:
    model, x = network(), images()
    x0 = images(1)
    y0 = model(x0)[:, 2].detach()
    plain = fullgrad.complete_map(model, x, 2)
    split = fullgrad.complete_map(model, x, 2, baseline=x0)
    torch.testing.assert_close(split.output, plain.output)  # f(x), not f(x) - f(x0)
    found = fullgrad.complete_map(model, x, lambda y: y[:, 2] - y0, baseline=x0)
    torch.testing.assert_close(found.output, model(x)[:, 2].detach() - y0)
    torch.testing.assert_close(whole(found), found.output)
    torch.testing.assert_close(found.map, split.map)
    torch.testing.assert_close(found.elsewhere_by_stage[""], -y0.expand(3))


def test_the_input_is_nothing_at_its_own_reference() -> None:
    model, x = network(), images()
    found = fullgrad.complete_map(model, x, 2, terms="input", baseline=x)
    assert not found.map.any()


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("median", ValueError, "baseline must be a number, a tensor or 'mean', not 'median'"),
        (torch.zeros(1, 3, 4, 4), InputError, r"a baseline must have shape \(3, 3, 12, 12\) or"),
        ([0.0, 0.0], InputError, "2 baselines were given for 1 inputs"),
    ],
)
def test_references_that_do_not_fit(reference, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fullgrad.complete_map(network(), images(), 2, baseline=reference)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("complete_fullgrad", {}),
        ("balanced_fullgrad", {"linearization": "balanced"}),
        ("balanced_input", {"linearization": "balanced", "terms": "input"}),
    ],
)
def test_methods_are_complete_maps(name: str, options: dict) -> None:
    model, x = network(), images()
    expected = fullgrad.complete_map(model, x, 2, **options).map
    assert torch.equal(methods.attribute(name, model, x, 2), expected)
    with pytest.raises(ValueError, match="linearization must be"):
        methods.attribute(name, model, x, 2, linearization="other")


@pytest.mark.parametrize("linearization", ["jacobian", "balanced"])
def test_terms_that_a_model_does_not_have_make_a_zero_map(linearization: Any) -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    model, x = nn.Sequential(*layers).double(), images()
    found = fullgrad.complete_map(model, x, 2, terms="implicit", linearization=linearization)
    assert found.map.shape == (3, 1, 12, 12)
    assert not found.map.any()
    assert list(found.elsewhere_by_stage) == ["left out"]  # nothing implicit is elsewhere
    torch.testing.assert_close(found.elsewhere, found.output)
    smooth = nn.Sequential(layers[0], nn.GELU(), *layers[2:]).double()  # none with balanced alone
    found = fullgrad.complete_map(smooth, x, 2, terms="implicit", linearization=linearization)
    assert bool(found.map.any()) == (linearization == "jacobian")
    torch.testing.assert_close(whole(found), found.output)
    two = fullgrad.complete_map(
        model, x, [[2, 3]], terms="implicit", linearization=linearization, batch_size=2
    )
    assert two.map.shape == (3, 2, 12, 12)
    assert not two.map.any()
    heat = methods.attribute("complete_fullgrad", model, x, 2, terms="implicit")
    assert not heat.any()


def test_a_module_without_places_and_one_that_there_is_not() -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    model, x = nn.Sequential(*layers).double(), images()
    found = fullgrad.complete_map(model, x, 2, terms="3")
    assert not found.map.any()
    assert sorted(found.elsewhere_by_stage) == ["3", "left out"]
    bias = model[3].bias[2].detach().expand(3)
    torch.testing.assert_close(found.elsewhere_by_stage["3"], bias)
    torch.testing.assert_close(whole(found), found.output)
    for typo in ("implicits", "4", ["3", "impicit"]):
        with pytest.raises(ValueError, match="terms must be one of all, explicit"):
            fullgrad.complete_map(model, x, 2, terms=typo)
