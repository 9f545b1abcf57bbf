"""The part of a model behind its front end: a spectrogram is explained, not the waveform."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from fullgrad.engine.lending import lent
from fullgrad.engine.targets import main_tensor
from fullgrad.errors import ModelError


class Behind(nn.Module):
    """A model that is given what one of its modules returns, in place of that module.

    Args:
        model: the whole.
        path: of the module.
        like: an input of the model, of any values; its samples are not read.
    """

    def __init__(self, model: nn.Module, path: str, like: Tensor) -> None:
        super().__init__()
        self.model, self.path, self.like = model, path, like
        self.training = model.training

    def forward(self, given: Tensor) -> object:
        """Return the model's output with ``given`` as what the module returns.

        Raises:
            ModelError: the model does not call the module once.
        """
        holder, _, name = self.path.rpartition(".")
        parent, stand_in = self.model.get_submodule(holder), _Given(given)
        own = parent._modules[name]
        parent._modules[name] = stand_in
        try:
            output = self.model(self.like.new_zeros(len(given), *self.like.shape[1:]))
        finally:
            parent._modules[name] = own
        if stand_in.calls != 1:
            raise ModelError(f"the model calls {self.path} {stand_in.calls} times, not once")
        return output


class _Given(nn.Module):
    """Returns what it holds, whatever it is called with."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, *_: object, **__: object) -> Tensor:
        self.calls += 1
        return self.value


def behind(model: nn.Module, path: str, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    """Cut a model behind its front end, such as a spectrogram, so that places are its output's.

    Args:
        model: called with one tensor, in evaluation mode; it is given back as it was.
        path: of the front end in it, a module that returns one tensor, such as ``"mel"``.
        inputs: of the model, samples first.

    Returns:
        The model behind the front end, and what the front end returns for the inputs, which a map
        of time and frequency is of. The first, called with the second, returns what the whole does.

    Raises:
        ModelError: there is no such module, it does not return one tensor, it is not called once,
            or the model reads its inputs beside the front end as well.
        TargetError: the model returns no tensor.

    Example:
        >>> import torch
        >>> import fullgrad
        >>> from fullgrad.maps.front_end import behind
        >>> model = torch.nn.Sequential(torch.nn.AvgPool1d(2), torch.nn.Conv1d(1, 2, 3))
        >>> rest, pooled = behind(model, "0", torch.rand(2, 1, 12))
        >>> fullgrad.complete_map(rest, pooled, lambda output: output[:, 0, 1]).map.shape
        torch.Size([2, 1, 6])
    """
    known = dict(model.named_modules())
    if not path or path not in known:
        close = difflib.get_close_matches(path, [name for name in known if name], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ModelError(f"the model has no module {path!r}{hint}")
    returned: list[object] = []
    hook = known[path].register_forward_hook(lambda _, __, output: returned.append(output))
    try:
        with lent(model), torch.no_grad():
            whole, _ = main_tensor(model(inputs))
    finally:
        hook.remove()
    if len(returned) != 1:
        raise ModelError(f"the model calls {path} {len(returned)} times, not once")
    (given,) = returned
    if not isinstance(given, Tensor) or not given.dim() or len(given) != len(inputs):
        raise ModelError(
            f"{path} returns no tensor with a row for each sample, so what lies behind it cannot "
            "be called by itself: name a module that does"
        )
    rest = Behind(model, path, inputs[:1])
    with lent(model), torch.no_grad():
        again, _ = main_tensor(rest(given))
    if not torch.allclose(again, whole, rtol=1e-4, atol=1e-6):
        raise ModelError(
            f"without its inputs the model returns something else behind {path}: it reads them "
            "beside it as well. Name a later module, or explain the inputs themselves"
        )
    return rest, given.detach()
