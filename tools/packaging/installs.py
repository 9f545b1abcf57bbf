"""Install the built wheel with each extra into a fresh environment, and run what the page shows.

    python tools/packaging/installs.py                  # every extra of docs/versions.md
    python tools/packaging/installs.py cli text sdist   # some of them; sdist: the sdist's own tests

One environment is there at a time (up to 7 GB). Rows of docs/versions.md that are not run again are
kept in docs/data/installs.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from packaging_parts import BIN, Environment, environment_of, put, table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs/data/installs.json"
ROW = re.compile(r"^\| (?:`([a-z0-9]+)`)? ?\| [^|]+ \| `([^`]+)` \|$", re.M)
CORE = "(alone)"
BESIDE_ALL = ("sound",)  # not in all
# A call that misses a package, and the extra that its message must name.
MISSING = [
    ("fullgrad demo", "demo"),
    ("fullgrad app", "app"),
    (
        'python -c "import torch, fullgrad; fullgrad.decompose(torch.nn.Linear(4, 2), torch.ones(1, 4), 0).to_pandas()"',
        "results",
    ),
    (
        "python -c \"import torch, fullgrad; fullgrad.methods.attribute('integrated_gradients', torch.nn.Flatten(), torch.rand(1, 3, 2, 2), 0)\"",
        "baselines",
    ),
]
SDIST_TESTS = [
    "tests/test_structure.py",
    "tests/test_results.py",
    "tests/decomposition",
    "tests/targets",
]


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, checked by twine."""
    call([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)])
    files = sorted(folder.iterdir())
    call([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)])
    (sdist,), (wheel,) = ([f for f in files if f.suffix == s] for s in (".gz", ".whl"))
    return wheel, sdist


def call(command: list[str], **more: Any) -> str:
    """What a command prints; a failure ends this program with it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return str(done.stdout)


def ran(command: str, place: Path, folder: Path) -> tuple[int, str]:
    """The exit code and last line of a shell command in an environment."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {
        "PATH": os.pathsep.join([str(place / BIN), env["PATH"], str(Path(sys.executable).parent)]),
        "OMP_NUM_THREADS": "1",
    }
    env["VIRTUAL_ENV"] = str(place)
    env["MPLCONFIGDIR"] = env["FULLGRAD_CACHE"] = str(folder)
    done = subprocess.run(
        command, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, ((done.stdout + done.stderr).strip().splitlines() or [""])[-1]


def check_alone(place: Path, folder: Path) -> list[str]:
    """What fullgrad alone does wrong: packages that it loads, messages that do not help."""
    code = "import sys, fullgrad; print({'PIL', 'matplotlib', 'pandas', 'timm'} & {*sys.modules})"
    wrong = [] if ran(f'python -c "{code}"', place, folder) == (0, "set()") else ["loads too much"]
    for command, extra in MISSING:
        status, said = ran(command, place, folder)
        asked = re.search(r"install it with: (.*)$", said)
        if status == 0 or asked is None or f"fullgrad[{extra}]" not in asked[1]:
            wrong.append(f"{command}: {said}")
        elif ran(f"{asked[1]} --dry-run", place, folder)[0]:
            wrong.append(f"cannot be installed as it says: {asked[1]}")
    return wrong


def doubled(packages: list[str]) -> list[str]:
    """A complaint where several packages of OpenCV write over each other."""
    opencv = sorted(p for p in packages if p.startswith("opencv"))
    return [f"{len(opencv)} packages of OpenCV: {', '.join(opencv)}"] if len(opencv) > 1 else []


def install(
    extra: str, commands: dict[str, str], wheel: Path, python: str, folder: Path
) -> dict[str, Any]:
    """One row: an environment, the wheel with one extra, its command; in ``all`` all rows' Python."""
    command = commands[extra]
    others = [c for name, c in commands.items() if name not in (extra, *BESIDE_ALL)]
    began = time.monotonic()
    spec = f"fullgrad{'' if extra == CORE else f'[{extra}]'} @ {wheel.as_uri()}"
    with environment_of(folder / "env", python, [spec]) as place:
        status, said = ran(command, place.folder, folder)
        wrong = [] if status == 0 else [f"exit code {status}: {said}"]
        wrong += check_alone(place.folder, folder) if extra == CORE else []
        if extra == "all":
            codes = [m[1] for c in others if (m := re.fullmatch(r'python -c "(.*)"', c))]
            (folder / "others.py").write_text("\n".join(codes), encoding="utf-8")
            status, said = ran("python others.py", place.folder, folder)
            wrong += [f"Python of the other rows: {said}"] if status else []
        return found(extra, command, wrong, place, began)


def try_readme(wheel: Path, python: str, folder: Path) -> dict[str, Any]:
    """One row: what README shows between its install and what it proves, with the extra it names."""
    began = time.monotonic()
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    part = page[page.index("\n## Install\n") : page.index("\n## What it proves")]
    extra = re.findall(r"pip install '\.(\[\w+\])'", part)[0]
    lines = "\n".join(re.findall(r"```python\n(.*?)```", part, re.S))
    (folder / "lines.py").write_text(lines, encoding="utf-8")
    photo = "Image.effect_noise((320, 240), 80).convert('RGB').save('photo.jpg')"
    shown = re.findall(r"^    (fullgrad [^\n#]+)", part, re.M)
    commands = [f'python -c "from PIL import Image; {photo}"', "python lines.py", *shown]
    spec = f"fullgrad{extra} @ {wheel.as_uri()}"
    with environment_of(folder / "env", python, [spec]) as place:
        done = {c: ran(c, place.folder, folder) for c in commands if lines and shown}
        wrong = [f"{c}: {said}" for c, (status, said) in done.items() if status]
        wrong += [] if done else ["README shows nothing to run"]
        return found("README", "; ".join(commands[1:]), wrong, place, began)


def test_sdist(sdist: Path, python: str, folder: Path) -> dict[str, Any]:
    """One row: the sdist's own tests, from its unpacked folder, nothing beside it."""
    began = time.monotonic()
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    command = f"python -m pytest -q -p no:cacheprovider {' '.join(SDIST_TESTS)}"
    with environment_of(folder / "env", python, [f"fullgrad[dev] @ {source.as_uri()}"]) as place:
        status, said = ran(f"cd {shlex.quote(str(source))} && {command}", place.folder, folder)
        return found("sdist", command, [said] if status else [], place, began)


def found(
    extra: str, command: str, wrong: list[str], place: Environment, began: float
) -> dict[str, Any]:
    """A row, with what is installed."""
    packages = place.packages()
    return {
        "extra": extra,
        "command": command,
        "wrong": [*wrong, *doubled(packages)],
        "packages": len(packages),
        "seconds": round(time.monotonic() - began),
        "python": place.python(),
        "torch": place.version("torch"),
        "on": datetime.date.today().isoformat(),
    }


def write(rows: dict[str, dict[str, Any]], order: list[str]) -> None:
    """Keep the rows, and put their table into the page."""
    kept = {name: rows[name] for name in order if name in rows}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    shown = [
        (
            f"`{r['extra']}`",
            "works" if not r["wrong"] else "; ".join(r["wrong"]),
            str(r["packages"]),
            r["python"],
            r["torch"],
            r["on"],
        )
        for r in kept.values()
    ]
    put(
        "installs",
        table(["extra", "its command", "packages", "Python", "PyTorch", "run on"], shown),
    )


def main(argv: list[str] | None = None) -> int:
    """See above.

    Returns:
        0: all work; 1: something does not.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "extras", nargs="*", help="of docs/versions.md, README or sdist; all if left out"
    )
    parser.add_argument("--python", default=sys.executable, help="of the environments")
    options = parser.parse_args(argv)
    page = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    shown = {name or CORE: command for name, command in ROW.findall(page)}
    order = [*shown, "README", "sdist"]
    if unknown := set(options.extras) - {*order}:
        parser.error(f"not in docs/versions.md: {', '.join(sorted(unknown))}")
    rows = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    failed = False
    with tempfile.TemporaryDirectory() as home:
        wheel, sdist = built(Path(home) / "dist")
        for number, name in enumerate(options.extras or order):
            folder = Path(home) / str(number)
            folder.mkdir()
            row = (
                test_sdist(sdist, options.python, folder)
                if name == "sdist"
                else try_readme(wheel, options.python, folder)
                if name == "README"
                else install(name, shown, wheel, options.python, folder)
            )
            print(
                name,
                "works" if not row["wrong"] else row["wrong"],
                f"{row['seconds']} s",
                flush=True,
            )
            failed |= bool(row["wrong"])
            rows[name] = row
            write(rows, order)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
