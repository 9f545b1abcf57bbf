"""The record that ``fullgrad check --json`` writes; see :mod:`fullgrad.vision.schema`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fullgrad.vision._record import Model, Record


class PhotographInput(Model):
    """The photograph that a model was checked on."""

    kind: Literal["photograph"] = "photograph"
    path: str
    sha256: str
    shape: tuple[int, ...]
    dtype: str


class RandomInput(Model):
    """The random numbers that a model was checked on."""

    kind: Literal["random"] = "random"
    seed: int
    shape: tuple[int, ...]
    dtype: str


class ExplainedInfo(Model):
    """What the explained scalar is: a part of the model's output, and a class or indices in it."""

    source: str
    target: int | str
    name: str | None
    chosen: Literal["predicted", "given"]


class StageInfo(Model):
    """The sum of a stage's bias terms, and its share of the output."""

    module: str
    sum: float
    share: float | None


class SampleInfo(Model):
    """Where the output of one sample comes from."""

    target: int | None
    output: float
    input: float
    sum: float
    residual: float
    relative_residual: float
    input_share: float | None
    stages: tuple[StageInfo, ...]


class TermsInfo(Model):
    """How many bias terms there are of each kind and operation."""

    kinds: dict[str, int]
    operations: dict[str, int]
    implicit_shares: dict[str, float] | None = None


class FallbackInfo(Model):
    """An operation whose bias comes from the forward-mode fallback."""

    module: str
    operation: str
    times: int


class MapInfo(Model):
    """What a map of the model is made of, or the error that says why there is none."""

    error: str | None = None
    terms: int | None = None
    in_part: int | None = None
    nowhere: int | None = None
    nowhere_share: float | None = None


class CheckRecord(Record):
    """The numbers of a model's decomposition, as ``fullgrad check --json`` writes them."""

    kind: Literal["fullgrad check"] = "fullgrad check"
    input: PhotographInput | RandomInput = Field(discriminator="kind")
    explained: ExplainedInfo
    linearization: str = "jacobian"
    depth: int
    tolerance: float
    samples: tuple[SampleInfo, ...]
    bias_terms: TermsInfo
    general_path: tuple[FallbackInfo, ...]
    saliency: MapInfo
