"""From a query to a checked, frozen request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import from_json

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.app.models import Served
from fullgrad.app.options import check_options
from fullgrad.app.refusal import Refusal
from fullgrad.methods import Method
from fullgrad.methods.registry import unlike
from fullgrad.vision.method_map import has_sign

_LONGEST_NAME = 100
_LONGEST_OPTIONS = 4000


def _index(text: str, info: ValidationInfo) -> int | None:
    models = cast("Sequence[Served]", info.context)
    if info.field_name in {"target", "rather_than"} and not text:
        return None
    count = len(models) if info.field_name == "model" else models[info.data["model"]].outputs
    if not (text.isascii() and text.isdecimal() and len(text) <= 12) or int(text) >= count:
        raise Refusal(
            f"{info.field_name} must be a whole number from 0 to {count - 1}, not {text[:50]!r}."
        )
    return int(text)


def _other(text: str, info: ValidationInfo) -> int | None:
    found = _index(text, info)
    if found is not None and found == info.data["target"]:
        raise Refusal(
            f"target and rather_than are the same class, {found}: choose another one, or leave "
            "rather_than out."
        )
    return found


def _of_signed(limit: float | None, info: ValidationInfo) -> float | None:
    method, options = info.data["method"], info.data["options"]
    if limit is not None and not has_sign(method, options):
        raise Refusal(
            f"limit is the end of a signed map's scale, and {method.name} makes a map without "
            "sign here: leave limit out."
        )
    return limit


def _method(name: str) -> Method:
    """A method that the viewer was started with; a request never names a file."""
    if name not in methods.names():
        raise Refusal(f"unknown method {name[:100]!r}; {unlike(name[:100], methods.names())}.")
    return methods.get(name)


def _options(text: str, info: ValidationInfo) -> dict[str, Any]:
    if len(text) > _LONGEST_OPTIONS:
        raise Refusal(f"options are longer than {_LONGEST_OPTIONS} characters.")
    try:
        found = from_json(text or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise Refusal("options are not a JSON object.") from error
    if not isinstance(found, dict):
        raise Refusal("options are not a JSON object.")
    return check_options(info.data["method"], found)


def _name(text: str) -> str:
    """The last part of a name, in characters that can be shown; never used to open a file."""
    last = text.replace("\\", "/").rpartition("/")[2]
    return printable(last[:_LONGEST_NAME]).strip().strip(".") or "photograph"


class Query(BaseModel):
    """What a request asks for.

    Args:
        model: the model's number among those of the command line.
        target: the class index; None for the most probable class.
        rather_than: the index of a class that it is compared with; None for none.
        method: the method that makes the map.
        options: the method's options that differ from the defaults, as
            :func:`fullgrad.methods.attribute` takes them.
        parts: ``all``, or ``map`` for the map without stages and waterfall.
        name: the photograph's name, for titles.
        opacity: the map's opacity in the downloaded picture.
        limit: the least end of a signed map's scale, which other classes of the photograph have;
            None for the map's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[int, PlainValidator(_index)] = 0
    target: Annotated[int | None, PlainValidator(_index)] = None
    rather_than: Annotated[int | None, PlainValidator(_other)] = None
    method: Annotated[Method, PlainValidator(_method)] = Field(methods.get(methods.RECOMMENDED))
    options: Annotated[dict[str, Any], PlainValidator(_options)] = Field(default_factory=dict)
    parts: Literal["all", "map"] = "all"
    name: Annotated[str, PlainValidator(_name)] = "photograph"
    opacity: float = Field(0.6, ge=0, le=1, allow_inf_nan=False)
    limit: Annotated[float | None, AfterValidator(_of_signed)] = Field(
        None, gt=0, allow_inf_nan=False
    )


def parse_query(pairs: Sequence[tuple[str, str]], models: Sequence[Served]) -> Query:
    """Check a query.

    Args:
        pairs: names and values, decoded.
        models: the models of the command line.

    Raises:
        Refusal: a name is unknown or given twice, or a value is not possible.
    """
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(f"The parameter {twice[:50]!r} is given twice.")
    try:
        return Query.model_validate(given, context=models)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])[:50]
        if first["type"] == "extra_forbidden":
            known = ", ".join(Query.model_fields)
            raise Refusal(f"Unknown parameter {name!r}; known: {known}.") from error
        must = first["msg"].replace("Input should", "must", 1)
        raise Refusal(f"{name} {must}, not {first['input'][:50]!r}.") from error
