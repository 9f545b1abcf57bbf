"""The layout that docs/design/architecture.md promises: sizes, mirrored tests, imports one way."""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "src" / "fullgrad", ROOT / "tests"
MODULES = 16  # in a folder, not counting __init__, __main__ and other names with an underscore
SOURCE_LINES, TEST_LINES = 420, 500
OUTSIDE = {".", "browser", "fuzz", "tools"}  # where tests lie that are of no package


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> list[str]:
    """The dotted names that a file imports, of modules and of what they hold."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module or ''}.{alias.name}" for alias in node.names]
    return found


def words(names: Iterable[str]) -> set[str]:
    return {word for name in names for word in name.split(".")}


def members(folder: Path) -> list[str]:
    """The public modules and packages that lie in a folder."""
    found = [p for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]
    return [p.name for p in found if not p.name.startswith("_")]


@pytest.mark.parametrize("top", ["src/fullgrad", "tools", "benchmarks"])
def test_a_folder_holds_at_most_sixteen_modules(top: str) -> None:
    folders = {path.parent for path in sources(top)}
    counts = {short(folder): len(members(folder)) for folder in folders}
    assert {name: n for name, n in counts.items() if n > MODULES} == {}


@pytest.mark.parametrize(
    ("most", "folders"),
    [(SOURCE_LINES, ("src", "tools", "benchmarks")), (TEST_LINES, ("tests",))],
    ids=["sources", "tests"],
)
def test_no_file_is_long(most: int, folders: tuple[str, ...]) -> None:
    lines = {short(p): len(p.read_text(encoding="utf-8").splitlines()) for p in sources(*folders)}
    assert {name: n for name, n in lines.items() if n > most} == {}


def test_the_formatter_decides_every_layout() -> None:
    skip = re.compile(r"#\s*fmt:\s*(skip|off)")
    found = sources("src", "tests", "tools", "benchmarks")
    assert [short(p) for p in found if skip.search(p.read_text(encoding="utf-8"))] == []


def test_tests_mirror_the_packages() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    places = {path.relative_to(TESTS).parent.as_posix() for path in TESTS.rglob("test_*.py")}
    assert {place.split("/")[0] for place in places} == packages | OUTSIDE


def test_no_test_file_is_named_twice() -> None:
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, n in names.items() if n > 1] == []


def test_no_test_file_is_imported() -> None:
    found = {short(path): words(imported(path)) for path in sources("tests")}
    files = {path.stem for path in TESTS.rglob("test_*.py")} | {"conftest"}
    assert {name: files & taken for name, taken in found.items() if files & taken} == {}


def private_parts(path: Path) -> list[str]:
    """The names with an underscore that a file reads off what it imports from the library."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0] == "fullgrad"
    }
    return [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in own
        and re.match("_[a-z]", node.attr, re.I)
    ]


def test_tools_and_benchmarks_use_public_names_alone() -> None:
    private = re.compile(r"^fullgrad\.(.*\.)?_[a-z]")
    found = {
        short(p): list(filter(private.match, imported(p))) for p in sources("tools", "benchmarks")
    }
    assert {name: names for name, names in found.items() if names} == {}
    read = {short(path): private_parts(path) for path in sources("tools", "benchmarks")}
    assert {name: names for name, names in read.items() if names} == {}


DEVICES = {"cpu", "cuda", "mps", "xpu", "hpu"}
CORE = ("axes", "engine", "maps", "operations", "decomposition.py", "targets.py")


def devices_named(code: str) -> set[str]:
    """The devices that code names where it makes or moves tensors."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [k.value for k in node.keywords if k.arg == "device"]
            given += node.args if name in ("to", "device", "Generator") else []
            texts = {str(a.value).split(":")[0] for a in given if isinstance(a, ast.Constant)}
            found |= texts & DEVICES | {name} & (DEVICES - {"cpu"})
    return found


def test_code_names_no_device() -> None:
    named = {short(path): devices_named(path.read_text("utf-8")) for path in sources("src")}
    core = tuple(f"src/fullgrad/{name}" for name in CORE)
    assert {path: names for path, names in named.items() if names and path.startswith(core)} == {}
    # Elsewhere random numbers are drawn on the CPU, the same on every device.
    assert {path: names for path, names in named.items() if names - {"cpu"}} == {}
    for code in ("x.cuda()", "x.to('cuda:0')", "torch.ones(3, device='mps')"):
        assert devices_named(code)


def test_imports_run_along_the_datas_path() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_no_imports_run_in_a_circle() -> None:
    graph = grimp.build_graph("fullgrad", cache_dir=None)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    below["fullgrad"] = set()  # its lists of subpackages are for type checkers
    TopologicalSorter(below).prepare()


def test_errors_of_python_itself_are_about_arguments() -> None:
    """All others derive from fullgrad.errors.FullGradError, as docs/maps.md says."""
    nodes = [n for p in sources("src") for n in ast.walk(ast.parse(p.read_text(encoding="utf-8")))]
    calls = [n.exc for n in nodes if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    own = {"AssertionError", "AttributeError", "NotImplementedError"}  # never a user's mistake
    assert names & {*dir(builtins)} - own == {"IndexError", "TypeError", "ValueError"}
