"""Models of Hugging Face's transformers, with the batches that its processors return.

Nothing of transformers is imported. Token ids are explained through their embedding, images and
sounds as they are, several at once in one exact sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts
from fullgrad.axes.spread import MassPlacement
from fullgrad.engine.inputs import failures_named
from fullgrad.engine.lending import own
from fullgrad.engine.model_state import guarded
from fullgrad.engine.request import Detached, Mode
from fullgrad.engine.targets import main_tensor
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import InputError, OptionError, TargetError
from fullgrad.interop._hf_batch import (
    Longer,
    answer_of,
    check_apart,
    check_layouts,
    checked,
    explained_of,
    layout_of,
    listed,
    longer,
    on_device,
)
from fullgrad.interop._hf_result import Explanation, Text, beside, texts_of
from fullgrad.maps.complete import CompleteMap, Depth, complete_map
from fullgrad.maps.minibatches import BatchSize
from fullgrad.maps.path import Baseline, Steps
from fullgrad.maps.selection import Terms
from fullgrad.maps.tokens.embeddings import EmbeddedByName, embed, embedding_of
from fullgrad.operations.linearization import Linearization, Named

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "AnswerToken",
    "CallOptions",
    "Explanation",
    "Text",
    "explain",
    "explain_answer",
    "pairs",
    "span",
]

Score = Literal["logit", "log_probability"]


class CallOptions(TypedDict, total=False):
    """Options of :func:`explain` and :func:`explain_answer`, as for ``complete_map``."""

    placement: MassPlacement
    terms: Terms
    mode: Mode
    detached: Detached
    tolerance: float | None
    activation_layouts: ActivationLayouts | None
    linearization: Named | Linearization
    baseline: Baseline
    depth: Depth
    steps: Steps
    batch_size: BatchSize
    memory: int | None


@dataclass(frozen=True, slots=True)
class AnswerToken:
    """A target: one token of one sample's answer; made by :func:`explain_answer`.

    Args:
        position: of the logits that it is read off.
        token: its id.
        score: its logit, or its log-probability.
    """

    position: int
    token: int
    score: Score

    def __call__(self, output: Any) -> Tensor:
        """The token's score: one number of one sample's output, shape (B,) of a batch's."""
        logits = main_tensor(output)[0][..., self.position, :]
        scores: Tensor = logits if self.score == "logit" else logits.log_softmax(-1)
        return scores[..., self.token]

    def __str__(self) -> str:
        score = self.score.replace("_", "-")
        return f"{score} of token {self.token} after position {self.position}"


@takes_options("interop.hugging_face.explain", CallOptions)
def explain(
    model: nn.Module,
    batch: Mapping[str, Any],
    target: Any = None,
    *,
    explained: Sequence[str] | None = None,
    tokenizer: Any = None,
    layouts: Mapping[str, str] | None = None,
    **options: Unpack[CallOptions],
) -> Explanation:
    """Split a model's output exactly over the tokens, pixels and sounds of a processor's batch.

    Args:
        model: of transformers, or wrapped by peft: called as ``model(**batch)``.
        batch: as the tokenizer, image processor or processor returns it with
            ``return_tensors="pt"``: a ``BatchEncoding``, a ``BatchFeature``, or a dict. Tensors
            are moved to the model's device, and images and sounds get its precision.
        target: see :func:`fullgrad.complete_map`; also the name of a class, as
            ``model.config.label2id`` has it, alone or last in a tuple; see :func:`span` for
            question answering, :func:`pairs` for CLIP and SigLIP.
        explained: which entries are explained, of tokens or floats; all else counts as constant.
            None: token ids, images and sounds, by their usual names.
        tokenizer: shows tokens as text; without it they are shown as the batch has them, or as
            numbers.
        layouts: what the axes of entries hold, where they are not the usual ones; see ``layout=``
            of :func:`fullgrad.decompose`.
        **options: of :func:`fullgrad.complete_map`.

    Returns:
        The explanation, its sum proved for each sample and target.

    Raises:
        InputError: a batch that cannot be explained.
        OptionError: ``explained`` names what the batch lacks, or ``layouts`` what is not explained.
        TargetError: an unknown class name, or a target that does not fit.
        FullGradError: as :func:`fullgrad.complete_map`.
    """
    model = unwrap(model)
    values = on_device(checked(batch), model)
    names = explained_of(values, explained)
    check_layouts(layouts or {}, names)
    target = _named(target, model)
    ids = {n: values[n] for n in names if not values[n].is_floating_point()}
    check_apart(values)

    def run() -> None:
        with guarded(model, evaluate=True), torch.no_grad(), failures_named(values):
            model(**own(values))

    embeddings = {n: embedding_of(model, found, run) for n, found in ids.items()}
    inputs = {n: embed(embeddings[n], values[n]) if n in ids else values[n] for n in names}
    given = {f"{n}{EmbeddedByName.GIVEN}": found for n, found in ids.items()}
    rest = {n: v for n, v in values.items() if n not in names}
    found = complete_map(
        EmbeddedByName(model, embeddings),
        inputs,
        target,
        layout=[layout_of(n, values[n], n in ids, layouts or {}) for n in names],
        forward_kwargs={**rest, **given},
        **options,
    )
    texts = {n: texts_of(values[n], batch if n == "input_ids" else None, tokenizer) for n in ids}
    return Explanation(found, texts, _in_words(target, found))


@takes_options("interop.hugging_face.explain_answer", CallOptions)
def explain_answer(
    model: nn.Module,
    batch: Mapping[str, Any],
    answer: Tensor,
    *,
    score: Score = "logit",
    at_once: int = 16,
    explained: Sequence[str] | None = None,
    tokenizer: Any = None,
    layouts: Mapping[str, str] | None = None,
    **options: Unpack[CallOptions],
) -> Explanation:
    """Explain each token of an answer over all that the model had read before it.

    Args:
        model: a language model, alone or with images or sounds, or an encoder-decoder.
        batch: of the prompt; see :func:`explain`. Several prompts are padded on the left.
        answer: ids of shape (B, answer) or (answer,): of ``model.generate`` what follows the
            prompt, ``[:, prompt:]``, or of an encoder-decoder what follows the start, ``[:, 1:]``.
        score: the token's logit, or its log-probability.
        at_once: up to how many tokens of the answer share a forward pass; it bounds memory.
        explained: see :func:`explain`.
        tokenizer: see :func:`explain`.
        layouts: see :func:`explain`.
        **options: of :func:`fullgrad.complete_map`.

    Returns:
        The explanation: target i is the answer's token i. Its maps run over the prompt and the
        answer before it; what comes later has zero.

    Raises:
        InputError: an answer that does not fit the batch, or a prompt that cannot be continued.
        OptionError: an unknown score, or ``at_once`` below 1.
        FullGradError: as :func:`explain`.
    """
    if score not in ("logit", "log_probability"):
        raise OptionError(f"score must be 'logit' or 'log_probability', not {score!r}")
    if type(at_once) is not int or at_once < 1:
        raise OptionError(f"at_once must be a number of tokens, at least 1, not {at_once!r}")
    values = checked(batch)
    answer = answer_of(answer, values)
    config = getattr(unwrap(model), "config", None)
    if getattr(config, "is_encoder_decoder", False):
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            raise InputError("the model's config has no decoder_start_token_id: set it")
        first = torch.full_like(answer[:, :1], start)
        more = {"decoder_input_ids": torch.cat([first, answer[:, :-1]], 1)}
        before = 0
    else:
        more = longer(values, answer, unwrap(model))
        before = values["input_ids"].shape[1] - 1
    whole = Longer({**values, **more}, batch)
    targets = [
        [AnswerToken(before + i, token, score) for i, token in enumerate(row)]
        for row in answer.tolist()
    ]
    parts = [
        explain(
            model,
            whole,
            [row[i : i + at_once] for row in targets],
            explained=explained,
            tokenizer=tokenizer,
            layouts=layouts,
            **options,
        )
        for i in range(0, answer.shape[1], at_once)
    ]
    return beside(parts)


def span(start: int | None = None, end: int | None = None) -> Callable[[Any], Tensor]:
    """The score of an answer in a text, for question answering: a start's and an end's logit.

    Args:
        start: its first token; None for the likeliest of each sample.
        end: its last token; likewise.

    Returns:
        A target, for outputs with ``start_logits`` and ``end_logits``.
    """

    def answer_span(output: Any) -> Tensor:
        """The sum of both logits, shape (B,)."""
        found = []
        for name, place in (("start_logits", start), ("end_logits", end)):
            logits = getattr(output, name, None)
            if logits is None:
                raise TargetError(f"span() needs an output with {name}: that of question answering")
            if place is not None and not -logits.shape[1] <= place < logits.shape[1]:
                raise TargetError(f"token {place} is not one of the {logits.shape[1]}")
            found.append(logits.amax(1) if place is None else logits[:, place])
        both: Tensor = found[0] + found[1]
        return both

    return answer_span


def pairs(output: Any) -> Tensor:
    """A target for CLIP and SigLIP: how alike image i and text i are, shape (B,).

    Raises:
        TargetError: no such output, or not as many images as texts.
    """
    logits = getattr(output, "logits_per_image", None)
    if logits is None:
        raise TargetError("pairs needs an output with logits_per_image: that of CLIP or SigLIP")
    if logits.shape[0] != logits.shape[1]:
        raise TargetError(
            f"{logits.shape[0]} images and {logits.shape[1]} texts do not make pairs: give as many "
            "of each, repeating an image or a text"
        )
    alike: Tensor = logits.diagonal()
    return alike


# -- targets ----------------------------------------------------------------------------------


def _named(target: Any, model: nn.Module) -> Any:
    """A target with the numbers of classes for their names."""
    if isinstance(target, tuple) and any(isinstance(part, str) for part in target):
        return tuple(_named(part, model) for part in target)
    if not isinstance(target, str):
        return target
    labels = getattr(getattr(model, "config", None), "label2id", None) or {}
    if target not in labels:
        raise TargetError(f"no class is called {target!r}; {listed('the model has', labels)}")
    return int(labels[target])


def _in_words(target: Any, found: CompleteMap) -> tuple[str, ...]:
    """Each target in words; of targets that differ by sample those of the first."""
    count = 1 if found.output.dim() == 1 else found.output.shape[1]
    listed_by_sample = isinstance(target, list) and target and isinstance(target[0], list)
    given = target[0] if listed_by_sample else [target]
    if len(given) != count:
        return tuple(f"target {i}" for i in range(count))
    return tuple("the predicted class" if t is None else _word(t) for t in given)


def _word(target: Any) -> str:
    if callable(target):
        name = getattr(target, "__name__", None)
        return str(target) if name is None else str(name)
    return f"output {target}"
