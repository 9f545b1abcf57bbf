"""The models of the sweep, how to call them, and random numbers that make them a hard test."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """A model, how to call it, and what to explain of it."""

    source: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Any]
    target: Any = None


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases, scales and zero-initialized weights, in float64."""
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
    norms: list[Any] = [m for m in model.modules() if getattr(m, "running_var", None) is not None]
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


def _noise(*given: Any) -> Tensor:
    """The same as the inputs of a case; the model, behind the shape, does not matter."""
    return noise(*given[:-1])


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
        options: dict[str, Any] = {"weights": None}
        if name in {"googlenet", "inception_v3"}:
            options["init_weights"] = False
        build = partial(torchvision.models.get_model, name, **options)
        if count(build) <= limit:
            size = large.get(name, 224 if name.startswith(("vit", "maxvit")) else 96)
            yield Case("torchvision", name, build, partial(_noise, 2, 3, size, size))


def torchvision_dense_cases() -> Iterator[Case]:
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        build = partial(
            torchvision.models.get_model, name, weights=None, weights_backbone=None, num_classes=5
        )
        inputs = partial(_noise, 2, 3, 64, 64)
        yield Case("torchvision.segmentation", name, build, inputs, (1, 9, 9))
    for name in torchvision.models.list_models(module=torchvision.models.video):
        build = partial(torchvision.models.get_model, name, weights=None)
        size = 224 if name.startswith("mvit") else 32
        frames = 16 if name.startswith("mvit") else (14 if name == "s3d" else 8)
        size = 224 if name in {"s3d"} else size
        if count(build) <= 60e6:
            inputs = partial(_noise, 2, 3, frames, size, size)
            yield Case("torchvision.video", name, build, inputs)


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
        result: Tensor = self.head(out[:, -1])
        return result


def _last(layer: Callable[[], nn.Module], width: int) -> nn.Module:
    return Last(layer(), width)


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
        yield Case("torch.nn", name, partial(_last, layer, width), partial(_noise, 2, 5, 6))


def _embedded(model: Any) -> dict[str, Tensor]:
    return {"inputs_embeds": noise(2, 7, model.config.hidden_size)}


def transformers_cases() -> Iterator[Case]:
    import transformers as tf

    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    heads: dict[str, Any] = {"num_attention_heads": 4, "intermediate_size": 48}
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
