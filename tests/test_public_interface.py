"""What the documentation names can be imported after ``import fullgrad`` alone, and has types."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

import fullgrad
from fullgrad import _deprecated

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"(?<![\w./\[-])fullgrad((?:\.[A-Za-z][A-Za-z0-9_]*)+)(?!\w*/)")
IMPORT = re.compile(r"^\s*from (fullgrad[\w.]*) import ([\w, ]+)$", re.M)
FILES = ("md", "py", "html", "json", "png", "svg", "toml")  # fullgrad.html is no name


def documented_text() -> str:
    """README, pages, and the notebooks' cells; not the list of changes, which has old names."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts += ["".join(cell["source"]) for cell in cells]
    return re.sub(r"```diff\n.*?```", "", "\n".join(texts), flags=re.S)  # names that are to come


def documented() -> dict[str, str]:
    """Each documented name, and a line of code that reaches it as the documentation does."""
    text, found = documented_text(), {}
    for match in NAME.finditer(IMPORT.sub("", text)):
        if match[1].rsplit(".", 1)[-1] not in FILES:
            found[f"fullgrad{match[1]}"] = "import fullgrad"
    for module, names in IMPORT.findall(text):
        for name in names.split(","):
            word = name.split(" as ")[0].strip()
            found.setdefault(f"{module}.{word}", f"from {module} import {word}")
    return found


def in_a_fresh_interpreter(code: str) -> str:
    """What code prints, every warning an error."""
    command = [sys.executable, "-W", "error::DeprecationWarning:fullgrad", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_documented_names_are_there_after_one_import() -> None:
    names = documented()
    assert "fullgrad.maps.tokens.attribute_tokens" in names
    assert names["fullgrad.interop.quantus.explain"] == "import fullgrad"
    lines = {c if c.startswith("from") else f"import fullgrad; {n}" for n, c in names.items()}
    in_a_fresh_interpreter(f"for line in {sorted(lines)!r}:\n    exec(line, {{}})")


def test_each_public_name_is_documented_and_the_reverse() -> None:
    first = {name.split(".")[1] for name in documented()}
    public = {*fullgrad.__all__} - {"__version__"}
    assert public - first == set(), "in fullgrad.__all__, and in no page"
    packages = {p.parent.name for p in (ROOT / "src/fullgrad").glob("*/__init__.py")} | {"errors"}
    assert first - public - packages == set(), "in a page, and not in fullgrad.__all__"


def test_importing_the_package_imports_no_optional_one() -> None:
    code = "import sys, fullgrad; print({'captum', 'PIL', 'matplotlib', 'timm'} & {*sys.modules})"
    assert in_a_fresh_interpreter(code).strip() == "set()"


def test_subpackages_are_listed_and_unknown_names_refused() -> None:
    assert {"maps", "interop", "viz", "saliency"} <= {*dir(fullgrad)}
    for place in (fullgrad, fullgrad.viz, fullgrad.interop):
        with pytest.raises(AttributeError, match=f"'{place.__name__}' has no attribute 'nosuch'"):
            place.nosuch
        with pytest.raises(AttributeError, match="has no attribute '_nosuch'"):
            place._nosuch


def test_documented_names_have_types(tmp_path: Path) -> None:
    """For users of mypy: no documented name is Any, and a name that is not there is an error."""
    lines = ["import fullgrad"]
    for number, (name, code) in enumerate(sorted(documented().items())):
        if code.startswith("from"):
            lines.append(f"{code} as name_{number}")
            name = f"name_{number}"
        lines.append(f"reveal_type({name})")
    lines += ["fullgrad.nosuch", "fullgrad.interop.nosuch"]
    path = tmp_path / "user.py"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    said, _, _ = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(path)])
    errors = [line for line in said.splitlines() if ": error:" in line]
    assert len(errors) == 2 and all('has no attribute "nosuch"' in line for line in errors), said
    revealed = re.findall(r'user\.py:(\d+): note: Revealed type is "(.*)"', said)
    assert len(revealed) == len([line for line in lines if line.startswith("reveal")])
    assert [lines[int(n) - 1] for n, type_ in revealed if type_ == "Any"] == []


@pytest.mark.parametrize("old", sorted(_deprecated.MOVED))
def test_a_module_is_found_under_its_old_name_with_a_warning(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = f"fullgrad.{_deprecated.MOVED[old]}"
    for name in [n for n in sys.modules if n == f"fullgrad.{old}"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(DeprecationWarning, match=rf"fullgrad\.{re.escape(old)} is now {new};"):
        assert importlib.import_module(f"fullgrad.{old}") is importlib.import_module(new)


OLD = (
    "from fullgrad.rules import register",
    "from fullgrad.experiments.theory import theory",
    "from fullgrad.experiments.perturbation import changes",
    "from fullgrad.experiments.statistics import interval",
    "from fullgrad.images import display_image, preprocess",
    "from fullgrad.models import load_model",
    "from fullgrad.render import picture",
    "from fullgrad.render.compare import Compared, comparison",
    "from fullgrad.render.contour import contour, contour_picture",
    "from fullgrad.render.curves import perturbation_curves",
    "from fullgrad.render.heatmap import heatmap",
    "from fullgrad.render.layers import layer_strip, layers_of, packed",
    "from fullgrad.render.style import saved",
    "from fullgrad.render.tokens import Strip, token_strips",
    "from fullgrad.render.waterfall import waterfall, waterfall_of",
    "from fullgrad.tokens import attribute_tokens, token_saliency",
    "import fullgrad; fullgrad.tokens.embeddings.embed",
    "import fullgrad; fullgrad.interfaces.quantus.explain",
    "import fullgrad; fullgrad.interfaces.grad_cam.FullGrad",
    "import fullgrad; fullgrad.render.tokens.token_strip",
    "import fullgrad; fullgrad.rules.register",
    "from fullgrad.saliency import saliency_from_decomposition, term_map",
    "import fullgrad.render.waterfall as w; w.waterfall",
)


def test_what_was_documented_before_still_works() -> None:
    code = "\n".join(
        [
            "import warnings",
            f"for line in {OLD!r}:",
            "    with warnings.catch_warnings(record=True) as said:",
            "        warnings.simplefilter('always', DeprecationWarning)",
            "        exec(line, {})",
            "    print(line, [str(w.message) for w in said if 'is now ' in str(w.message)])",
        ]
    )
    said = in_a_fresh_interpreter(code)
    assert (
        "from fullgrad.rules import register ['fullgrad.rules is now fullgrad.operations;" in said
    )
    assert said.count("fullgrad.render is now fullgrad.viz;") == 1
    assert len(said.splitlines()) == len(OLD)
