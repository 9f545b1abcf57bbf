"""How alike an embedding and a vector are, and an input and another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad.engine.inputs import failures_named
from fullgrad.engine.lending import as_tuple, lent, own
from fullgrad.engine.targets import Described, main_tensor
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import TargetError

Alike: TypeAlias = Literal["cosine", "dot"]


@dataclass(frozen=True, slots=True, eq=False)
class Similarity(Described):
    """How alike the output is to a vector; made by :func:`similarity`.

    Args:
        to: the vector, shape (D,), or one for each sample, (B, D).
        measure: ``cosine`` or ``dot``.
        name: of the vector, for people.
    """

    to: Tensor
    measure: Alike
    name: str

    def __call__(self, output: Any) -> Tensor:
        """The similarity of each sample, shape (B,).

        Raises:
            TargetError: the output is not of shape (B, D) for the vector's D.
        """
        tensor, _ = main_tensor(output)
        if tensor.dim() != 2 or tensor.shape[1] != self.to.shape[-1]:
            raise TargetError(
                f"similarity to a vector of {self.to.shape[-1]} numbers needs an output of shape "
                f"(batch, {self.to.shape[-1]}), not {tuple(tensor.shape)}"
            )
        if self.to.dim() == 2 and len(self.to) != len(tensor):
            raise TargetError(f"vectors for {len(self.to)} samples, a batch of {len(tensor)}")
        other = self.to.to(tensor)
        product: Tensor = (tensor * other).sum(1)
        if self.measure == "dot":
            return product
        sizes: Tensor = tensor.norm(dim=1) * other.norm(dim=-1)
        return product / sizes

    def changed(self, change: Callable[[Any], Any]) -> Similarity:
        """The same with the vectors changed, where each sample has its own."""
        return replace(self, to=change(self.to)) if self.to.dim() == 2 else self

    def describe(self, names: Sequence[str] | None = None) -> str:
        """What is explained: ``cosine similarity to the caption``."""
        word = "cosine similarity to" if self.measure == "cosine" else "dot product with"
        return f"{word} {self.name}"


def similarity(to: Any, *, measure: Alike = "cosine", name: str = "a vector") -> Similarity:
    """How alike a model's embedding is to a vector: of a caption, a prototype, another image.

    Args:
        to: the vector, shape (D,), or one for each sample, (B, D).
        measure: ``"cosine"``, or ``"dot"`` for the dot product.
        name: of the vector, for people.

    Returns:
        A target, for outputs of shape (B, D).

    Raises:
        TargetError: not of that shape, not finite, or zero.

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import similarity
        >>> encoder, x = torch.nn.Linear(4, 3), torch.ones(2, 4)
        >>> d = fullgrad.decompose(encoder, x, similarity([1.0, 0.0, 0.0], name="the caption"))
        >>> d.output_source
        'cosine similarity to the caption'
    """
    if measure not in ("cosine", "dot"):
        raise TargetError(f"measure must be 'cosine' or 'dot', not {measure!r}")
    try:
        vector = own(torch.as_tensor(to).detach())
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"a vector is an array of numbers, not {type(to).__name__}") from error
    if vector.dim() not in (1, 2) or not vector.numel() or vector.is_complex():
        raise TargetError(
            f"similarity needs a vector of shape (D,) or (batch, D), not {tuple(vector.shape)}"
        )
    vector = vector if vector.is_floating_point() else vector.to(torch.get_default_dtype())
    if not bool(torch.isfinite(vector).all()):
        raise TargetError("the vector holds NaN or infinite values")
    if measure == "cosine" and bool((vector.norm(dim=-1) == 0).any()):
        raise TargetError("a vector of zeros has no direction: use measure='dot'")
    return Similarity(vector, measure, name)


def similarity_to_input(
    model: nn.Module,
    other: Tensor,
    *,
    additional_forward_args: Any = None,
    measure: Alike = "cosine",
    name: str = "the other input",
) -> Similarity:
    """How alike an input is to another one in a model's eyes, whose embedding is computed once.

    What is explained is the embedding of the call's input; that of the other one is a constant.

    Args:
        model: the encoder, which is run in evaluation mode and given back as it was.
        other: one input, with a batch axis of 1, or one for each sample.
        additional_forward_args: of the model.
        measure: see :func:`similarity`.
        name: of the other input, for people.

    Raises:
        TargetError: the model's output is not of shape (batch, D).

    Example:
        >>> import torch, fullgrad
        >>> from fullgrad.targets import similarity_to_input
        >>> encoder, x = torch.nn.Linear(4, 3), torch.rand(2, 4)
        >>> alike = similarity_to_input(encoder, x[:1])
        >>> round(float(fullgrad.decompose(encoder, x, alike).output[0]), 5)
        1.0
    """
    eager = unwrap(model)
    with lent(eager), torch.no_grad(), failures_named(other):
        embedding, _ = main_tensor(eager(own(other), *as_tuple(own(additional_forward_args))))
    if embedding.dim() != 2:
        raise TargetError(
            "similarity_to_input needs a model that returns shape (batch, D), not "
            f"{tuple(embedding.shape)}"
        )
    vector = embedding[0] if len(embedding) == 1 else embedding
    return similarity(vector, measure=measure, name=name)
