"""``fullgrad export`` writes a file, says what was compared, and leaves nothing where it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from checked_models import SOURCE
from fullgrad.cli.main import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)


def test_a_batch_in_a_pt2_file(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "own.py:small", "--batch-size", "2", "--size", "16x24", "--out", "map.pt2"]
    assert main(["export", *given, "--option", "psi=channel"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0].startswith("fullgrad of own.py:small: torch, 0.")
    assert lines[1:3] == [
        "inputs    input (float32, 2x3x16x24), target (int64, 2)",
        "outputs   logits (float32, 2x3), map (float32, 2x1x16x24), residual (float64, 2)",
    ]
    assert lines[3].startswith(
        "prepared  by the caller: colors 0 to 1, minus (0.485, 0.456, 0.406)"
    )
    assert lines[4].startswith(
        "compared  with fullgrad, 4 samples (random numbers and mirror images)"
    )
    assert lines[-1] == "-> map.pt2"
    run = torch.export.load("map.pt2").module()
    assert run(torch.rand(2, 3, 16, 24), torch.tensor([0, -1]))[1].shape == (2, 1, 16, 24)


def test_a_photograph_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save("a.png")
    given = ["--model", "own.py:small", "--input", "a.png", "--method", "complete_fullgrad"]
    assert main(["export", *given, "--out", "map.pt2"]) == 0
    assert "(the photograph and mirror images): 2 equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--out", "map.txt"], "a file of format 'torch' ends with .pt2, not 'map.txt'"),
        (["--out", "no/map.onnx"], "the folder of no/map.onnx does not exist"),
        (["--out", "map.onnx", "--format", "torch"], "a file of format 'torch' ends with .pt2"),
        (
            ["--out", "map.pt2", "--method", "occlusion"],
            "--method occlusion cannot be exported: choose",
        ),
        (["--out", "map.pt2", "--option", "samples=3"], "samples"),
        (
            ["--out", "map.pt2", "--input", "a.png", "--batch-size", "2"],
            "--batch-size belongs to random inputs",
        ),
        (
            ["--out", "map.pt2", "--input", "a.png", "--size", "9x9"],
            "--size belongs to random inputs",
        ),
        (["--out", "map.pt2", "--size", "9y9"], "'9y9' is not a size"),
        (["--out", "map.pt2", "--model", "own.py:detached"], "own.py"),
    ],
    ids=["suffix", "folder", "format", "method", "option", "batch", "size", "word", "model"],
)
def test_mistakes(given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--model", "own.py:small", *given]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
    assert [p.name for p in Path().iterdir() if p.name != "__pycache__"] == ["own.py"]
