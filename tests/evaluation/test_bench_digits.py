"""Digit flipping, and the agreement of tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fullgrad.cli.main import main
from fullgrad.evaluation.agreement import agreement
from fullgrad.evaluation.datasets import DataError, Labeled, open_digits
from fullgrad.evaluation.store import StoreError
from fullgrad.evaluation.tests import digit_flipping
from fullgrad.evaluation.tests.digit_flipping import (
    Choice,
    DigitFlipping,
    FlippingPlan,
    erased,
    ranked,
)
from fullgrad.evaluation.tests.digit_network import network, trained
from fullgrad.evaluation.training.loop import Trained


def shapes(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten kinds of strokes that a small network learns in a moment."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pixels = np.zeros((count, 28, 28), np.uint8)
    for i, label in enumerate(labels):
        a, b = 4 + generator.integers(0, 3, 2)
        if label < 5:
            pixels[i, a + 4 * label : a + 4 * label + 3, b : b + 16] = 255
        else:
            pixels[i, b : b + 16, a + 4 * (label - 5) : a + 4 * (label - 5) + 3] = 255
    return pixels, labels.astype(np.uint8)


def labeled(pixels: np.ndarray, labels: np.ndarray) -> Labeled:
    return Labeled(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64)), "")


def idx(values: np.ndarray) -> bytes:
    head = np.array([0x800 + values.ndim, *values.shape], ">i4")
    return head.tobytes() + values.tobytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels, labels = shapes()
    Path("digits").mkdir()
    Path("digits/t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    Path("digits/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


FAST = ["fullgrad", "fullgrad/absolute", "input_x_gradient", "random"]


def command(*more: str, out: str = "out", chosen: object = FAST) -> list[str]:
    return [
        "bench",
        "digit-flipping",
        "--digits",
        "digits",
        "--out",
        out,
        "--epochs",
        "12",
        "--methods",
        *list(chosen),
        "--pairs",
        "8-3",
        "1-7",
        "--pixels",
        "5",
        "40",
        *more,
    ]


def test_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(out="one")) == 0
    said = capsys.readouterr().out
    assert "fall of the log-odds with 40 pixels erased" in said
    assert main(command(out="two")) == 0
    for name in ("results.csv", "results.parquet", "summary.csv"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name
    rows = pd.read_csv("one/results.csv")
    assert set(rows["pair"]) == {"8→3", "1→7"}
    assert set(rows["method"]) == {"fullgrad", "fullgrad (absolute)", "input_x_gradient", "random"}
    assert (rows["erased"] <= rows["pixels"]).all()
    np.testing.assert_allclose(rows["change"], rows["odds_before"] - rows["odds_after"])
    last = rows[rows["pixels"] == 40].groupby("method")["change"].mean()
    assert last["fullgrad"] > last["random"]
    record = json.loads(Path("one/record.json").read_text())
    assert record["accuracy"] > 0.9
    for name in ("curves.png", "examples.png"):
        assert Path("one", name).stat().st_size > 5000
    capsys.readouterr()
    assert main(command(out="one")) == 0
    assert "finished before" in capsys.readouterr().out


def test_a_lost_network_and_a_lost_part_are_made_again(here: Path) -> None:
    assert main(command()) == 0
    whole = Path("out/results.csv").read_bytes()
    (network,) = (p for p in Path("out/stages").glob("*.stage") if "-" not in p.name)
    network.write_bytes(b"damaged")
    next(Path("out/stages").glob("*-000001.stage")).unlink()
    Path("out/results.csv").unlink()
    assert main(command()) == 0
    assert Path("out/results.csv").read_bytes() == whole


class Linear(nn.Module):
    """Logits are sums of weighted pixels."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.to(x).t()


def test_on_a_linear_network_in_closed_form() -> None:
    """Signed maps rank pixels by what they are worth, and the log-odds fall by just that."""
    weights = torch.randn(10, 784, generator=torch.Generator().manual_seed(0))
    pixels, labels = shapes()
    test = labeled(pixels, labels)
    own = test.rows((test.labels == 8).nonzero()[:, 0])
    weights[8] += 0.5 * own.inputs().mean(0).flatten()
    plan = FlippingPlan(
        digits="",
        content="",
        choices=(Choice.parse("input_x_gradient"),),
        pairs=((8, 3),),
        pixels=(3, 30),
        count=5,
    )
    flipping = DigitFlipping(plan, test, test, Linear(weights))
    rows = pd.DataFrame(flipping.part(0)[0])
    assert len(rows) == 2 * 5
    x = test.rows(flipping.chosen(8)).inputs()
    worth = x.flatten(1) * (weights[8] - weights[3])
    best = worth.clamp(min=0).sort(1, descending=True)[0]
    for count, group in rows.groupby("pixels"):
        np.testing.assert_allclose(group["change"], best[:, :count].sum(1), rtol=1e-4)


def test_only_positive_pixels_are_erased() -> None:
    difference = torch.tensor([[3.0, -1.0, 2.0, 0.0], [-1.0, -2.0, -3.0, -4.0]]).view(2, 1, 2, 2)
    order, positive = ranked(difference)
    assert positive.tolist() == [2, 0]
    x = torch.ones(2, 1, 2, 2)
    assert erased(x, order, positive, 1).flatten(1).tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert erased(x, order, positive, 4).flatten(1).tolist() == [[0, 1, 0, 1], [1, 1, 1, 1]]
    assert bool((x == 1).all())


def test_training_is_the_same_again_and_keeps_the_random_state() -> None:
    pixels, labels = shapes(60)
    data = labeled(pixels, labels)
    state = torch.get_rng_state()
    one, two = (trained(data, data, 1, 3).state for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.items():
        assert torch.equal(value, two[name])
    assert network()(data.inputs()).shape == (60, 10)
    train, test = data.split(0.25, 0)
    assert len(train.labels) + len(test.labels) == 60
    assert torch.bincount(test.labels, minlength=10).tolist() == [2] * 10


def test_sources(here: Path) -> None:
    expected = open_digits("digits")
    assert expected.images.shape == (200, 1, 28, 28)
    for i, (image, label) in enumerate(
        zip(expected.images[:, 0].numpy(), expected.labels.tolist(), strict=True)
    ):
        Path(f"folder/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(f"folder/{label}/{i:03d}.png")
    found = open_digits("folder")
    order = expected.labels.argsort(stable=True)
    assert torch.equal(found.images, expected.images[order])
    Path("plain").mkdir()
    for kind in ("images-idx3", "labels-idx1"):
        content = gzip.decompress(Path(f"digits/t10k-{kind}-ubyte.gz").read_bytes())
        Path(f"plain/t10k-{kind}-ubyte").write_bytes(content)
    assert open_digits("plain").digest() == expected.digest()
    damage = Path("plain/t10k-images-idx3-ubyte")
    whole = damage.read_bytes()
    for content, message in (
        (whole[:-5], "is truncated"),
        (b"\0" * 40, "is not an idx file of the kind"),
        (whole[:2], "is not an idx file of the kind"),
        (b"\x1f\x8b" + whole, "cannot be read"),
        (idx(np.zeros((3, 28, 28), np.uint8)), "3 images, 200 labels"),
    ):
        damage.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_digits("plain")
    Path("plain/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="has no labels"):
        open_digits("plain")
    for spec, message in (
        ("none", "none is not a folder"),
        (".", "holds neither MNIST's idx files nor a folder 0 of images"),
        ("torchvision:none", "torchvision's MNIST cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            open_digits(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (command("--pairs", "83"), "--pairs '83' is not of the form A-B, like 8-3"),
        (command("--pairs", "8-8"), "a pair is two different digits, not 8 and 8"),
        (command("--pairs", "8-12"), "a pair is two different digits, not 8 and 12"),
        (command("--pixels", "0", "5"), "pixels must be positive"),
        (command("--pixels", "900"), "a digit has 784 pixels, 900 cannot be erased"),
        (command("--count", "0"), "count must be at least 1, not 0"),
        (command("--test-share", "1"), "test_share must lie between 0 and 1, not 1.0"),
        (command(chosen=["sobel"]), "method 'sobel' has no sign"),
        (command(chosen=["fullgrad/signed"]), "only '/absolute' may stand behind a method"),
        (command(chosen=["fullgrad", "fullgrad"]), "asked for twice: fullgrad"),
        (command("--digits", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_no_digit_is_told_right(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: torch.zeros_like(value) for name, value in network().state_dict().items()}
    made = Trained(0.1, 0.0, 0.0, state)  # names the first class, which no pair is of
    monkeypatch.setattr(digit_flipping, "trained", lambda *a: made)
    assert main(command()) == 2
    assert "no test digit of these pairs is classified right" in capsys.readouterr().err


# -- agreement --------------------------------------------------------------------------------


def run_of(folder: str, areas: dict[str, dict[str, float]]) -> Path:
    """A finished run with given scores, by order."""
    Path(folder).mkdir()
    rows = [
        {
            "image": i,
            "method": m,
            "run": 0,
            "order": order,
            "fill": "black",
            "fraction": f,
            "relative_change": value,
        }
        for order, scores in areas.items()
        for m, value in scores.items()
        for i in range(2)
        for f in (0.01, 0.1)
    ]
    pd.DataFrame(rows).to_csv(f"{folder}/results.csv", index=False)
    Path(folder, "plan.json").write_text("{}")
    return Path(folder)


def test_tests_that_agree_and_disagree(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 3.0, "random": 4.0}
    least = run_of("one", {"least": scores})
    same = run_of("two", {"least": {**scores, "d": 9.0}})
    found = agreement([least, same])
    assert found.correlations["correlation"].tolist() == [1.0]
    assert found.correlations["methods"].tolist() == [4]
    assert found.cautions == (
        "All tests agree strongly (lowest rank correlation +1.00).",
        "Under “two: least first, black” random order is better than d: the test "
        "rewards scattered pixels, or these maps fail it.",
    )
    most = run_of("three", {"most": scores})  # where high is good, the order is turned round
    found = agreement([least, most])
    assert found.correlations["correlation"].tolist() == [-1.0]
    assert found.ranks.loc["a"].tolist() == [1, 4]
    assert "1 of 1 pairs of tests disagree" in found.cautions[0]
    assert any("random moves most" in c or "a moves most" in c for c in found.cautions)
    assert main(["bench", "agreement", "one", "three", "--out", "report"]) == 0
    assert sorted(p.name for p in Path("report").iterdir()) == [
        "agreement.md",
        "correlations.csv",
        "ranks.csv",
    ]
    assert "| **A** | +1.00 | -1.00 |" in capsys.readouterr().out
    few = run_of("four", {"least": {"a": 1.0, "z": 2.0}})
    assert (
        agreement([least, few]).cautions[0]
        == "No two tests have three methods in common, so nothing can be said."
    )


def test_agreement_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run_of("one", {"least": {"a": 1.0, "b": 2.0}})
    Path("empty").mkdir()
    Path("odd").mkdir()
    Path("odd/plan.json").write_text("{}")
    Path("odd/results.csv").write_text("x\n1\n")
    for folders, message in (
        ([one], "one test alone cannot agree or disagree"),
        ([one, one], "two runs are named 'one'"),
        ([one, Path("empty")], "empty holds no finished run"),
        ([one, Path("odd")], "odd holds results of an unknown kind"),
    ):
        with pytest.raises(StoreError, match=message):
            agreement(folders)
    assert main(["bench", "agreement", "empty"]) == 2
    assert "holds no finished run" in capsys.readouterr().err
