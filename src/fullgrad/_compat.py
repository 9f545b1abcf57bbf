"""The only module that touches private parts of PyTorch.

Each function says which part, so that a new version of PyTorch has one place to break.
"""

from __future__ import annotations

import functools
import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CodeType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._ops import OpOverload as OpOverload  # noqa: PLC0414
from torch.autograd.function import BackwardCFunction
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

_lock = threading.Lock()
_modes: set[int] = set()  # at work in any thread
_kept: dict[str, bool] = {}


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that leaves PyTorch's flags as they were, also with several threads.

    PyTorch marks in variables of the process that a mode is at work, and each mode puts back what
    it found. Modes of two threads that overlap leave the mark: then nothing is compiled any more.
    """

    def __enter__(self) -> Self:
        with _lock:
            if not _modes:
                found = vars(_python_dispatch).items()
                _kept.update(
                    {k: v for k, v in found if k.startswith("_is_in_") and v in (True, False)}
                )
            _modes.add(id(self))
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        with _lock:
            _modes.discard(id(self))
            if not _modes:
                vars(_python_dispatch).update(_kept)
                tell = getattr(
                    _python_dispatch, "set_is_in_mode_without_ignore_compile_internals", None
                )
                if tell is not None:
                    tell(_kept["_is_in_any_mode_without_ignore_compile_internals"])


# The code of ``nn.Module``'s call, which stands on the stack for each module under execution.
MODULE_CALL: CodeType = nn.Module._call_impl.__code__


def schema_of(func: Any) -> Any:
    """The schema of an operation that a dispatch mode is given."""
    return func._schema


def own_autograd(func: Any) -> bool:
    """Whether an operation's gradient was registered by others than PyTorch.

    Autograd then runs the operation inside a function of its own, with gradients off.
    """
    return func.namespace not in {"aten", "prim", "prims"} and (
        torch._C._dispatch_has_kernel_for_dispatch_key(func._schema.name, "Autograd")
        or torch._C._dispatch_has_kernel_for_dispatch_key(func._schema.name, "AutogradCPU")
        or torch._C._dispatch_has_kernel_for_dispatch_key(func._schema.name, "AutogradCUDA")
    )


def is_python_function(node: Any) -> bool:
    """Whether an autograd node belongs to a ``torch.autograd.Function``."""
    return isinstance(node, BackwardCFunction)


def passes_hooks(node: Any) -> bool:
    """Whether a node is of the function around a module with full backward hooks: an identity."""
    return is_python_function(node) and node.name() == "BackwardHookFunctionBackward"


def has_backward_hooks(module: nn.Module) -> bool:
    """Whether functions of the user's see, and may change, gradients at a module."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def node_was_registered(node: Any, func: Any) -> bool:
    """Whether an autograd node belongs to the gradient that was registered for an operation.

    ``torch.library`` makes a ``torch.autograd.Function`` of a fixed name; C++ makes nodes that
    are no Python functions.
    """
    if not isinstance(node, BackwardCFunction):
        return True
    made = f"GeneratedBackwardFor_{func._namespace}_{func._opname}_{func._overloadname}"
    return type(node).__name__ == f"{made}Backward"


def saves_plainly() -> bool:
    """Whether autograd keeps tensors as they are, not packed by hooks (checkpointing)."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is not None and top(False) is None


def saved_input(node: Any) -> Tensor:
    """The first argument as autograd keeps it at an operation's node."""
    return node._saved_self.detach()  # type: ignore[no-any-return]


def base_of(t: Tensor) -> Tensor | None:
    """The tensor that a view is a view of; None if it is not a view."""
    return t._base if t._is_view() else None


def storage_id(t: Tensor) -> int:
    """A number that a tensor shares with all tensors in the same memory."""
    return int(t.untyped_storage()._cdata)


@functools.cache
def composite(name: str) -> bool:
    """Whether PyTorch takes an operation (``aten::layer_norm``) apart above autograd."""
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(schema, "CompositeImplicitAutograd")
        for schema in (name, f"{name}.int", f"{name}.Tensor")
        if torch._C._dispatch_has_kernel(schema)
    )


def load_forward_mode() -> None:
    """Load what PyTorch loads at the first dual tensor, without its deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def fused_kernels() -> tuple[bool, bool]:
    """Whether oneDNN's and cuDNN's kernels are used."""
    return torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()


def set_fused_kernels(mkldnn: bool, cudnn: bool) -> None:
    """Use oneDNN's and cuDNN's kernels, or do not."""
    torch._C._set_mkldnn_enabled(mkldnn)
    torch._C._set_cudnn_enabled(cudnn)


def compiled_from(module: nn.Module) -> nn.Module | None:
    """The module that ``torch.compile`` wrapped; None if it wrapped none."""
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def compiles_itself(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called."""
    return module.__dict__.get("_compiled_call_impl") is not None


def recurrent_function(name: str) -> Any:
    """A function that modules of recurrent layers call (``lstm``, ``_pack_padded_sequence``)."""
    return getattr(torch._VF, name)


def outside_modes() -> AbstractContextManager[Any]:
    """No dispatch mode sees what runs inside."""
    return _python_dispatch._disable_current_modes()


@contextmanager
def outside_modes_but_traced() -> Iterator[None]:
    """No dispatch mode sees what runs inside, except the one that traces a graph."""
    tracer = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY)
    with _python_dispatch._disable_current_modes():
        if tracer is None:
            yield
            return
        _python_dispatch._push_mode(tracer)
        try:
            yield
        finally:
            _python_dispatch._pop_mode(torch._C._TorchDispatchModeKey.PROXY)


def ordinary(t: Any) -> bool:
    """Whether it is a dense tensor of no subclass and inside no function transform."""
    return (
        type(t) in (Tensor, nn.Parameter)
        and t.layout == torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
    )


def wraps(t: Tensor) -> bool:
    """Whether a tensor's numbers are kept by a Python class of its own (nested, quantized)."""
    return type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__


def memory_of(t: Tensor) -> int | None:
    """The address of a tensor's memory; None if it has none of its own (sparse, wrapped)."""
    if t.layout is not torch.strided or wraps(t):
        return None
    return t.untyped_storage().data_ptr()


def grid_sampler_2d() -> Callable[..., Tensor]:
    """``grid_sampler_2d`` in operations that have a forward mode, as PyTorch itself writes it."""

    def sampled(*arguments: Any) -> Tensor:
        from torch._decomp.decompositions import grid_sampler_2d as written_out

        return written_out(*arguments)  # type: ignore[no-any-return]

    return sampled


# What nn.TransformerEncoder asks before it takes fused layers and cuts padded positions out.
FAST_PATH_CHECK = torch.ops.aten._nested_tensor_from_mask_left_aligned.default


def values_only() -> tuple[Callable[..., Any], ...]:
    """What reads a tensor's numbers into Python, as a function mode is given it."""
    methods = "__bool__ __int__ __float__ __complex__ __index__ __contains__ __array__ item tolist"
    both = "equal allclose is_nonzero"
    own = [getattr(Tensor, name) for name in (*methods.split(), "numpy", *both.split())]
    return (*own, *(getattr(torch, name) for name in both.split()))


def in_graph(t: Tensor) -> bool:
    """Whether a tensor is computed by the graph that is traced in this thread."""
    from torch.fx.experimental import proxy_tensor

    mode = proxy_tensor.get_proxy_mode()
    return mode is not None and proxy_tensor.has_proxy_slot(t, mode.tracer)


def without_torch_functions() -> AbstractContextManager[Any]:
    """No function mode sees what runs inside."""
    return torch._C.DisableTorchFunction()


def aliases_of(func: Any) -> tuple[list[int], bool]:
    """Which arguments an operation writes, by their places, and whether it returns a view."""
    schema = func._schema
    places = [i for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    return places, any(r.alias_info is not None for r in schema.returns)


def returns_tensors(func: Any) -> bool:
    """Whether an operation returns tensors: attention returns lengths with them, no numbers."""
    return any("Tensor" in str(r.type) for r in func._schema.returns)


def names_of_arguments(func: Any) -> list[tuple[str, Any]]:
    """The names of an operation's arguments, with their defaults."""
    return [(a.name, a.default_value) for a in func._schema.arguments]


def asks_for_shapes(func: Any) -> bool:
    """Whether an operation is one of autograd's questions about shapes, not about numbers."""
    aten = torch.ops.aten
    return func in (aten.is_same_size.default, aten._has_same_storage_numel.default)


def global_hooks() -> tuple[int, ...]:
    """The hooks of all modules in the process."""
    names = ("forward_pre_hooks", "forward_hooks", "backward_hooks", "backward_pre_hooks")
    module = torch.nn.modules.module
    return tuple(id(h) for n in names for h in getattr(module, f"_global_{n}").values())


def inductor_compiled(graph: Any, tensors: Any) -> Callable[..., Any]:
    """A graph compiled by Inductor for inputs like these.

    Inductor keeps on disk only what it compiles within a context that has shapes.
    """
    import torch._inductor.config
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    fake = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True, allow_non_fake_inputs=True)
    # Without static shapes stated for each tensor it would compile for all sizes, or fail to.
    like: list[Any] = [fake.from_tensor(t, static_shapes=True) for t in tensors]
    with tracing(TracingContext(fake)), torch._inductor.config.patch(_layouts(tensors)):
        return torch._inductor.compile(graph, like)  # type: ignore[no-any-return]


def _layouts(tensors: Any) -> dict[str, bool]:
    """Inductor's setting that leaves memory layouts as they are, on a CPU.

    With convolutions alone in channels-last, the terms' reductions would run through two layouts at
    once, one number after the other.
    """
    return {"layout_optimization": False} if all(t.device.type == "cpu" for t in tensors) else {}


def modules_in(model: nn.Module) -> list[nn.Module]:
    """A module and all that it holds, each once.

    ``modules()`` runs through a generator for each level of the tree, for every module.
    """
    found = {model: None}
    queue = [model]
    for module in queue:
        for child in module._modules.values():
            if child is not None and child not in found:
                found[child] = None
                queue.append(child)
    return queue


def tensors_of(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a module, without those of the modules that it holds."""
    owned = (module._parameters, module._buffers)
    return [t for own in owned if own for t in own.values() if t is not None]


def compiled_package(program: Any, path: Any, facts: dict[str, str]) -> None:
    """Compile a torch.export program with Inductor, ahead of time, into one file."""
    from torch import _inductor

    settings = {"aot_inductor.metadata": facts, **_layouts(program.state_dict.values())}
    _inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def load_package(path: Any) -> Callable[..., Any]:
    """What :func:`compiled_package` wrote, as a function."""
    from torch import _inductor

    return _inductor.aoti_load_package(str(path))
