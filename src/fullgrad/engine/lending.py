"""A model lent to code of others: what that code changes in it is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._compat import DispatchMode
from fullgrad.axes.reading import Reading
from fullgrad.engine._copies import copied
from fullgrad.engine._recurrence import Recurrence
from fullgrad.engine.inputs import failures_named, prepare
from fullgrad.engine.model_state import eager, guarded, plain_recurrence
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.recorder import Recorder, recording
from fullgrad.engine.refusals import refuse_without_batch_axis
from fullgrad.engine.request import Request
from fullgrad.engine.wrappers import compiled, recurrent
from fullgrad.errors import ModelError
from fullgrad.operations.call import tensors_in
from fullgrad.operations.registry import overload


class _Watching(DispatchMode):
    """Tells of every tensor that is about to be overwritten."""

    def __init__(self, on_write: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_write = on_write

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = overload(func)
        for i in (*operation.writes, *operation.statistics):
            value = args[i] if i < len(args) else kwargs.get(operation.names[i])
            for t in tensors_in([value]):
                self._on_write(t)
        return func(*args, **kwargs)


@contextmanager
def lent(model: nn.Module) -> Iterator[None]:
    """Lend a model in evaluation mode, with gradients on, and give it back as it was.

    Args:
        model: the eager module; see :func:`fullgrad.engine.wrappers.unwrap`.

    Yields:
        Nothing: what runs inside may change the model. Parameters, buffers, attributes, hooks,
        flags and the random state are restored after failures too.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        guard = stack.enter_context(guarded(model, evaluate=True))
        stack.enter_context(eager.held(compiled(model)))
        on_gpu = any(p.is_cuda for p in model.parameters())  # cuDNN's have no gradient there
        stack.enter_context(plain_recurrence.held(on_gpu and recurrent(model)))
        stack.enter_context(_Watching(guard.before_write))
        yield


def readings_of(request: Request) -> Sequence[Reading]:
    """How a model reads its input, up to what cannot be followed.

    Args:
        request: of the eager model; its target is not read.

    Raises:
        InputError: an image without a batch axis.
        ModelError: the model cannot run on the input.
    """
    model, prepared = request.model, prepare(request.inputs, request.additional_forward_args)
    path = ModulePath(model)
    recorder = Recorder(prepared.roots, path, lambda written: None, allow_detached=True)
    layers = Recurrence(recorder) if recurrent(model) else nullcontext()
    with failures_named(request.inputs), lent(model), suppress(ModelError):
        with recording(recorder), layers:
            result = model(*prepared.args)
        refuse_without_batch_axis(recorder.tape, prepared.leaves, result)
    return recorder.tape.bindings.readings


def own(value: Any) -> Any:
    """A copy of an argument, its tensors outside any graph and of inference mode.

    Raises:
        InputError: it cannot be copied.
    """
    return copied(value, graph=False)


def as_tuple(extra: Any) -> tuple[Any, ...]:
    """The arguments behind the input: none, one value, or a tuple of them."""
    if extra is None:
        return ()
    return extra if isinstance(extra, tuple) else (extra,)
