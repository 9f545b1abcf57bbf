"""Run the core's tests on some versions, and write those that pass into docs/versions.md.

python tools/packaging/tested.py oldest    # the lowest version of each package that pyproject.toml allows
python tools/packaging/tested.py newest    # the newest version of each, and of Python
python tools/packaging/tested.py here      # what is installed here
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging_parts import BIN, Environment, environment_of, put, table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs/data/versions.json"
CORE = ("engine", "operations", "axes", "maps", "decomposition", "methods", "targets")
PACKAGES = ("torch", "numpy", "torchvision", "timm", "transformers", "captum")
TOOLS = ("hypothesis", "pytest", "pytest-xdist")
# A package that ours ask for, whose newest version does not go with the lowest of what uses it.
BESIDE = "pyparsing<3.3"


def tests(environment: Environment, workers: str) -> str:
    """Run the tests there; the line in which pytest counts them.

    Raises:
        SystemExit: one fails.
    """
    command = [str(environment.folder / BIN / "python"), "-m", "pytest", "-n", workers, "-q"]
    command += ["--dist", "worksteal", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    done = subprocess.run(
        [*command, *(f"tests/{name}" for name in CORE)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout[-6000:], flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return str(re.findall(r"^(\d+ passed(?:, \d+ skipped)?)", done.stdout, re.M)[-1])


def row(environment: Environment, workers: str) -> dict[str, str]:
    """What is installed, and what the tests said."""
    found = {"Python": environment.python()}
    found |= {package: environment.version(package) for package in PACKAGES}
    system = f"{platform.system()} {platform.machine()}"
    return {
        **found,
        "on": system,
        "tests": tests(environment, workers),
        "run on": str(datetime.date.today()),
    }


def fresh(which: str, workers: str) -> dict[str, str]:
    """The row of a fresh environment, of the oldest or the newest versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    tools = [p for p in project["optional-dependencies"]["dev"] if p.partition(">")[0] in TOOLS]
    wanted = [f"fullgrad[all] @ {ROOT.as_uri()}", *tools]
    options: list[str] = []
    with tempfile.TemporaryDirectory() as home:
        if which == "oldest":
            beside = Path(home) / "beside.txt"
            beside.write_text(BESIDE, encoding="utf-8")
            options = ["--resolution", "lowest-direct", "--constraint", str(beside)]
        python = pythons[0 if which == "oldest" else -1]
        with environment_of(Path(home) / "env", python, wanted, *options) as environment:
            return row(environment, workers)


def main(argv: list[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("which", choices=("oldest", "newest", "here"))
    parser.add_argument("--workers", default="2", help="processes that run the tests (2)")
    options = parser.parse_args(argv)
    which, workers = options.which, options.workers
    found = (
        row(Environment(Path(sys.prefix)), workers) if which == "here" else fresh(which, workers)
    )
    rows = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    rows = dict(sorted({**rows, which: found}.items(), reverse=True))
    KEPT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    put("versions", table(found, [list(r.values()) for r in rows.values()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
