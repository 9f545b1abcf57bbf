"""The tables of docs/questions.md, from the stored runs of ``fullgrad evaluate``.

    python tools/evidence/questions.py [--write]

Prints them, or puts them into the page, each between its marks. A table of differences has a row for each
pair of methods and a column for each network: the mean over images of the first method's number less the
second's, with the mean color and with the blurred image as the fill. ▲ and ▼: the interval leaves out 0; the
last column counts them. The intervals of one row, fill and run hold together for its networks, at 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fullgrad.evaluation.statistics import simultaneous
from fullgrad.evaluation.tests.evaluate.verdicts import scaled

ROOT = Path(__file__).resolve().parents[2]
DATA, PAGE = ROOT / "docs" / "data" / "evidence", ROOT / "docs" / "questions.md"
FILLS = ("mean", "blur")
Pair = tuple[str, str]

BIASES = (
    ("fullgrad", "fullgrad:terms=input"),
    ("fullgrad", "simple_fullgrad"),
    ("fullgrad:psi=signed", "fullgrad:psi=signed,terms=input"),
    ("complete_fullgrad", "input_x_gradient:signed=True"),
    ("balanced_fullgrad", "balanced_input"),
)
COMPLETE = (("complete_fullgrad", "fullgrad:psi=signed"), ("complete_fullgrad", "fullgrad"))
SIGNS = (("fullgrad:psi=signed", "fullgrad"), ("input_x_gradient:signed=True", "input_x_gradient"))


RUNS = ("q-small", "lite0-wide")


def differences(pairs: Iterable[Pair], runs: Iterable[str] = RUNS) -> Any:
    """Return paired differences of stored runs' relevance gain.

    Returns:
        A table with ``pair``, ``fill``, ``model``, ``images``, ``mean``, ``low`` and ``high``.
    """
    return pd.concat([_differences(run, pairs) for run in runs], ignore_index=True)


def _differences(run: str, pairs: Iterable[Pair]) -> Any:
    rows = pd.read_parquet(DATA / f"{run}.parquet")
    rows["model"] = rows["model"].str.rpartition(":")[2]
    each = scaled(rows[rows["test"] == "relevance-gain"])
    found = []
    for first, second in pairs:
        for fill in FILLS:
            of = each[each["setting"].str.startswith(fill)]
            wide = of.pivot_table(index="case", columns=["model", "method"], values="value")
            models = [m for m in dict.fromkeys(of["model"]) if {(m, first), (m, second)} <= {*wide}]
            if not models:
                continue
            gaps = pd.concat([wide[m, first] - wide[m, second] for m in models], axis=1).dropna()
            low, high = simultaneous(gaps.to_numpy())
            found += [
                {
                    "pair": (first, second),
                    "fill": fill,
                    "model": model,
                    "images": len(gaps),
                    "mean": float(gaps.iloc[:, i].mean()),
                    "low": float(low[i]),
                    "high": float(high[i]),
                }
                for i, model in enumerate(models)
            ]
    return pd.DataFrame(found)


def pairs_table(pairs: Iterable[Pair]) -> str:
    """Return the table of differences as Markdown."""
    found = differences(pairs)
    models = list(dict.fromkeys(found["model"]))
    lines = [
        "| first less second | " + " | ".join(models) + " | ▲, ▼ |",
        "|---" + "|---:" * (len(models) + 1) + "|",
    ]
    for pair, group in found.groupby("pair", sort=False):
        cells = []
        for model in models:
            own = group[group["model"] == model].set_index("fill")
            cells.append(", ".join(_number(own.loc[f]) for f in FILLS) if len(own) else "–")
        up, down = int((group["low"] > 0).sum()), int((group["high"] < 0).sum())
        cells.append(f"{up}, {down} of {len(group)}")
        lines.append(f"| `{pair[0]}` less `{pair[1]}` | " + " | ".join(cells) + " |")
    images = found.groupby("model", sort=False)["images"].first()
    return "\n".join([*lines, "| *images* | " + " | ".join(map(str, images)) + " | |"])


def _number(row: Any) -> str:
    mark = " ▲" if row["low"] > 0 else " ▼" if row["high"] < 0 else ""
    return f"{row['mean'] + 0.0:+.2f}{mark}"


def means_table(columns: dict[str, tuple[str, str, str]], methods: Iterable[str]) -> str:
    """Return means with their intervals as Markdown: methods by what is measured.

    Args:
        columns: what a head says: stored ranking, the end of the model's name, setting.
        methods: by their names without options.
    """
    lines = ["| method | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    for method in methods:
        cells = []
        for name, model, setting in columns.values():
            found = pd.read_csv(DATA / f"{name}-ranking.csv")
            own = found[
                (found["method"].str.partition(":")[0] == method)
                & found["model"].str.endswith(model)
                & found["setting"].str.startswith(setting)
            ]
            cells.append(_interval(own.iloc[0]) if len(own) else "–")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(row: Any) -> str:
    mean, low, high = (f"{row[k] + 0.0:.2f}".replace("-0.00", "0.00") for k in _ENDS)
    return f"{mean} [{low}, {high}]"


_ENDS = ("mean", "low", "high")
_OTHER = ("fullgrad", "complete_fullgrad", "path_fullgrad", "grad_cam", "sobel")
_SMALL = ("fullgrad", "complete_fullgrad", "sobel")
_RANDOM = {
    f"{model}, {short}": ("q-random", f":{model}", setting)
    for model in ("resnet", "vit")
    for short, setting in (
        ("eMPRT", "eMPRT"),
        ("correlation, turned", "minus correlation"),
        ("sMPRT, turned", "minus sMPRT"),
    )
}
_LITES = {
    f"{model.capitalize()}, {short}": (f"other-{model}", f"efficientnet_{model}", setting)
    for model in ("lite0", "lite1")
    for short, setting in (("eMPRT", "eMPRT"), ("correlation, turned", "minus correlation"))
}
_SHIFT = {
    f"{model}, {number}": ("q-random", f":{model}", number)
    for model in ("resnet", "vit")
    for number in ("logit", "log-probability", "margin")
}
_CLASSES = {
    f"{model.capitalize()}, {setting}": (f"other-{model}", f"efficientnet_{model}", setting)
    for model in ("lite0", "lite1")
    for setting in ("unlikely class", "second class")
}
TABLES: dict[str, Callable[[], str]] = {
    "biases": lambda: pairs_table(BIASES),
    "random small": lambda: means_table(_RANDOM, _SMALL),
    "random lite": lambda: means_table(_LITES, _OTHER),
    "shift": lambda: means_table(_SHIFT, _SMALL),
    "complete": lambda: pairs_table(COMPLETE),
    "signs": lambda: pairs_table(SIGNS),
    "classes": lambda: means_table(_CLASSES, _OTHER),
}


def written(text: str) -> str:
    """Return a page with its tables made again."""
    for name, make in TABLES.items():
        start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            raise ValueError(f"the page has no marks for {name}")
        text = f"{before}{start}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, make in TABLES.items():
        print(f"{name}\n\n{make()}\n")


if __name__ == "__main__":
    main()
