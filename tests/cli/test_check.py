"""``fullgrad check`` says what decompose says, readably, or in one line why it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fullgrad
from checked_models import SOURCE
from fullgrad._files import sha256_of
from fullgrad.cli.main import main
from fullgrad.vision.check import statistics
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import load_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with small models and a photograph."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    return tmp_path


def check(
    capsys: pytest.CaptureFixture[str], *arguments: str, make: str = "small"
) -> tuple[str, dict[str, Any]]:
    """What it prints, and the JSON file."""
    assert main(["check", f"own.py:{make}", *arguments, "--json", "check.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("\n-> check.json\n")
    assert set(out) <= {"\n", *map(chr, range(32, 127))}  # no colors, nothing that cannot be piped
    return out, json.loads(Path("check.json").read_text())


def table(out: str) -> dict[str, tuple[float, float | None]]:
    """Name, value and share of each row of the printed table."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("where f comes from"))
    rows: dict[str, tuple[float, float | None]] = {}
    for line in lines[start + 1 : start + 100]:
        if line.startswith("relative residual"):
            break
        if not set(line) <= {"-"}:
            name, value, share = line.rsplit(maxsplit=2)
            assert name not in rows
            rows[name] = (float(value), None if share == "-" else float(share[:-1]) / 100)
    return rows


def expected(make: str, *shape: int, seed: int = 0, target: Any = None) -> fullgrad.Decomposition:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return fullgrad.decompose(load_model(f"own.py:{make}").module, x.float(), target)


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("fullgrad: error: ")
    return err.removeprefix("fullgrad: error: ").rstrip("\n")


# What it says


@pytest.mark.parametrize(
    ("make", "shape", "options"),
    [
        ("small", (1, 3, 16, 20), ()),
        ("small", (3, 3, 9, 11), ("--size", "9x11", "--batch", "3", "--seed", "5")),
        ("small", (1, 3, 16, 20), ("--depth", "2", "--target", "1")),
        ("deep", (2, 5), ("--size", "5", "--batch", "2", "--all")),
        ("volume", (1, 3, 4, 4, 4), ("--size", "3x4x4x4")),
        ("unbiased", (1, 6), ("--size", "6")),
        ("General", (1, 6), ("--size", "6")),
        ("Single", (2, 6), ("--size", "6", "--batch", "2")),
        ("Mean", (1, 4, 5), ("--size", "4,5")),
        ("Tokens", (1, 3, 16, 16), ("--size", "3x16x16")),
        ("dense", (1, 3, 8, 8), ("--size", "8x8", "--target", "1, 2,3")),
    ],
)
def test_numbers_are_those_of_decompose(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    make: str,
    shape: tuple[int, ...],
    options: tuple[str, ...],
) -> None:
    out, values = check(capsys, *options, make=make)
    seed = int(options[options.index("--seed") + 1]) if "--seed" in options else 0
    given = options[options.index("--target") + 1] if "--target" in options else None
    target = None if given is None else eval(given)
    d = expected(make, *shape, seed=seed, target=target)
    depth = values["depth"]
    assert depth == (2 if "--depth" in options else 1)
    assert values["input"] == {
        "kind": "random",
        "seed": seed,
        "shape": list(shape),
        "dtype": "float32",
    }
    assert len(values["samples"]) == shape[0]
    for i, sample in enumerate(values["samples"]):
        assert sample["output"] == float(d.output[i])
        assert sample["input"] == pytest.approx(float(d.input_sums[i]), rel=1e-6, abs=1e-9)
        stages = {s["module"]: s["sum"] for s in sample["stages"]}
        assert list(stages) == list(d.by_module(depth))
        for name, sums in d.by_module(depth).items():
            assert stages[name] == pytest.approx(float(sums[i]), rel=1e-5, abs=1e-8)
        assert sample["sum"] == pytest.approx(sample["input"] + sum(stages.values()), rel=1e-12)
        assert sample["sum"] + sample["residual"] == pytest.approx(sample["output"], rel=1e-12)
        assert 0 <= sample["relative_residual"] <= values["tolerance"] == 1e-5
        assert sample["target"] == (None if d.target is None else int(d.target[i]))
    assert sum(values["bias_terms"]["kinds"].values()) == len(d.bias_terms)
    for kind, count in values["bias_terms"]["kinds"].items():
        assert count == len(d.where(lambda t: t.kind == kind))
    for op, count in values["bias_terms"]["operations"].items():
        assert count == len(d.where(lambda t: t.op == op)) > 0
    again = [
        (g["module"], g["operation"]) for g in values["general_path"] for _ in range(g["times"])
    ]
    assert sorted(again) == sorted(d.general_path)
    assert values["explained"]["source"] == d.output_source

    rows, first = table(out), values["samples"][0]
    assert rows["input term"][0] == pytest.approx(first["input"], rel=1e-5, abs=1e-9)
    for stage in first["stages"]:
        value, share = rows[stage["module"] or "(model)"]
        assert value == pytest.approx(stage["sum"], rel=1e-5, abs=1e-9)
        assert share == pytest.approx(stage["share"], abs=6e-4, rel=0.06)
    for row, key in (("sum", "sum"), ("output f", "output"), ("residual", "residual")):
        assert rows[row][0] == pytest.approx(first[key], rel=1e-5)
    assert len(rows) == len(first["stages"]) + 4
    assert f"bias terms      {len(d.bias_terms)}: " in out
    for op in values["bias_terms"]["operations"]:
        assert op in out


def test_what_a_map_is_made_of(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, make="small")
    d = expected("small", 1, 3, 16, 20)
    dense = [t for t in d.bias_terms if len(t.shape) == 2]
    total = sum(float(t.sums.abs()) for t in d.bias_terms) + float(d.input_sums.abs())
    assert values["saliency"] == {
        "error": None,
        "terms": len(d.bias_terms) - len(dense),
        "in_part": 0,
        "nowhere": len(dense),
        "nowhere_share": pytest.approx(sum(float(t.sums.abs()) for t in dense) / total, rel=1e-5),
    }
    share = values["saliency"]["nowhere_share"]
    text = f"{len(d.bias_terms) - 1} bias terms are drawn on the input's grid, 1 have no position"
    assert f"saliency map    {text} (share of the sum of all terms' |sums|: {share:.1%})" in out


def test_class_tokens_are_drawn_in_part(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--size", "16x16", make="Tokens")
    d = expected("Tokens", 1, 3, 16, 16)
    with_token = d.where(lambda t: tuple(t.shape[:2]) == (1, 17))
    assert [t.op for t in with_token] == ["cat", "native_layer_norm"]
    assert values["saliency"]["in_part"] == 2
    assert "(2 in part)" in out


@pytest.mark.parametrize(
    ("make", "size", "reason"),
    [("Scrambled", "16x20", "it is not known where the numbers of"), ("unbiased", "6", "(1, 6)")],
)
def test_why_there_is_no_map(
    here: Path, capsys: pytest.CaptureFixture[str], make: str, size: str, reason: str
) -> None:
    out, values = check(capsys, "--size", size, make=make)
    assert reason in values["saliency"]["error"]
    line = next(line for line in out.splitlines() if line.startswith("saliency map"))
    assert line == f"saliency map    none: {' '.join(values['saliency']['error'].split())}"


def test_general_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--size", "6", make="General")
    assert values["general_path"] == [{"module": "", "operation": "cumprod", "times": 2}]
    assert "forward mode    cumprod in (model) x2\n" in out
    out, _ = check(capsys, "--size", "6", make="unbiased")
    assert "forward mode    none\n" in out
    assert "bias terms      0: 0 explicit, 0 implicit, 0 both\n" in out
    assert "by operation    none\n" in out


def test_photograph(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--input", "a.png", "--target", "DOG")
    model = load_model("own.py:small")
    x = preprocess(read_image("a.png"), model.preprocessing)[None]
    d = fullgrad.decompose(model.module, x, 1)
    assert values["samples"][0]["output"] == float(d.output[0])
    assert values["input"] == {
        "kind": "photograph",
        "path": "a.png",
        "sha256": sha256_of("a.png"),
        "shape": [1, 3, 16, 20],
        "dtype": "float32",
    }
    assert values["explained"] == {
        "source": "output",
        "target": 1,
        "name": "dog",
        "chosen": "given",
    }
    assert "input      a.png: 1x3x16x20, float32, cpu\n" in out
    assert "explained  f = output[1] dog\n" in out


def test_heading(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--batch", "2")
    target = values["explained"]["target"]
    name = ["black cat", "dog", "bird"][target]
    assert out.splitlines()[:3] == [
        "model      own.py:small (as small set them)",
        "input      random, seed 0: 2x3x16x20, float32, cpu",
        f"explained  f = output[{target}] {name}, the predicted class, of the first sample",
    ]
    assert "(largest of 2 samples), tolerance 1e-05\n" in out
    out, _ = check(capsys, "--size", "6", make="Single")
    assert "explained  f = output\n" in out
    out, _ = check(capsys, "--size", "8x8", "--target", "1,2,3", make="dense")
    assert "explained  f = output[1,2,3]\n" in out
    assert values["command"] == "fullgrad check own.py:small --batch 2 --json check.json"


def test_precision(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, own = check(capsys, make="double")
    assert (own["input"]["dtype"], own["tolerance"]) == ("float64", 1e-10)
    assert own["samples"][0]["relative_residual"] < 1e-14
    _, single = check(capsys, "--dtype", "float32", make="double")
    assert (single["input"]["dtype"], single["tolerance"]) == ("float32", 1e-5)
    assert single["samples"][0]["output"] == pytest.approx(own["samples"][0]["output"], rel=1e-5)
    _, raised = check(capsys, "--dtype", "float64")
    assert raised["tolerance"] == 1e-10


def test_an_output_of_zero_has_no_shares(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--size", "6", make="zero")
    assert table(out)["output f"] == (0, None)
    assert values["samples"][0]["input_share"] is None


# Readable


def test_many_stages(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--size", "5", make="deep")
    stages = {s["module"]: s["sum"] for s in values["samples"][0]["stages"]}
    assert len(stages) == 81
    rows = table(out)
    assert len(rows) == 30 + 5
    rest = rows.pop("51 other stages (--all shows them)")[0]
    shown = [name for name in rows if name in stages]
    assert shown == sorted(shown, key=int)
    left = [abs(v) for name, v in stages.items() if name not in rows]
    assert max(left) <= min(abs(stages[name]) for name in shown)
    assert rest == pytest.approx(sum(v for k, v in stages.items() if k not in rows), rel=1e-4)
    everything, _ = check(capsys, "--size", "5", "--all", make="deep")
    assert set(stages) < set(table(everything))
    assert "other stages" not in everything


def test_long_names_are_cut(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, values = check(capsys, "--size", "6", make="long")
    lines = out.splitlines()
    for end in ("one", "two"):
        (line,) = [line for line in lines if f"_{end} " in line]
        assert line.startswith("aaaa")
        assert "..." in line
        assert len(line) < 80
    assert values["samples"][0]["stages"][0]["module"] == "a" * 200 + "_one"


def test_huge_shares_and_values_keep_the_columns() -> None:
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, 1e6)
    torch.nn.init.constant_(model.bias, -2e6 + 1)
    found = statistics(fullgrad.decompose(model.double(), torch.ones(1, 2).double(), 0))
    lines = found.text().splitlines()
    rows = [line for line in lines if line.startswith(("where", "input term", "(model)", "sum"))]
    assert len({len(line) for line in rows}) == 1
    assert "2.0e+08%" in rows[1]


def test_random_weights_are_said_out_loud(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "torchvision:squeezenet1_1"
    assert main(["check", model, "--weights", "none", "--size", "32x32"]) == 0
    out, err = capsys.readouterr()
    assert err == (
        f"fullgrad: note: {model} has random weights: its classes and maps mean nothing\n"
    )
    assert out.startswith(f"model      {model} (none: random initialization, seed 0)\n")


def test_repeats(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = check(capsys, "--seed", "3")
    torch.rand(1)
    again, _ = check(capsys, "--seed", "3")
    other, _ = check(capsys, "--seed", "4")
    assert first == again != other


# What it refuses


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ("small", ["--depth", "0"], "argument --depth: '0' is not a whole number of at least 1"),
        ("small", ["--batch", "x"], "argument --batch: 'x' is not a whole number of at least 1"),
        (
            "small",
            ["--seed", "-1"],
            "argument --seed: '-1' is not a whole number from 0 to 2^63 - 1",
        ),
        ("small", ["--seed", "1.5"], "argument --seed: '1.5' is not a whole number from 0 to"),
        ("small", ["--size", "3xx4"], "argument --size: '3xx4' is not a size: give HxW, or"),
        ("small", ["--size", "0"], "argument --size: '0' is not a size"),
        ("small", ["--dtype", "float16"], "argument --dtype: invalid choice: 'float16'"),
        ("small", ["--nonsense"], "unrecognized arguments: --nonsense"),
        (
            "small",
            ["--input", "a.png", "--size", "8x8"],
            "--size belongs to random inputs: leave it ou",
        ),
        ("small", ["--input", "a.png", "--batch", "2"], "--batch belongs to random inputs"),
        ("small", ["--input", "a.png", "--seed", "0"], "--seed belongs to random inputs"),
        ("small", ["--input", "b.png"], "b.png does not exist"),
        ("small", ["--input", "own.py"], "own.py is not an image of a known format"),
        ("small", ["--json", "."], "--json . is a folder: name a file"),
        ("small", ["--json", "none/check.json"], "the folder of --json none/check.json does not"),
        ("small", ["--target", "cat"], "no class is named 'cat'; did you mean 'black cat'?"),
        ("small", ["--target", "3"], "target 3 is out of range: the classes are 0 to 2"),
        ("small", ["--device", "nonsense"], "the device 'nonsense' cannot be used"),
        ("small", ["--weights", "none.pth"], "the checkpoint none.pth does not exist"),
        ("none", [], "own.py has no function 'none'"),
        ("unbiased", [], "own.py:unbiased fails on an input of shape 1x3x16x20: RuntimeError: "),
        ("unbiased", [], "(--size gives the shape of one sample)"),
        ("dense", [], "an output of shape (1, 4, 14, 18) has no single predicted class: give a"),
        ("Single", ["--size", "6", "--target", "0"], "there is no class to choose"),
        ("Detached", [], "leave the autograd graph in the model itself"),
        ("Infinite", [], "the model's output holds NaN or infinite values"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], make: str, arguments: list[str], message: str
) -> None:
    before = {p.name for p in Path().iterdir()}
    extra = [] if "--json" in arguments else ["--json", "check.json"]
    assert main(["check", f"own.py:{make}", *arguments, *extra]) == 2
    assert message in refused(capsys)
    assert {p.name for p in Path().iterdir()} - {"__pycache__"} == before


def test_file_that_cannot_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("check.json").write_text("earlier")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["check", "own.py:small", "--json", "check.json"]) == 2
    assert refused(capsys) == "check.json cannot be written: No space left on device"
    assert Path("check.json").read_text() == "earlier"


@pytest.mark.parametrize("target", ["cat", "1.5", "1,,2"])
def test_targets_that_are_no_index(
    here: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    Path("own.py").write_text(SOURCE.replace("CLASSES", "NAMES"))
    assert main(["check", "own.py:small", f"--target={target}"]) == 2
    text = "is not an index, and this model's class names are not known: give an index"
    assert refused(capsys) == f"the target {target!r} {text}"


def test_out_of_memory(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("fullgrad.vision.check.decompose", fail)
    assert main(["check", "own.py:small"]) == 2
    assert refused(capsys) == "out of memory: choose a smaller --size or --batch"
    assert main(["check", "own.py:small", "--input", "a.png"]) == 2
    way_out = "leave --input out, and choose a smaller --size or --batch"
    assert refused(capsys) == f"out of memory: {way_out}"


def test_own_mistakes_are_not_blamed_on_the_model(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("what is this")

    monkeypatch.setattr("fullgrad.vision.check.decompose", fail)
    assert main(["check", "own.py:small"]) == 2
    assert refused(capsys).startswith("unexpected KeyError: 'what is this'")


def test_precision_that_the_device_has_not(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("no float64 here")

    model = load_model("own.py:small")
    monkeypatch.setattr("fullgrad.cli.check.load_model", lambda *_: model)
    monkeypatch.setattr(model.module, "to", fail)
    assert main(["check", "own.py:small", "--dtype", "float64"]) == 2
    assert refused(capsys) == "own.py:small cannot be brought to float64: no float64 here"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("--size", "--depth", "--json", "examples:", "exit code: 0 done; 2 mistake"):
        assert part in text
    for command in ("check", "export"):
        assert main([command, "--help"]) == 0
        assert "hf:FOLDER" in capsys.readouterr().out
