"""Networks of one kind that go through each step together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from fullgrad.errors import FullGradError

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CLOSE = 1e-3  # of the largest output: stacked and alone differ by rounding


class StackingError(FullGradError):
    """Networks of this kind cannot be trained at once."""


class Networks:
    """Networks that are called together: inputs (K, B, ...) to outputs (K, B, classes).

    A single network is called as it is. Several are stacked: their weights
    and buffers have a first axis of K, over which the forward is vmapped.

    Args:
        modules: in one mode, of one kind.
        device: where.
        channels_last: the memory layout of a single network, which is faster for convolutions.
    """

    def __init__(
        self, modules: Sequence[nn.Module], device: torch.device, channels_last: bool = True
    ) -> None:
        self._modules = [m.to(device) for m in modules]
        self._alone = len(modules) == 1
        self._layout = torch.channels_last if channels_last else torch.preserve_format
        first = self._modules[0]
        if self._alone:
            first.to(memory_format=self._layout)
            self.parameters: dict[str, Tensor] = dict(first.named_parameters())
            self.buffers: dict[str, Tensor] = dict(first.named_buffers())
        else:
            self.skeleton = copy.deepcopy(first).to("meta")
            for module in self.skeleton.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.register_forward_pre_hook(_in_its_precision)
            self.parameters, self.buffers = stack_module_state(self._modules)
        # What a state dict holds (not every buffer, and tied weights under each name), by which
        # name it goes here.
        own = {id(t): name for name, t in (*first.named_parameters(), *first.named_buffers())}
        held = first.state_dict(keep_vars=True)
        self._names = {name: own[id(t)] for name, t in held.items() if id(t) in own}
        extra = 0 if self._alone else 1
        self.decayed = [p for p in self.parameters.values() if p.dim() > 1 + extra]
        self.free = [p for p in self.parameters.values() if p.dim() <= 1 + extra]

    def train(self, mode: bool) -> None:
        """Into training or evaluation mode."""
        (self._modules[0] if self._alone else self.skeleton).train(mode)

    def __call__(self, x: Tensor) -> Tensor:
        """Each network's outputs for its own inputs."""
        if self._alone:
            image = x[0].to(memory_format=self._layout)
            found: Tensor = self._modules[0](image)[None]
            return found

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], image: Tensor) -> Tensor:
            out: Tensor = functional_call(self.skeleton, (parameters, buffers), (image,))
            return out

        stacked: Tensor = torch.vmap(one, randomness="different")(self.parameters, self.buffers, x)
        return stacked

    def state(self, number: int) -> dict[str, Tensor]:
        """The state dict of one of them, on the CPU."""
        whole = {**self.parameters, **self.buffers}
        return {
            name: (whole[own] if self._alone else whole[own][number])
            .detach()
            .cpu()
            .contiguous()
            .clone()
            for name, own in self._names.items()
        }


def _in_its_precision(norm: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hand a vmapped batch-norm what it has the statistics' dtype of.

    Under autocast PyTorch's rule for vmap gives cuDNN weights of the activations' dtype
    and statistics of another, which is refused.
    """
    known = norm.running_mean if norm.running_mean is not None else norm.weight
    return args if known is None else (args[0].to(known.dtype), *args[1:])


def check_stackable(build: Callable[[int], nn.Module], example: Tensor, spec: str) -> None:
    """See that two networks, stacked, can be trained and give what each gives alone.

    On the CPU, where nothing is rounded to less than float32.

    Args:
        build: from a seed to a fresh network.
        example: inputs, shape (2, C, H, W).
        spec: the network's name, for the error.

    Raises:
        StackingError: they cannot, or do not.
    """
    x = example.cpu()
    both = torch.stack([x, x])
    networks = Networks([build(0), build(1)], x.device)
    path: list[tuple[str, nn.Module]] = []
    with torch.random.fork_rng(devices=[]), ExitStack() as hooks:
        _follow(networks.skeleton, path, hooks)
        try:
            networks.train(True)
            networks(both).float().sum().backward()
            networks.train(False)
            path.clear()
            with torch.no_grad():
                found = networks(both)
        except Exception as error:
            name, module = path[-1] if path else ("", networks.skeleton)
            text = str(error).strip().split("\n", maxsplit=1)[0].split(". ")[0].rstrip(".")
            raise StackingError(
                f"{spec} cannot be trained several at once: the module "
                f"{name or '(the model itself)'} ({type(module).__name__}) does not stack "
                f"({text}). Train them one after the other: --group-size 1"
            ) from error
    with torch.no_grad():
        for number in range(2):
            alone = build(number)
            alone.load_state_dict(networks.state(number))
            expected = alone.eval()(x)
            gap = float((found[number] - expected).abs().max())
            if not gap <= _CLOSE * max(1.0, float(expected.abs().max())):
                raise StackingError(
                    f"{spec} cannot be trained several at once: stacked, its output differs by "
                    f"{gap:.3g} from that of the same network alone; does it keep tensors that are "
                    "neither parameters nor buffers? Train them one after the other: --group-size 1"
                )


def _follow(module: nn.Module, path: list[tuple[str, nn.Module]], stack: ExitStack) -> None:
    """Keep the path of modules that have been entered and not left."""

    def entering(name: str) -> Callable[..., None]:
        return lambda part, args: path.append((name, part))

    def leaving(part: nn.Module, args: Any, output: Any) -> None:
        path.pop()

    for name, part in module.named_modules():
        stack.callback(part.register_forward_pre_hook(entering(name)).remove)
        stack.callback(part.register_forward_hook(leaving).remove)
