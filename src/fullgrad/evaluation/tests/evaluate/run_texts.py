"""``fullgrad bench evaluate-texts``: texts x methods, one plan, one store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from fullgrad._files import sha256_of
from fullgrad.evaluation.options import Option
from fullgrad.evaluation.store import Store
from fullgrad.evaluation.tests.evaluate.measures import chosen_tests, measures
from fullgrad.evaluation.tests.evaluate.plan import Model, TestsPlan, Unit
from fullgrad.evaluation.tests.evaluate.run import Evaluate
from fullgrad.evaluation.tests.evaluate.text_subject import TextSubject, open_texts
from fullgrad.evaluation.tests.evaluate.token_methods import ExplainedTexts, choice_of
from fullgrad.vision.models import load_model

METHODS = (
    "fullgrad",
    "fullgrad:psi=signed",
    "complete_fullgrad",
    "balanced_input",
    "input_x_gradient:signed=True",
    "integrated_gradients:n_steps=20,signed=True",
    "gradient_x_attention",
    "leave_one_out",
    "token_length",
    "token_rarity",
    "random",
)


@dataclass(frozen=True, kw_only=True)
class TextsPlan(TestsPlan):
    """Holds all that the numbers of texts depend on, but for the code.

    Args:
        texts: where they come from.
        number: what is explained, ``cosine`` or ``logit``.
    """

    texts: str
    number: str


@dataclass(frozen=True, eq=False)
class EvaluateTexts(Evaluate):
    """Tests how well many methods order the tokens of texts.

    Args:
        plan: what is asked for.
        subjects: the model with its texts, alone.
        given: the options.
        ray: None.
    """

    name = "evaluate-texts"
    for_models = False
    page = False  # its examples are of images
    title = "which method finds the tokens that a text model's output depends on"
    description = """\
Explains texts by each method, token by token, and tests the relevances: the most and the least
relevant tokens are removed, or replaced by the mask token, and the explained number is compared
(symmetric relevance gain). Special tokens stay. Controls that know nothing of the model stand
beside the methods, and leaving each token out in turn, which measures what it is tested by.

Methods are those of 'fullgrad methods', applied to the embedded tokens, and of texts
leave_one_out, mask_one_out, token_length, token_rarity and token_overlap.

Writes into the results folder what 'fullgrad evaluate' writes, but for the page. An interrupted
run resumes when it is started again; a finished one is not repeated.
"""
    epilog = """\
examples:
  fullgrad bench evaluate-texts --model encoder.py:model --texts pairs.csv --out results
  fullgrad bench evaluate-texts --model classifier.py:model --texts reviews.txt \\
      --methods balanced_input leave_one_out random --replacements mask --out results
"""

    plan: TextsPlan  # type: ignore[assignment]
    subjects: tuple[TextSubject, ...]  # type: ignore[assignment]

    @classmethod
    def declared(cls) -> Sequence[Option]:
        """Return the options, those of the tests among them."""
        known = measures("texts")
        own = [option for kind in known.values() for option in kind.options]
        return [
            Option(
                "--model",
                "file.py:FUNCTION that returns a fullgrad.maps.tokens.TextModel",
                required=True,
            ),
            Option("--device", "cpu, cuda, cuda:1, ...", "cpu"),
            Option(
                "--texts",
                "CSV with a column 'text', and 'other' for pairs, or a file of one text a line",
                required=True,
            ),
            Option("--limit", "up to N of them, spread evenly; else all", kind=int),
            Option("--methods", "METHOD, METHOD:OPTION=VALUE,... or own.py:FUNCTION", METHODS),
            Option("--tests", "which tests", ("token-gain",), choices=tuple(known)),
            Option("--random-orders", "draws of noise", 1, int),
            Option("--seed", "seed of ties, noise and all else that is drawn", 0, int),
            Option("--batch-size", "texts of equal length at a time", 20, int),
            *own,
        ]

    @classmethod
    def prepare(  # type: ignore[override]
        cls,
        *,
        model: str,
        device: str,
        texts: str,
        limit: int | None,
        methods: Sequence[str],
        tests: Sequence[str],
        random_orders: int,
        seed: int,
        batch_size: int,
        **of_tests: Any,
    ) -> EvaluateTexts:
        """Read the texts and load the model."""
        chosen = chosen_tests(tests, "texts", of_tests)
        choices = tuple(choice_of(text) for text in methods)
        source = open_texts(texts, limit)
        loaded = replace(load_model(model, device=device), assumed=())  # of images: none here
        subject = TextSubject(model, loaded, source)
        plan = TextsPlan(
            models=(Model(model, None, _content(subject)),),
            texts=texts,
            count=len(source.items),
            content=source.content,
            tests=chosen,
            choices=choices,
            number="cosine" if subject.text_model.pairs else "logit",
            random_runs=random_orders,
            seed=seed,
            batch_size=batch_size,
        )
        return cls(plan, (subject,), ())

    @property
    def left_out(self) -> int:
        """None: empty lines are left out, and nothing is wrong with the others."""
        return 0

    def explained(self, model: int, choice: int, numbers: tuple[int, ...], run: int = 0) -> Any:
        """Return a method's relevances of some texts' tokens."""
        subject, chosen = self.subjects[model], self.plan.choices[choice]
        return ExplainedTexts(subject, chosen, numbers, self.plan.seed, run)

    @cached_property
    def pieces(self) -> list[Unit]:
        """All pieces of work: model by model, texts of one length, method by method."""
        return [
            Unit(m, c, numbers)
            for m, subject in enumerate(self.subjects)
            for numbers in subject.groups(self.plan.batch_size)
            for c in range(len(self.plan.choices))
            if (m, c) not in self.refused
        ]

    def notes(self, store: Store) -> dict[str, Any]:
        """Return which texts were left out, and which methods do not apply."""
        (subject,) = self.subjects
        return {
            "excluded": [{"text": name, "why": why} for name, why in subject.source.excluded],
            "does_not_apply": self.refusals(store),
            "device": str(subject.model.device),
        }

    def base(self) -> dict[str, dict[str, float]]:
        """Return nothing: the cautions about classifiers of images do not apply."""
        return {}


def _content(subject: TextSubject) -> str:
    """Return a digest of the model's file and of its weights."""
    module: nn.Module = subject.text_model
    digest = hashlib.sha256(sha256_of(Path(subject.name.rpartition(":")[0])).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
