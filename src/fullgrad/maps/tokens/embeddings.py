"""The output of a token embedding as the explained input of a model that takes integer ids.

Ids have no gradient. While the model runs, its lookup of the given ids is answered with a tensor
that autograd follows; the model itself is not touched, and no hook is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from fullgrad.errors import InputError, ModelError

_YOURSELF = (
    "explain the embedded tokens yourself: "
    "fullgrad.decompose(model, {'inputs_embeds': embedded}, layout='BTC')"
)
_INSTEAD = f"Name the one that looks the ids up with embedding=, or {_YOURSELF}"


def token_embedding(model: nn.Module, embedding: nn.Embedding | str | None) -> nn.Embedding:
    """The embedding whose output is to be explained.

    Args:
        model: that looks tokens up.
        embedding: one of its embeddings, or the path of one. None: what the model's
            ``get_input_embeddings()`` returns, or else its only ``nn.Embedding``.

    Returns:
        The embedding.

    Raises:
        ModelError: no such embedding, several of them, or one that changes its weight at each
            lookup (``max_norm``, a parametrization).
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    names = ", ".join(map(repr, found)) or "none"
    if embedding is None:
        chosen = _declared(model)
        if chosen is None:
            if len(found) != 1:
                raise ModelError(
                    f"which nn.Embedding holds the tokens? The model has: {names}. {_INSTEAD}"
                )
            chosen = next(iter(found.values()))
    elif isinstance(embedding, str):
        if embedding not in found:
            raise ModelError(f"{embedding!r} is not an nn.Embedding of the model; it has: {names}")
        chosen = found[embedding]
    else:
        if not any(m is embedding for m in found.values()):
            raise ModelError(
                f"the given embedding is not an nn.Embedding of the model; it has: {names}"
            )
        chosen = embedding
    return _checked(chosen, path_of(model, chosen))


def _declared(model: nn.Module) -> nn.Embedding | None:
    """What a transformers model says its token embedding is."""
    declare = getattr(model, "get_input_embeddings", None)
    if not callable(declare):
        return None
    try:
        declared = declare()
    except NotImplementedError:
        return None
    return declared if isinstance(declared, nn.Embedding) else None


def path_of(model: nn.Module, module: nn.Module) -> str:
    """The path of a module in a model."""
    return next((name for name, m in model.named_modules() if m is module), "")


def _checked(embedding: nn.Embedding, path: str) -> nn.Embedding:
    if embedding.max_norm is not None:
        raise ModelError(
            f"the embedding {path!r} has max_norm, which rewrites its weight at every lookup; "
            "set max_norm=None after renormalizing the weight once"
        )
    if parametrize.is_parametrized(embedding):
        raise ModelError(
            f"the weight of the embedding {path!r} is computed again at every lookup; make it a "
            "plain parameter with torch.nn.utils.parametrize.remove_parametrizations"
        )
    return embedding


def embed(embedding: nn.Embedding, input_ids: Any) -> Tensor:
    """Look the tokens up, outside the autograd graph.

    Args:
        embedding: of the tokens.
        input_ids: integers of shape (B, T) or (B, sentences, T).

    Returns:
        Shape (*ids, C).

    Raises:
        InputError: not integers of such a shape, none at all, or out of the embedding's range.
        ModelError: the weight is on the meta device.
    """
    if not isinstance(input_ids, Tensor):
        raise InputError(
            f"input_ids must be a tensor, not {type(input_ids).__name__}; a tokenizer returns one "
            "with return_tensors='pt'"
        )
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"input_ids must be integers (int64 or int32), not {input_ids.dtype}")
    if input_ids.dim() not in (2, 3) or input_ids.numel() == 0:
        raise InputError(
            "input_ids must have shape (batch, tokens) or (batch, sentences, tokens), not "
            f"{tuple(input_ids.shape)}"
        )
    if input_ids.layout is not torch.strided or input_ids.device.type == "meta":
        raise InputError("input_ids must be a dense tensor that holds values, not sparse or meta")
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= embedding.num_embeddings:
        raise InputError(
            f"input_ids run from {low} to {high}, but the embedding has {embedding.num_embeddings} "
            "rows"
        )
    with torch.no_grad():
        if embedding.weight.device.type != "meta":
            return F.embedding(input_ids, embedding.weight)
        with _Watching(embedding, input_ids) as watched:  # accelerate brings the weight for a call
            embedding(input_ids)
    if not watched.found:
        raise ModelError(
            "the embedding's weight is on the meta device, and its call brings none: load it first"
        )
    found: Tensor = watched.found[0][1]
    return found


class _Answering(TorchFunctionMode):
    """Answers the lookup of some ids in an embedding with a given tensor.

    Args:
        embedding: whose lookups are answered.
        ids: shape (B, T) or (B, sentences, T).
        embedded: the answer, shape (*ids, C).
    """

    def __init__(self, embedding: nn.Embedding, ids: Tensor, embedded: Tensor) -> None:
        super().__init__()
        self._embedding, self._ids, self._embedded = embedding, ids, embedded
        self.answered = 0
        self.others: list[tuple[int, ...]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one function, or answer in its place."""
        kwargs = kwargs or {}
        if func is F.embedding:
            ids, weight = _two(args, kwargs, ("input", "weight"))
        elif func is torch.embedding:
            weight, ids = _two(args, kwargs, ("weight", "indices"))
        else:
            return func(*args, **kwargs)
        if weight is not self._embedding.weight:
            return func(*args, **kwargs)
        answer = self._answer(ids)
        if answer is None:
            self.others.append(tuple(ids.shape))
            return func(*args, **kwargs)
        self.answered += 1
        return answer.clone()  # the model may overwrite it, and ask again

    def _answer(self, asked: Tensor) -> Tensor | None:
        """The embedded tokens in the arrangement of the ids, None for other ids."""
        ids, embedded = self._ids, self._embedded
        for known, value in (
            (ids, embedded),
            (ids.transpose(0, 1), embedded.transpose(0, 1)),
            (ids.flatten(0, 1), embedded.flatten(0, 1)),
            (ids.flatten(), embedded.flatten(0, -2)),
        ):
            if asked.shape == known.shape and bool((asked == known).all()):
                return value
        return None


def _two(args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, str]) -> tuple[Any, Any]:
    """The first two arguments of a call."""
    first, second = (args[i] if i < len(args) else kwargs[n] for i, n in enumerate(names))
    return first, second


class Embedded(nn.Module):
    """A model of token ids as a model of its embedded tokens.

    ``forward(embedded, input_ids, *args, **kwargs)`` calls ``model(input_ids, *args, **kwargs)``
    and answers its lookups of these ids (as they are, transposed or flattened) with ``embedded``.
    Lookups of other ids, the decoder's for example, are left alone. Modules keep the paths that
    they have in the model.

    Args:
        model: the user's, not changed.
        embedding: the one whose output is explained.
    """

    def __init__(self, model: nn.Module, embedding: nn.Embedding) -> None:
        super().__init__()
        self.model = model
        self._path = path_of(model, embedding)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """The model's modules, by their paths in the model."""
        modules: Iterator[tuple[str, nn.Module]]
        modules = self.model.named_modules(memo, prefix, remove_duplicate)
        return modules

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The model's parts, by their names in the model."""
        children: Iterator[tuple[str, nn.Module]] = self.model.named_children()
        return children

    def forward(self, embedded: Tensor, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for the ids, through the embedded tokens.

        Raises:
            ModelError: the model did not look these ids up in the embedding.
        """
        embedding = self.model.get_submodule(self._path)
        assert isinstance(embedding, nn.Embedding)
        with _Answering(embedding, input_ids, embedded) as lookups:
            result = self.model(input_ids, *args, **kwargs)
        _check_answered(lookups, input_ids, self._path)
        return result


def _check_answered(lookups: _Answering, ids: Tensor, path: str) -> None:
    if not lookups.answered:
        asked = ", ".join(str(s) for s in dict.fromkeys(lookups.others))
        raise ModelError(
            f"the model did not look the given ids, of shape {tuple(ids.shape)}, up in "
            f"the embedding {path!r}: it "
            + (f"asked for others, of shape {asked}" if asked else "did not call it")
            + f". {_INSTEAD if ids.dim() == 2 else _INSTEAD.replace('BTC', 'BPTC')}"
        )


class EmbeddedByName(Embedded):
    """A model that is called by keyword, with the embedded tokens of some of its keywords.

    ``forward(input_ids=embedded, input_ids_as_given=ids, ...)`` calls ``model(input_ids=ids, ...)``
    and answers its lookups of these ids with ``embedded``; likewise for each name.

    Args:
        model: the user's, not changed.
        embeddings: from the name of a keyword to the embedding whose output is explained.
    """

    GIVEN = "_as_given"

    def __init__(self, model: nn.Module, embeddings: Mapping[str, nn.Embedding]) -> None:
        nn.Module.__init__(self)
        self.model = model
        self._paths = {name: path_of(model, e) for name, e in embeddings.items()}

    def forward(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """What the model returns, through the embedded tokens.

        Raises:
            ModelError: the model did not look the ids up in their embedding.
        """
        asked = []
        with ExitStack() as modes:
            for name, path in self._paths.items():
                ids, embedded = kwargs.pop(f"{name}{self.GIVEN}"), kwargs[name]
                embedding = self.model.get_submodule(path)
                assert isinstance(embedding, nn.Embedding)
                lookups = modes.enter_context(_Answering(embedding, ids, embedded))
                asked.append((lookups, ids, path))
                kwargs[name] = ids
            result = self.model(**kwargs)
        for lookups, ids, path in asked:
            _check_answered(lookups, ids, path)
        return result


class _Watching(TorchFunctionMode):
    """Notes in which embeddings of a model the given ids are looked up, and what is found there.

    During the call, for offloaded weights are in their module for that time alone.
    """

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        super().__init__()
        self._embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        self._ids = ids
        self.found: list[tuple[nn.Embedding, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one function, and look at its ids."""
        result = func(*args, **(kwargs or {}))
        if func is F.embedding:
            ids, weight = _two(args, kwargs or {}, ("input", "weight"))
            if ids.numel() == self._ids.numel() and bool(
                (ids.flatten() == self._ids.flatten()).all()
            ):
                self.found += [(m, result) for m in self._embeddings if m.weight is weight]
        return result


def embedding_of(model: nn.Module, ids: Tensor, call: Callable[[], Any]) -> nn.Embedding:
    """The embedding in which a call of a model looks some ids up.

    Args:
        model: that is called.
        ids: the tokens.
        call: runs the model on them, under ``no_grad`` and with its flags guarded.

    Returns:
        What the model declares to be its token embedding, if it looks the ids up there, or else
        the first that it asks.

    Raises:
        ModelError: it asks none, or one that changes its weight at each lookup.
    """
    with _Watching(model, ids) as watched:
        call()
    found: list[nn.Embedding] = [m for m, _ in watched.found]
    if not found:
        raise ModelError(
            f"the model looks the given ids, of shape {tuple(ids.shape)}, up in no nn.Embedding; "
            f"{_YOURSELF}"
        )
    declared = _declared(model)
    chosen = next((m for m in found if m is declared), found[0])
    return _checked(chosen, path_of(model, chosen))
