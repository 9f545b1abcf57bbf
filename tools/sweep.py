"""The decomposition on every architecture at hand: regenerates docs/architectures.md.

Each result is appended to a JSON-lines file as it comes, so an interrupted sweep resumes.

    python tools/sweep.py            # all of it
    python tools/sweep.py --only swin
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fullgrad

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "data" / "architectures.jsonl"
PAGE = ROOT / "docs" / "architectures.md"
BAR = 1e-10
# What to state for models whose layouts cannot be followed.
PLACES = {"nextvit_small": {"stages": "B C (H W)"}}


@dataclass(frozen=True)
class Case:
    """A model, how to call it, and what to explain of it."""

    source: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Any]
    target: Any = None


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


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases, scales and zero-initialised weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            if p.dim() <= 1:
                p.copy_((1 if name.endswith("weight") else 0) + 0.1 * noise)
            elif not bool(p.any()):
                p.copy_(noise / p[0].numel() ** 0.5)
    return model


def calibrate(model: nn.Module, inputs: Any, seed: int = 0) -> None:
    """Batch-norm statistics near, but not at, those of the inputs, so that signals get through."""
    norms = [m for m in model.modules() if getattr(m, "running_var", None) is not None]
    if not norms:
        return
    generator = torch.Generator().manual_seed(seed)
    kept = [m.momentum for m in norms]
    model.eval()
    for m in norms:
        m.momentum = 1.0
        m.train()
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
        for m, momentum in zip(norms, kept, strict=True):
            m.momentum = momentum
            shape = m.running_var.shape
            spread = m.running_var.clamp(min=1e-3).sqrt()
            shift = 0.2 * torch.randn(shape, generator=generator, dtype=spread.dtype)
            m.running_mean += spread * shift
            m.running_var.clamp_(min=1e-3)
            m.running_var *= 0.7 + 0.6 * torch.rand(shape, generator=generator, dtype=spread.dtype)
    model.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


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


def count(build: Callable[[], nn.Module], *, really: bool = True) -> float:
    """Number of parameters, without allocating them where the model allows it."""
    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        if not really:
            return float("inf")
        model = build()
    return sum(p.numel() for p in model.parameters())


# -- torchvision ------------------------------------------------------------------------------


def torchvision_cases(limit: float = 150e6, names: Collection[str] = ()) -> Iterator[Case]:
    import torchvision

    large = {"inception_v3": 299}
    for name in sorted(names) or torchvision.models.list_models(module=torchvision.models):
        options = {"weights": None}
        if name in {"googlenet", "inception_v3"}:
            options["init_weights"] = False
        build = partial(torchvision.models.get_model, name, **options)
        if count(build) <= limit:
            size = large.get(name, 224 if name.startswith(("vit", "maxvit")) else 96)
            yield Case("torchvision", name, build, lambda m, s=size: noise(2, 3, s, s))


def torchvision_dense_cases() -> Iterator[Case]:
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        build = partial(
            torchvision.models.get_model, name, weights=None, weights_backbone=None, num_classes=5
        )
        yield Case(
            "torchvision.segmentation", name, build, lambda m: noise(2, 3, 64, 64), (1, 9, 9)
        )
    for name in torchvision.models.list_models(module=torchvision.models.video):
        build = partial(torchvision.models.get_model, name, weights=None)
        size = 224 if name.startswith("mvit") else 32
        frames = 16 if name.startswith("mvit") else (14 if name == "s3d" else 8)
        size = 224 if name in {"s3d"} else size
        if count(build) <= 60e6:
            yield Case(
                "torchvision.video", name, build, lambda m, f=frames, s=size: noise(2, 3, f, s, s)
            )


# -- timm -------------------------------------------------------------------------------------


_LARGE = ("large", "huge", "giant", "gigantic", "enormous", "xl", "_7b", "so400m", "so150m")


def smallest_of_module(module: str) -> tuple[str, float]:
    """The variant with the fewest parameters; large ones are never allocated to count them."""
    import timm

    names = timm.list_models(module=module)
    sizes = {}
    for name in names:
        build = partial(timm.create_model, name, pretrained=False)
        large = len(names) > 1 and any(word in name for word in _LARGE)
        sizes[name] = count(build, really=not large)
    name = min(sizes, key=lambda n: sizes[n])
    return name, sizes[name]


def _timm_input(model: Any) -> Tensor:
    config = model.pretrained_cfg
    channels, height, width = config["input_size"]
    for size in () if config.get("fixed_input_size") else (96, 128):
        try:
            with torch.no_grad():
                model(noise(1, channels, size, size))
        except Exception:
            continue
        return noise(2, channels, size, size)
    return noise(2, channels, height, width)


_BESIDE = ("botnet26t_256",)  # the smallest of its module, halonet_h1, could not be measured


def timm_cases(
    limit: float = 60e6, chosen: Path | None = None, names: Collection[str] = ()
) -> Iterator[Case]:
    import timm

    if names:
        for name in sorted(names):
            yield Case(
                "timm", name, partial(timm.create_model, name, pretrained=False), _timm_input
            )
        return
    chosen = chosen or ROOT / "docs" / "data" / "timm_smallest.json"
    known = json.loads(chosen.read_text()) if chosen.exists() else {}
    for module in timm.list_modules():
        if module not in known:
            known[module] = smallest_of_module(module)
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.write_text(json.dumps(known, indent=1) + "\n")
        name, size = known[module]
        if size <= limit:
            yield Case(
                "timm", name, partial(timm.create_model, name, pretrained=False), _timm_input
            )
    yield from timm_cases(names=_BESIDE)


# -- recurrent layers, transformers -----------------------------------------------------------


class Last(nn.Module):
    """A sequence layer with a head on its last step, as a user would write it."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = (
            self.layer(x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        )
        out = out[0] if isinstance(out, tuple) else out
        return self.head(out[:, -1])


def sequence_cases() -> Iterator[Case]:
    layers: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "LSTM": (partial(nn.LSTM, 6, 8, 2, batch_first=True, bidirectional=True), 16),
        "GRU": (partial(nn.GRU, 6, 8, 2, batch_first=True), 8),
        "RNN": (partial(nn.RNN, 6, 8, batch_first=True), 8),
        "MultiheadAttention": (partial(nn.MultiheadAttention, 6, 2, batch_first=True), 6),
        "TransformerEncoder": (
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2),
            6,
        ),
    }
    for name, (layer, width) in layers.items():
        yield Case(
            "torch.nn", name, lambda f=layer, w=width: Last(f(), w), lambda m: noise(2, 5, 6)
        )


def _embedded(model: nn.Module) -> dict[str, Tensor]:
    return {"inputs_embeds": noise(2, 7, model.config.hidden_size)}  # type: ignore[union-attr]


def transformers_cases() -> Iterator[Case]:
    import transformers as tf

    small = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "intermediate_size": 48}
    configs: dict[str, Callable[[], nn.Module]] = {
        "BERT": lambda: tf.BertForSequenceClassification(tf.BertConfig(**small, **heads)),
        "GPT-2": lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64)
        ),
        "Llama": lambda: tf.LlamaForCausalLM(
            tf.LlamaConfig(**small, **heads, num_key_value_heads=2)
        ),
        "Mamba": lambda: tf.MambaForCausalLM(tf.MambaConfig(**small, state_size=4)),
    }
    for name, build in configs.items():
        target = None if name == "BERT" else (6, 3)
        yield Case("transformers", name, build, _embedded, target)


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
    model = randomise(case.build().eval())
    inputs = case.inputs(model)
    try:
        calibrate(model, inputs)
    except (RuntimeError, ValueError) as error:
        print(f"  {case.name}: statistics not calibrated: {str(error)[:80]}")
        model.eval()
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    terms, general, residual, as_is, refusal, saliency = 0, [], None, None, "", ""
    share = 0.0
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
    except fullgrad.FullGradError as error:
        refusal = str(error).replace("\n", " ")
    if not isinstance(inputs, dict) and first.dim() >= 4:
        try:
            saliency = _describe_map(fullgrad.saliency(model, first, case.target))
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
    )


def _describe_map(saliency: Tensor) -> str:
    good = bool(torch.isfinite(saliency).all()) and float(saliency.std()) > 0
    return "map" if good else "constant or not finite"


def read_results() -> dict[tuple[str, str], Result]:
    if not RESULTS.exists():
        return {}
    rows = [Result(**json.loads(line)) for line in RESULTS.read_text().splitlines()]
    return {(r.source, r.name): r for r in rows}


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
        "the test has teeth, for where it is small the early layers hardly matter. *General path* lists the operations that no closed-form rule covers, so that their "
        "bias came from forward-mode differentiation. *Map* tells whether `fullgrad.saliency` "
        "gives a finite, non-constant map at the input's size, or refuses because it does not "
        "know where a term's numbers lie. Where a model's own code casts to float32, its sum "
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
        "| source | model | parameters (M) | input | terms | input share | residual | general path | map |",
        "|---|---|---:|---|---:|---:|---:|---|---|",
    ]
    for r in results:
        residual = "refused" if r.residual is None else f"{r.residual:.1e}"
        if r.residual_as_is is not None:
            residual += f" (as is: {r.residual_as_is:.1e})"
        drawn = "refused" if r.saliency.startswith("refused") else r.saliency or "–"
        lines.append(
            f"| {r.source} | `{r.name}` | {r.parameters / 1e6:.2f} | {r.input} | {r.terms} | "
            f"{r.input_share:.0e} | "
            f"{residual} | {', '.join(r.general) or '–'} | {drawn} |"
        )
    if refused:
        lines += ["", "## Refused or not measured", ""]
        lines += [f"- `{r.name}` ({r.source}): {r.refusal}" for r in refused]
    stated = {n: p for n, p in PLACES.items() if any(r.name == n for r in no_maps)}
    if no_maps:
        lines += ["", "## Maps refused", ""]
        lines += [f"- `{r.name}` ({r.source}): {r.saliency[len('refused: ') :]}" for r in no_maps]
    for name, places in stated.items():
        lines += [
            "",
            f"With `activation_layouts={places}`, `{name}` has a map (`tests/test_architectures.py`).",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--again", action="store_true", help="measure models already measured")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = read_results()
    for case in cases():
        key = (case.source, case.name)
        if options.only in case.name and (options.again or key not in results):
            try:
                results[key] = measure(case)
            except Exception as error:
                print(f"{case.source} {case.name}: {type(error).__name__}: {error}", flush=True)
                said = f"not measured, {type(error).__name__}: {str(error)[:120]}"
                results[key] = Result(
                    case.source, case.name, 0, "", 0, 0.0, [], None, None, said, "", 0.0
                )
                RESULTS.write_text("".join(json.dumps(asdict(x)) + "\n" for x in results.values()))
                continue
            r = results[key]
            said = r.refusal or f"{r.terms} terms, residual {r.residual:.1e}"
            print(
                f"{r.source} {r.name}: {said} [{r.seconds:.1f} s] {r.general} {r.saliency[:9]}",
                flush=True,
            )
            RESULTS.write_text("".join(json.dumps(asdict(x)) + "\n" for x in results.values()))
            gc.collect()
    ordered = sorted(results.values(), key=lambda r: (r.source, r.name))
    PAGE.write_text(page(ordered))
    bad = [r for r in ordered if r.residual is None or r.residual > BAR]
    print(f"{len(ordered)} models, {len(bad)} refused or beyond the bar; {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
