"""The methods that are measured, each as a callable without arguments."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import fullgrad
from benchmarks.subjects import Workload

BASELINE = "gradient"
IG_STEPS = 50
SMOOTHGRAD_SAMPLES = 25


class NotApplicableError(Exception):
    """The method says nothing about such a model."""


@dataclass(frozen=True, slots=True)
class Call:
    """One method, ready for one workload.

    Args:
        run: the whole method once.
        warm: a smaller part of it that brings the same code into memory.
        scale: about how many times as long as ``warm`` it takes.
        making: seconds to trace and compile it beforehand, and those of the processor, compilers
            that it started included; None if there is nothing to compile.
    """

    run: Callable[[], Any]
    warm: Callable[[], Any]
    scale: float = 1.0
    making: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A method in the comparison.

    Args:
        label: in tables and plots.
        group: methods of one group take turns within the same rounds; a ``heavy`` method has its
            own few rounds, with the baseline alongside; ``compiled`` ones have their own table.
        prepare: from a workload to the call.
        package: what must be installed for it.
    """

    label: str
    group: Literal["core", "light", "heavy", "compiled"]
    prepare: Callable[[Workload], Call]
    package: str = ""


def _whole(run: Callable[[], Any]) -> Call:
    return Call(run, run)


def _forward(w: Workload) -> Call:
    def run() -> Any:
        with torch.no_grad():
            return w.model(w.x)

    return _whole(run)


def input_gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """A forward pass and the gradient of the targets' sum with respect to the input alone."""
    leaf = x.detach().requires_grad_()
    output = model(leaf)
    return torch.autograd.grad(output.gather(1, target[:, None]).sum(), leaf)[0]


def _gradient(w: Workload) -> Call:
    return _whole(lambda: input_gradient(w.model, w.x, w.target))


def _decompose(w: Workload) -> Call:
    return _whole(lambda: fullgrad.decompose(w.model, w.x, w.target))


def _saliency(w: Workload) -> Call:
    return _whole(lambda: fullgrad.saliency(w.model, w.x, w.target))


def _balanced(w: Workload) -> Call:
    return _whole(lambda: fullgrad.saliency(w.model, w.x, w.target, linearization="balanced"))


def _complete(w: Workload) -> Call:
    return _whole(lambda: fullgrad.complete_map(w.model, w.x, w.target))


def _compiled(mode: Any, w: Workload) -> Call:
    start = _now()
    compiled = fullgrad.compile(w.model, w.x, w.target, mode=mode)
    making = _since(start)

    def run() -> Any:
        return compiled(w.x, w.target).map

    return Call(run, run, making=making)


def _compiled_gradient(w: Workload) -> Call:
    """The input-gradient alone as one graph, which holds nothing that it does not need."""
    start = _now()
    graph = make_fx(partial(input_gradient, w.model))(w.x, w.target)
    for node in graph.graph.nodes:  # in the compiler's memory layouts not every view is possible
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()
    compiled = torch.compile(graph, fullgraph=True)

    def run() -> Any:
        with torch.no_grad():
            return compiled(w.x, w.target)

    run()
    return Call(run, run, making=_since(start))


def _now() -> tuple[float, float]:
    return time.perf_counter(), sum(os.times()[:4])


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, processor = _now()
    return wall - start[0], processor - start[1]


def _captum_gradient(w: Workload) -> Call:
    method = _captum().Saliency(w.model)
    return _whole(lambda: method.attribute(_leaf(w.x), target=w.target, abs=False))


def _captum_gradcam(w: Workload) -> Call:
    convolutions = [m for m in w.model.modules() if isinstance(m, nn.Conv2d)]
    if len(convolutions) < 2:
        raise NotApplicableError(
            "Grad-CAM needs a convolution behind the first layer; the only one cuts the image "
            "into patches"
            if convolutions
            else "Grad-CAM needs a convolution; the model has none"
        )
    method = _captum().LayerGradCam(w.model, convolutions[-1])
    return _whole(lambda: method.attribute(_leaf(w.x), target=w.target))


def _integrated_gradients(w: Workload) -> Call:
    method = _captum().IntegratedGradients(w.model)

    def run(steps: int) -> Any:
        # One step of the whole batch at a time: otherwise all steps are one batch in memory.
        return method.attribute(
            _leaf(w.x), target=w.target, n_steps=steps, internal_batch_size=len(w.x)
        )

    return Call(lambda: run(IG_STEPS), lambda: run(2), IG_STEPS / 2)


def _smoothgrad(w: Workload) -> Call:
    captum = _captum()
    model: Any = w.model
    if w.x.dtype != torch.float32:  # Captum's noise is float32 whatever the input is
        model = lambda x: w.model(x.to(w.x.dtype))  # noqa: E731
    method = captum.NoiseTunnel(captum.Saliency(model))

    def run(samples: int) -> Any:
        return method.attribute(
            _leaf(w.x),
            nt_type="smoothgrad",
            nt_samples=samples,
            nt_samples_batch_size=1,
            stdevs=0.1,
            target=w.target,
            abs=False,
        )

    return Call(lambda: run(SMOOTHGRAD_SAMPLES), lambda: run(2), SMOOTHGRAD_SAMPLES / 2)


def _gradcam_fullgrad(w: Workload) -> Call:
    package: Any = importlib.import_module("pytorch_grad_cam")
    targets: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    classes = w.target.tolist()

    def run(samples: int) -> Any:
        # Its hooks slow down whatever else runs the model, so they are part of each call.
        method = package.FullGrad(model=w.model, target_layers=[])
        try:
            return method(
                w.x[:samples],
                targets=[targets.ClassifierOutputTarget(c) for c in classes[:samples]],
            )
        finally:
            method.activations_and_grads.release()

    return Call(lambda: run(len(w.x)), lambda: run(1), float(len(w.x)))


def _captum() -> Any:
    return importlib.import_module("captum.attr")


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


METHODS = {
    "forward": Method("forward", "core", _forward),
    BASELINE: Method("forward + input-gradient", "core", _gradient),
    "decompose": Method("fullgrad.decompose", "core", _decompose),
    "saliency": Method("fullgrad.saliency", "core", _saliency),
    "balanced": Method("fullgrad.saliency, balanced", "core", _balanced),
    "complete": Method("fullgrad.complete_map", "core", _complete),
    "captum_gradient": Method("Captum gradient", "light", _captum_gradient, "captum"),
    "captum_gradcam": Method("Captum Grad-CAM", "light", _captum_gradcam, "captum"),
    "captum_smoothgrad": Method(
        f"Captum SmoothGrad ({SMOOTHGRAD_SAMPLES})", "heavy", _smoothgrad, "captum"
    ),
    "captum_ig": Method(
        f"Captum integrated gradients ({IG_STEPS})", "heavy", _integrated_gradients, "captum"
    ),
    "gradcam_fullgrad": Method(
        "grad-cam's FullGrad", "heavy", _gradcam_fullgrad, "pytorch_grad_cam"
    ),
    "compiled_cudagraphs": Method(
        "fullgrad.compile, cudagraphs", "compiled", partial(_compiled, "cudagraphs")
    ),
    "compiled_gradient": Method(
        "forward + input-gradient, inductor", "compiled", _compiled_gradient
    ),
    "compiled_graph": Method("fullgrad.compile, graph", "compiled", partial(_compiled, "graph")),
    "compiled_inductor": Method(
        "fullgrad.compile, inductor", "compiled", partial(_compiled, "inductor")
    ),
}
# Measured only if they are named: what takes minutes to make, or pays on the other device.
ON_REQUEST = {
    "cpu": ("compiled_cudagraphs", "compiled_gradient", "compiled_inductor"),
    "cuda": ("compiled_graph", "compiled_gradient", "compiled_inductor"),
}
CORE = ("forward", BASELINE, "decompose", "saliency")


def of_kind(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Which of the methods a kind of measurement takes.

    Args:
        kind: see :class:`benchmarks.tasks.Task`.
        names: of methods.
    """
    compiled = tuple(n for n in names if METHODS[n].group == "compiled")
    if kind == "compiled":
        return (BASELINE, "saliency", *compiled)
    return tuple(n for n in names if n not in compiled)


def groups(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The methods that take turns within the same rounds, the baseline always among them.

    Args:
        names: of methods, in the order of ``METHODS``.

    Returns:
        Groups in the order of their cost.
    """
    found = []
    for group in ("core", "light"):
        members = tuple(n for n in names if METHODS[n].group == group)
        if members:
            found.append(members)
    found += [(n,) for n in names if METHODS[n].group == "heavy"]
    return [members if BASELINE in members else (BASELINE, *members) for members in found]


def check_installed(names: tuple[str, ...]) -> None:
    """Refuse to begin where a package is missing.

    Raises:
        ImportError: names the package.
    """
    for package in (
        "matplotlib",
        "torchvision",
        *sorted({METHODS[n].package for n in names} - {""}),
    ):
        importlib.import_module(package)
