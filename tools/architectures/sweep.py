"""The decomposition on every available architecture: regenerates docs/architectures.md.

Each result is appended to a JSON-lines file as it comes, so an interrupted sweep resumes.

    python tools/architectures/sweep.py            # all of it
    python tools/architectures/sweep.py --only swin
    python tools/architectures/sweep.py --maps     # the maps alone, in float32, of models measured
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import fullgrad
from swept_models import (
    ROOT,
    Case,
    calibrate,
    randomize,
    sequence_cases,
    timm_cases,
    torchvision_cases,
    torchvision_dense_cases,
    transformers_cases,
)

RESULTS = ROOT / "docs" / "data" / "architectures.jsonl"
PAGE = ROOT / "docs" / "architectures.md"
BAR = 1e-10


@dataclass(frozen=True)
class Result:
    source: str
    name: str
    parameters: float
    input: str
    terms: int
    input_share: float
    general: list[str]
    residual: float | None
    residual_as_is: float | None
    refusal: str
    saliency: str
    seconds: float
    balanced: float | None = None
    implicit: dict[str, float] | None = None
    complete: float | None = None
    complete32: float | None = None


class StayDouble(TorchFunctionMode):
    """Lifts casts to float32 that a model's code makes to float64, so that rounding stays out."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def cases() -> Iterator[Case]:
    yield from sequence_cases()
    yield from transformers_cases()
    yield from torchvision_dense_cases()
    yield from torchvision_cases()
    yield from timm_cases()


# -- measuring and reporting ------------------------------------------------------------------


def measure(case: Case) -> Result:
    """Decompose one model; a refusal by fullgrad is a result, any other error is not caught."""
    torch.manual_seed(0)
    started = time.perf_counter()
    model = randomize(case.build().eval())
    inputs = case.inputs(model)
    try:
        calibrate(model, inputs)
    except (RuntimeError, ValueError) as error:
        print(f"  {case.name}: statistics not calibrated: {str(error)[:80]}")
        model.eval()
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    terms, residual, as_is, refusal, saliency = 0, None, None, "", ""
    general: list[str] = []
    share, balanced, implicit, complete, complete32 = 0.0, None, None, None, None
    try:
        # The bar is applied below: a model whose own code casts to float32 cannot meet it.
        found = fullgrad.decompose(model, inputs, case.target)
        if float(found.relative_residual.max()) > BAR:
            as_is = float(found.relative_residual.max())
            with StayDouble():
                found = fullgrad.decompose(model, inputs, case.target)
        terms, residual = len(found), float(found.relative_residual.max())
        share = float((found.input_sums.abs() / found.scale).max())
        general = sorted({op for _, op in found.general_path})
        del found
        balanced, implicit = _balanced(model, inputs, case, lift=as_is is not None)
    except fullgrad.FullGradError as error:
        refusal = str(error).replace("\n", " ")
    if not isinstance(inputs, dict) and first.dim() >= 4:
        try:
            saliency = _describe_map(fullgrad.saliency(model, first, case.target))
            complete = _complete(model, first, case, lift=as_is is not None)
            complete32 = _maps(model.float(), first.float(), case)[1]
        except fullgrad.FullGradError as error:
            saliency = "refused: " + str(error).split(" Choose")[0]
    size = sum(p.numel() for p in model.parameters())
    shape = "×".join(map(str, first.shape))
    seconds = time.perf_counter() - started
    return Result(
        case.source,
        case.name,
        size,
        shape,
        terms,
        share,
        general,
        residual,
        as_is,
        refusal,
        saliency,
        seconds,
        balanced,
        implicit,
        complete,
        complete32,
    )


def _balanced(
    model: torch.nn.Module, inputs: Any, case: Case, lift: bool
) -> tuple[float, dict[str, float]]:
    """The residual of the balanced linearization, and what is left to implicit biases."""
    with StayDouble() if lift else nullcontext():
        found = fullgrad.decompose(model, inputs, case.target, linearization="balanced")
    return float(found.relative_residual.max()), found.implicit_shares()


def _complete(model: torch.nn.Module, x: Tensor, case: Case, lift: bool) -> float:
    """How far the complete map and what is elsewhere are from the output."""
    with StayDouble() if lift else nullcontext():
        found = fullgrad.complete_map(model, x, case.target, linearization="balanced")
    whole = found.map.flatten(1).sum(1, dtype=torch.float64) + found.elsewhere
    scale = found.map.flatten(1).abs().sum(1, dtype=torch.float64) + found.elsewhere.abs()
    return float(((found.output - whole).abs() / scale).max())


def _maps(model: torch.nn.Module, x: Tensor, case: Case) -> tuple[str, float | None]:
    """Whether the paper's map is drawn, and how far the complete one is from the output."""
    try:
        said = _describe_map(fullgrad.saliency(model, x, case.target))
        return said, _complete(model, x, case, lift=False)
    except fullgrad.FullGradError as error:
        return "refused: " + str(error).split(" Choose")[0], None


def maps_again(case: Case, before: Result) -> Result:
    """A model's row with its maps measured again, in float32."""
    model = randomize(case.build().eval())
    inputs = case.inputs(model)
    calibrate(model, inputs)
    said, complete32 = _maps(model.float(), inputs.float(), case)
    return replace(before, saliency=said, complete32=complete32)


def _describe_map(saliency: Tensor) -> str:
    good = bool(torch.isfinite(saliency).all()) and float(saliency.std()) > 0
    return "map" if good else "constant or not finite"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _shares(implicit: dict[str, float] | None) -> str:
    if implicit is None:
        return "–"
    named = [f"{op} {share:.0e}" for op, share in list(implicit.items())[:3]]
    return ", ".join(named) + ", …" * (len(implicit) > 3) if implicit else "0"


def read_results() -> dict[tuple[str, str], Result]:
    if not RESULTS.exists():
        return {}
    rows = [Result(**json.loads(line)) for line in RESULTS.read_text().splitlines()]
    return {(r.source, r.name): r for r in rows}


def write_results(results: dict[tuple[str, str], Result]) -> None:
    RESULTS.write_text("".join(json.dumps(asdict(x)) + "\n" for x in results.values()))


def page(results: list[Result]) -> str:
    import timm
    import torchvision
    import transformers

    exact = [r for r in results if r.residual is not None]
    refused = [r for r in results if r.residual is None]
    maps = [r for r in results if r.saliency == "map"]
    no_maps = [r for r in results if r.saliency.startswith("refused")]
    lines = [
        "# Architectures",
        "",
        "Written by `make sweep`. Each model is decomposed in float64 for a batch of two random "
        "inputs, with random weights, biases, scales and batch-norm statistics. *Residual* is "
        "the larger of the two samples' |output − sum of terms| / (|output| + sum of |terms|). "
        "*Input share* is |input term| over the same sum: it shows that "
        "the test has teeth, for where it is small the early layers hardly matter. *Forward mode* lists the operations that no closed-form rule covers, so that their "
        "bias came from forward-mode differentiation. *Map* tells whether `fullgrad.saliency` "
        "gives a finite, non-constant map at the input's size, or refuses because it does not "
        "know where a term's numbers lie. *Balanced* is the residual of the balanced linearization "
        "(docs/linearization.md), and *implicit* the share of the terms' sizes that it leaves to "
        "implicit biases, by operation; *complete* tells how far its complete map and what is "
        "elsewhere are from the output, relative to their sizes, in float64 and "
        "in float32 (a dash: no map). `--maps` measures the maps alone, in float32. Where a model's own code casts to float32, its sum "
        "closes to float32's rounding only (*as is*); the first number is then with those casts "
        "lifted to float64.",
        "",
        f"{len(exact)} of {len(results)} models decompose with a residual of at most {BAR:.0e}; "
        f"{len(refused)} are refused or could not be measured (listed below). Maps: {len(maps)} drawn, {len(no_maps)} refused.",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}, "
        f"transformers {transformers.__version__}, CPU.",
        "",
        "| source | model | parameters (M) | input | terms | input share | residual | forward mode | map | balanced | implicit | complete | in float32 |",
        "|---|---|---:|---|---:|---:|---:|---|---|---:|---|---:|---:|",
    ]
    for r in results:
        residual = "refused" if r.residual is None else f"{r.residual:.1e}"
        if r.residual_as_is is not None:
            residual += f" (as is: {r.residual_as_is:.1e})"
        drawn = "refused" if r.saliency.startswith("refused") else r.saliency or "–"
        lines.append(
            f"| {r.source} | `{r.name}` | {r.parameters / 1e6:.2f} | {r.input} | {r.terms} | "
            f"{r.input_share:.0e} | "
            f"{residual} | {', '.join(r.general) or '–'} | {drawn} | {_number(r.balanced)} | "
            f"{_shares(r.implicit)} | {_number(r.complete)} | {_number(r.complete32)} |"
        )
    if refused:
        lines += ["", "## Refused or not measured", ""]
        lines += [f"- `{r.name}` ({r.source}): {r.refusal}" for r in refused]
    if no_maps:
        lines += ["", "## Maps refused", ""]
        lines += [f"- `{r.name}` ({r.source}): {r.saliency[len('refused: ') :]}" for r in no_maps]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--again", action="store_true", help="measure models already measured")
    parser.add_argument(
        "--maps", action="store_true", help="their maps alone, in float32, where not measured yet"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = read_results()
    for case in cases():
        key = (case.source, case.name)
        if options.maps:
            row = results.get(key)
            if options.only in case.name and row and row.saliency and row.complete32 is None:
                results[key] = maps_again(case, row)
                print(f"{case.source} {case.name}: {results[key].saliency}", flush=True)
                write_results(results)
                gc.collect()
            continue
        if options.only in case.name and (options.again or key not in results):
            try:
                results[key] = measure(case)
            except Exception as error:
                print(f"{case.source} {case.name}: {type(error).__name__}: {error}", flush=True)
                said = f"not measured, {type(error).__name__}: {str(error)[:120]}"
                results[key] = Result(
                    case.source, case.name, 0, "", 0, 0.0, [], None, None, said, "", 0.0
                )
                write_results(results)
                continue
            r = results[key]
            said = r.refusal or f"{r.terms} terms, residual {r.residual:.1e}"
            print(
                f"{r.source} {r.name}: {said} [{r.seconds:.1f} s] {r.general} {r.saliency[:9]}",
                flush=True,
            )
            write_results(results)
            gc.collect()
    ordered = sorted(results.values(), key=lambda r: (r.source, r.name))
    PAGE.write_text(page(ordered))
    bad = [r for r in ordered if r.residual is None or r.residual > BAR]
    print(f"{len(ordered)} models, {len(bad)} refused or beyond the bar; {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
