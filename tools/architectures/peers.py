"""The README's table of peers: the same models through each package, and what comes out.

    pip install captum grad-cam torchcam zennit
    python tools/architectures/peers.py            # measures (half an hour), then writes the table
    python tools/architectures/peers.py --only fullgrad    # measures one of them again
    python tools/architectures/peers.py --table    # writes the table again, from docs/data/peers.json

Each package gets the model, the input and the class, and what its documentation asks for, but no
layer's name and no function for one architecture. Weights and inputs are random, in float32.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fullgrad
from swept_models import ROOT, calibrate, noise, randomize

STORED, README = ROOT / "docs/data/peers.json", ROOT / "README.md"
START, END = "<!-- peers: start -->", "<!-- peers: end -->"
NETWORKS = (
    "resnet18",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)
ROUNDS = 5


class Found(NamedTuple):
    """A map of one input, and, if the package promises a sum, the sum and what it should be."""

    map: Tensor
    sum: float | None = None
    promised: float | None = None


def _fullgrad(model: nn.Module, x: Tensor, target: int) -> Found:
    return Found(fullgrad.saliency(model, x, target))


def _terms(model: nn.Module, x: Tensor, target: int) -> Found:
    d = fullgrad.decompose(model, x, target)
    return Found(d.input_terms[0], float(d.output - d.residual), float(d.output))


def _against_zero(name: str, model: nn.Module, x: Tensor, target: int, **options: Any) -> Found:
    method = getattr(importlib.import_module("captum.attr"), name)(model)
    zero = torch.zeros_like(x)
    found = method.attribute(x, baselines=zero, target=target, **options)
    with torch.no_grad():
        promised = model(x)[0, target] - model(zero)[0, target]
    return Found(found, float(found.sum()), float(promised))


_integrated = partial(_against_zero, "IntegratedGradients", n_steps=50, internal_batch_size=10)
_deep_lift = partial(_against_zero, "DeepLift")


def _grad_cam(model: nn.Module, x: Tensor, target: int) -> Found:
    package: Any = importlib.import_module("pytorch_grad_cam")
    targets: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    with package.FullGrad(model=model, target_layers=[]) as method:
        found = method(x.clone(), targets=[targets.ClassifierOutputTarget(target)])
    return Found(torch.as_tensor(found))


def _zennit(model: nn.Module, x: Tensor, target: int) -> Found:
    composites: Any = importlib.import_module("zennit.composites")
    ready: Any = importlib.import_module("zennit.torchvision")
    attribution: Any = importlib.import_module("zennit.attribution")
    names = [type(m).__name__ for m in model.modules()]
    canonizer = ready.ResNetCanonizer if "ResNet" in names else ready.VGGCanonizer
    composite = composites.EpsilonPlusFlat(canonizers=[canonizer()])
    with attribution.Gradient(model=model, composite=composite) as attributor:
        _, found = attributor(
            x.clone(), lambda y: nn.functional.one_hot(torch.tensor([target]), y.shape[1]) * y
        )
    return Found(found.detach())


def _torchcam(model: nn.Module, x: Tensor, target: int) -> Found:
    package: Any = importlib.import_module("torchcam.methods")
    with package.LayerCAM(model, input_shape=tuple(x.shape[1:])) as method:
        output = model(x.clone().requires_grad_())
        return Found(method(target, output)[0])


class Peer(NamedTuple):
    """A package's method: how it is called here, and where all its methods are found."""

    title: str
    package: str
    explain: Callable[[nn.Module, Tensor, int], Found]
    summed: Callable[[nn.Module, Tensor, int], Found] | None


PEERS = {
    "fullgrad": Peer("fullgrad: FullGrad", "fullgrad", _fullgrad, _terms),
    "integrated": Peer("Captum: integrated gradients (50)", "captum", _integrated, _integrated),
    "deep_lift": Peer("Captum: DeepLIFT", "captum", _deep_lift, _deep_lift),
    "zennit": Peer("zennit: EpsilonPlusFlat", "zennit", _zennit, None),
    "grad_cam": Peer("grad-cam: FullGrad", "grad-cam", _grad_cam, None),
    "torchcam": Peer("torchcam: LayerCAM", "torchcam", _torchcam, None),
}


class LeftHalf(nn.Module):
    """A network that reads the left half of the image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x[..., : x.shape[-1] // 2])
        return result


def small(rank: int) -> nn.Module:
    """A network of two convolutions for series (1) or volumes (3)."""
    conv, norm, pool = (
        getattr(nn, f"{n}{rank}d") for n in ("Conv", "BatchNorm", "AdaptiveAvgPool")
    )
    return nn.Sequential(
        conv(2, 6, 3),
        norm(6),
        nn.ReLU(),
        conv(6, 4, 3),
        nn.ReLU(),
        pool(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def built(make: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    """A model with random biases and scales, in float32."""
    torch.manual_seed(0)
    model = randomize(make().eval())
    calibrate(model, torch.cat([x.double(), x.double().flip(-1)]))
    return model.float()


def networks() -> list[tuple[str, nn.Module, Tensor]]:
    import torchvision

    x = noise(1, 3, 224, 224).float()
    get = torchvision.models.get_model
    return [(name, built(partial(get, name, weights=None), x), x) for name in NETWORKS]


def target_of(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return int(model(x)[0].argmax())


def is_map(found: Found, x: Tensor) -> bool:
    """Whether there is a finite number for each position of some grid, and not one number for all."""
    heat = found.map
    grid = heat.ndim >= x.ndim - 1 and all(n > 1 for n in heat.shape[2 - x.ndim :])
    return grid and bool(heat.isfinite().all()) and float(heat.max() - heat.min()) > 0


def state(model: nn.Module) -> dict[str, Any]:
    """What a call should leave as it was."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "hooks": sum(len(getattr(m, h)) for m in model.modules() for h in hooks),
        "training flags": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        ".grad": [p.grad is None for p in model.parameters()],
        "values": [float(v.double().sum()) for v in model.state_dict().values()],
    }


def attempt(call: Callable[[], Found]) -> Found | str:
    try:
        return call()
    except Exception as error:  # whatever a package raises is the answer
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100] if str(error) else ''}"


def seconds(call: Callable[[], object]) -> float:
    """What a call takes of the processor: other programs of the machine hardly change it."""
    began = time.process_time()
    call()
    return time.process_time() - began


def gradient(model: nn.Module, x: Tensor, target: int) -> None:
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(model(leaf)[0, target], leaf)


def through(peer: Peer, model: nn.Module, x: Tensor, *, timed: bool) -> dict[str, Any]:
    """One package on one model: whether there is a map, how far the sum is off, and the cost."""
    target, before = target_of(model, x), state(model)
    found = attempt(lambda: peer.explain(model, x, target))
    after = state(model)
    row: dict[str, Any] = {"changed": [k for k in before if before[k] != after[k]]}
    for p in model.parameters():
        p.grad = None
    if isinstance(found, str) or not is_map(found, x):
        return row | {
            "map": False,
            "said": found if isinstance(found, str) else "constant or not finite",
        }
    row["map"] = True
    if peer.summed is not None:
        summed = found if peer.summed is peer.explain else peer.summed(model, x, target)
        row |= {"sum": summed.sum, "promised": summed.promised}
    if timed:
        pairs = []
        for _ in range(ROUNDS):
            plain = seconds(lambda: gradient(model, x, target))
            pairs.append(seconds(lambda: peer.explain(model, x, target)) / plain)
            if pairs[-1] > 10:  # once is enough
                break
        row["gradients"] = median(pairs)
    return row


def on_the_left(peer: Peer) -> float | str:
    """The share of a map's size in the half that the network reads, the map stretched to the image."""
    import torchvision

    x = noise(1, 3, 224, 224).float()
    make = partial(torchvision.models.get_model, "resnet18", weights=None)
    model = built(lambda: LeftHalf(make()), x)
    found = attempt(lambda: peer.explain(model, x, target_of(model, x)))
    if isinstance(found, str):
        return found
    heat = found.map.detach().float().abs()
    heat = heat.reshape(1, -1, *heat.shape[-2:]).sum(1, keepdim=True)
    heat = nn.functional.interpolate(heat, x.shape[2:], mode="bilinear")
    return float(heat[..., : x.shape[-1] // 2].sum() / heat.sum())


def methods_of(package: str) -> int:
    """How many methods a package has: names, or classes, of its public interface."""
    if package == "fullgrad":
        return len(fullgrad.methods.names())
    place = {
        "grad-cam": "pytorch_grad_cam",
        "captum": "captum.attr",
        "torchcam": "torchcam.methods",
        "zennit": "zennit.composites",
    }[package]
    module = importlib.import_module(place)
    kinds = [v for n, v in vars(module).items() if inspect.isclass(v) and not n.startswith("_")]
    if package == "zennit":
        return len(module.COMPOSITES)
    base = {"captum": "Attribution", "grad-cam": "BaseCAM", "torchcam": "_CAM"}[package]
    inner = {
        "captum": "captum.attr",
        "grad-cam": "pytorch_grad_cam.base_cam",
        "torchcam": "torchcam.methods.core",
    }
    parent = getattr(importlib.import_module(inner[package]), base)
    return sum(issubclass(k, parent) and k is not parent for k in kinds)


def measured(only: list[str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    peers = {name: PEERS[name] for name in only}
    rows: dict[str, Any] = {name: {"networks": {}, "other": {}} for name in peers}
    for network, model, x in networks():
        for name, peer in peers.items():
            rows[name]["networks"][network] = row = through(peer, model, x, timed=True)
            print(network, name, json.dumps(row), flush=True)
    for rank in (1, 3):
        x = noise(1, 2, *[12] * rank).float()
        for name, peer in peers.items():
            model = built(partial(small, rank), x)
            rows[name]["other"]["series" if rank == 1 else "volumes"] = through(
                peer, model, x, timed=False
            )
    for name, peer in peers.items():
        rows[name]["left"] = on_the_left(peer)
        rows[name]["methods"] = methods_of(peer.package)
        rows[name]["version"] = version(peer.package)
    return {"torch": torch.__version__, "threads": 1, "rounds": ROUNDS, "peers": rows}


def cells(name: str, row: dict[str, Any]) -> list[str]:
    """One package's row, from what is stored."""
    tried = list(row["networks"].values())
    maps = [r for r in tried if r["map"]]
    summed = maps if PEERS[name].summed else []
    off = [abs(r["sum"] - r["promised"]) / abs(r["promised"]) for r in summed]
    changed = sorted({c for r in tried for c in r["changed"]})
    left = row["left"]
    return [
        f"{len(maps)} of {len(tried)}",
        f"{max(off):.2g}" if off else "no sum",
        f"{100 * left:.0f} %" if isinstance(left, float) else "–",
        ", ".join(kind for kind, r in row["other"].items() if r["map"]) or "–",
        f"{median(r['gradients'] for r in maps):.3g}" if maps else "–",
        ", ".join(changed) or "nothing",
        str(row["methods"]),
    ]


QUESTIONS = (
    "networks with a map",
    "sum off by at most (relative)",
    "on the half that is read",
    "other inputs",
    "cost in gradients",
    "changes in the model",
    "methods",
)


def table(stored: dict[str, Any]) -> str:
    lines = [f"| package: method | {' | '.join(QUESTIONS)} |", "|---|" + "---|" * len(QUESTIONS)]
    for name, peer in PEERS.items():
        lines.append(f"| {peer.title} | {' | '.join(cells(name, stored['peers'][name]))} |")
    used = {p.package: stored["peers"][n]["version"] for n, p in PEERS.items() if n != "fullgrad"}
    versions = ", ".join(f"{name} {number}" for name, number in used.items())
    return "\n".join([*lines, "", f"(torch {stored['torch']}, {versions}; CPU, one thread.)"])


def write(stored: dict[str, Any], page: Path = README) -> None:
    text = page.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    page.write_text(f"{before}{START}\n{table(stored)}\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--table", action="store_true", help="write the table from what is stored")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), help="leave the others' rows")
    options = parser.parse_args()
    if not options.table:
        found = measured(options.only or list(PEERS))
        if options.only:
            kept = json.loads(STORED.read_text(encoding="utf-8"))
            found["peers"] = {**kept["peers"], **found["peers"]}
        STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write(json.loads(STORED.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
