"""docs/notebooks: executes each notebook and compares its outputs with those that are stored.

    python tools/notebooks.py                    # check all; exit code 1 says that something differs
    python tools/notebooks.py --write            # store what came out
    python tools/notebooks.py transformer --write

A notebook runs in an empty folder, without a GPU's help, proxies that lead nowhere instead of the
internet, and every warning an error. What is printed must be what is stored, its numbers up to
rounding; what depends on training (cells with the tag ``trained``) up to a wide tolerance. Stored
pictures are JPEGs, to be small.
"""

from __future__ import annotations

import argparse
import base64
import copy
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nbclient
import nbformat
import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
LARGEST = 600_000  # bytes of a notebook
TRAINED = "trained"  # tag of cells whose numbers depend on how a network's training was rounded
WIDEST = 900  # pixels, of a stored picture
_SECONDS = 300  # that one cell may take
_NUMBER = re.compile(r"[-−+]?\d+(?:\.\d+)?(?:e[-−+]?\d+)?")
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_PICTURE = "image/jpeg"
_SETUP = "import warnings\nwarnings.simplefilter('error')"
_END = "warnings.simplefilter('default')"  # the kernel's own, when it ends
_NOWHERE = "http://127.0.0.1:9"

Notebook: TypeAlias = Any  # an nbformat.NotebookNode


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a number and a picture may differ from the stored ones.

    Args:
        relative: of a number.
        absolute: of a number, so that residuals may be any rounding.
        levels: mean difference of a picture's pixels, of 255.
    """

    relative: float
    absolute: float
    levels: float


ROUNDED, RETRAINED = Tolerance(2e-3, 1e-4, 4), Tolerance(0.3, 0.15, 40)


class NotebookError(Exception):
    """A notebook did not run as it must."""


def read(path: Path) -> Notebook:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Notebook) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: Notebook) -> str:
    """Of the code that was executed."""
    text = json.dumps([cell.source for cell in code_cells(notebook)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def executed(path: Path) -> Notebook:
    """Run a notebook in an empty folder.

    Returns:
        It with its outputs, and nothing in it that depends on when and where it ran.

    Raises:
        NotebookError: a cell failed or warned, or told where it ran.
    """
    notebook = copy.deepcopy(read(path))
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    own = [nbformat.v4.new_code_cell(text) for text in (_SETUP, _END)]
    notebook.cells = [own[0], *notebook.cells, own[1]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        work = folder / "work"
        work.mkdir()
        client = nbclient.NotebookClient(
            notebook,
            timeout=_SECONDS,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            extra_arguments=["--log-level=40"],
            resources={"metadata": {"path": str(work)}},
        )
        try:
            client.execute(env=_environment(folder))
        except nbclient.exceptions.CellExecutionError as error:
            said = re.sub(r"\x1b\[[\d;]*m", "", str(error))
            raise NotebookError(f"{path.name}: {said}") from error
        notebook.cells = notebook.cells[1:-1]
        tidied = _tidied(notebook)
        _check_outputs(path.name, tidied, (str(folder), str(Path.cwd()), sys.prefix))
    return tidied


def _environment(folder: Path) -> dict[str, str]:
    """Of the kernel: no settings of the user's, no internet, no accelerator."""
    found = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    found.pop("FULLGRAD_SHARED", None)
    return found | {
        "IPYTHONDIR": str(folder / "ipython"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "http_proxy": _NOWHERE,
        "https_proxy": _NOWHERE,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _tidied(notebook: Notebook) -> Notebook:
    notebook.metadata = _METADATA | {"fullgrad": {"executed": digest(notebook)}}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    for number, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
            output.pop("transient", None)
            if "data" in output:
                output.metadata = {}
                if "image/png" in output.data:
                    output.data[_PICTURE] = _small(output.data.pop("image/png"))
    return notebook


def _small(picture: str) -> str:
    """A PNG as JPEG, both in base64."""
    with io.BytesIO() as file:
        image = Image.fromarray(_pixels(picture).astype(np.uint8))
        if image.width > WIDEST:
            tall = round(image.height * WIDEST / image.width)
            image = image.resize((WIDEST, tall), Image.Resampling.LANCZOS)
        image.save(file, "JPEG", quality=82, subsampling=0, optimize=True)
        return base64.b64encode(file.getvalue()).decode("ascii") + "\n"


def _check_outputs(name: str, notebook: Notebook, places: Sequence[str]) -> None:
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell.outputs:
            text = "".join(_texts(output))
            if output.output_type == "error" or output.get("name") == "stderr":
                raise NotebookError(f"{name}: cell {number} complains: {text.strip()}")
            if told := [place for place in places if place in text]:
                raise NotebookError(f"{name}: cell {number} tells where it ran: {told[0]}")


def _texts(output: Any) -> Iterator[str]:
    """What an output says, HTML without its tags."""
    yield output.get("text", "")
    yield "\n".join(output.get("traceback", []))
    data = output.get("data", {})
    yield (
        re.sub(r"<[^>]*>", " ", data["text/html"])
        if "text/html" in data
        else data.get("text/plain", "")
    )


def faults(stored: Notebook, size: int) -> list[str]:
    """What can be seen without running it.

    Args:
        stored: a notebook as it lies in the repository.
        size: of its file, in bytes.

    Returns:
        What is wrong with it, one sentence each.
    """
    found = []
    if size > LARGEST:
        found.append(f"{size} bytes, more than {LARGEST}")
    if stored.metadata.get("fullgrad", {}).get("executed") != digest(stored):
        found.append("the stored outputs are not of these cells; run it with --write")
    if stored.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if not any(cell.outputs for cell in code_cells(stored)):
        found.append("no outputs are stored")
    return found


def differences(stored: Notebook, fresh: Notebook) -> list[str]:
    """Where the outputs of two runs differ by more than rounding, one sentence each."""
    found = []
    pairs = zip(code_cells(stored), code_cells(fresh), strict=True)
    for number, (before, after) in enumerate(pairs, 1):
        tolerance = RETRAINED if TRAINED in after.metadata.get("tags", []) else ROUNDED
        if len(before.outputs) != len(after.outputs):
            found.append(
                f"cell {number}: {len(after.outputs)} outputs, not the stored {len(before.outputs)}"
            )
            continue
        for a, b in zip(before.outputs, after.outputs, strict=True):
            kinds = [sorted(o.get("data", {"text": 0})) for o in (a, b)]
            if kinds[0] != kinds[1]:
                found.append(f"cell {number}: outputs of the kinds {kinds[1]}, stored {kinds[0]}")
                continue
            if said := text_difference("".join(_texts(a)), "".join(_texts(b)), tolerance):
                found.append(f"cell {number}: {said}")
            if _PICTURE in a.get("data", {}):
                if said := _picture_difference(a.data[_PICTURE], b.data[_PICTURE], tolerance):
                    found.append(f"cell {number}: {said}")
    return found


def text_difference(stored: str, fresh: str, tolerance: Tolerance) -> str:
    """The first difference of two texts; numbers may differ by the tolerance.

    A number may also differ by one in its last digit.
    """
    words = [" ".join(_NUMBER.sub(" # ", t).split()) for t in (stored, fresh)]
    if words[0] != words[1]:
        places = zip(*(w.split() for w in words), strict=False)
        a, b = next((p for p in places if p[0] != p[1]), ("more words", "fewer, or the reverse"))
        return f"{b!r} instead of the stored {a!r}"
    for a, b in zip(_NUMBER.findall(stored), _NUMBER.findall(fresh), strict=True):
        x, y = (float(t.replace("−", "-")) for t in (a, b))
        allowed = tolerance.absolute + tolerance.relative * max(abs(x), abs(y)) + _last_digit(a)
        if not abs(x - y) <= allowed:
            return f"{b} instead of the stored {a}"
    return ""


def _last_digit(text: str) -> float:
    mantissa, _, exponent = text.replace("−", "-").partition("e")
    decimals = len(mantissa.partition(".")[2])
    if not decimals and not exponent:
        return 0.0  # a count
    return float(10.0 ** (int(exponent or 0) - decimals)) * 1.01


def _picture_difference(stored: str, fresh: str, tolerance: Tolerance) -> str:
    a, b = _pixels(stored), _pixels(fresh)
    if max(abs(p - q) for p, q in zip(a.shape, b.shape, strict=True)) > 4:
        return f"a picture of {b.shape[:2]} pixels, stored {a.shape[:2]}"
    rows, columns = (min(p, q) for p, q in zip(a.shape[:2], b.shape[:2], strict=True))
    apart = float(np.abs(a[:rows, :columns] - b[:rows, :columns]).mean())
    if apart > tolerance.levels:
        return f"a picture that differs by {apart:.1f} of 255 on average"
    return ""


def _pixels(picture: str) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def written(notebook: Notebook) -> bytes:
    text: str = nbformat.writes(notebook, version=4)
    return (text.rstrip("\n") + "\n").encode()


def paths(names: Sequence[str]) -> list[Path]:
    found = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    if missing := [p.name for p in found if not p.is_file()]:
        raise NotebookError(f"no such notebook in docs/notebooks: {', '.join(missing)}")
    if not found:
        raise NotebookError("docs/notebooks holds no notebook")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of docs/notebooks (default: all)")
    parser.add_argument("--write", action="store_true", help="store the outputs")
    options = parser.parse_args(argv)
    wrong = []
    try:
        for path in paths(options.names):
            began = time.monotonic()
            fresh = executed(path)
            content = written(fresh)
            found = faults(fresh, len(content))
            if options.write and not found:
                path.write_bytes(content)
            elif not options.write:
                stored = read(path)
                found = faults(stored, path.stat().st_size) + differences(stored, fresh)
            wrong += [f"{path.name}: {text}" for text in found]
            print(
                f"{path.name}: {time.monotonic() - began:.0f} s, {len(content) // 1000} kB, "
                f"{'; '.join(found) or ('stored' if options.write else 'as stored')}",
                flush=True,
            )
    except NotebookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
