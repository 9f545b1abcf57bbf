"""Which rows of a store's index are looked at, and in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fullgrad._optional import require
from fullgrad.errors import UsageError

if TYPE_CHECKING:
    import pandas

CLASSES = ("label", "target", "prediction")  # columns that hold classes
_LISTS = ("shape", "tokens")
_FORM = re.compile(r"\s*([\w.()\-/]+?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~")
_MEANING = "COLUMN OPERATOR VALUE, operators =, !=, <, <=, >, >= and ~ (holds the text)"


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a column with a value, or with another column.

    Args:
        column: of the index.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, or ``~``: holds the text.
        value: a number, text, class name, or column; empty for rows without a value.

    Raises:
        UsageError: another operator.
    """

    column: str
    operator: str
    value: str

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            known = ", ".join(_OPERATORS)
            raise UsageError(f"the operator must be one of {known}, not {self.operator!r}")

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as ``probability>0.9``, ``prediction != label``, ``id~cats``.

        Raises:
            UsageError: it is not of that form.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} is not a condition: write {_MEANING}")
        column, operator, value = found.groups()
        return cls(column, "=" if operator == "==" else operator, value)

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.value}".rstrip()


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows that fulfil all conditions, in an order.

    Args:
        where: conditions.
        sort: column to order by; empty for the order of the data.
        descending: largest first.
    """

    where: tuple[Condition, ...] = ()
    sort: str = ""
    descending: bool = False

    @classmethod
    def parse(cls, where: Sequence[str] = (), sort: str = "") -> Choice:
        """Read conditions, and a column that ``-`` before its name turns around.

        Raises:
            UsageError: a text that is not a condition.

        Example:
            >>> Choice.parse(["probability > 0.9"], "-logit").descending
            True
        """
        conditions = tuple(map(Condition.parse, where))
        return cls(conditions, sort.removeprefix("-"), sort.startswith("-"))

    def rows(
        self, index: pandas.DataFrame, class_names: Sequence[str] | None = None
    ) -> pandas.DataFrame:
        """Return the rows of an index that are chosen; those without a value to sort by come last.

        Args:
            index: of a store.
            class_names: by which classes may be named.

        Raises:
            UsageError: an unknown column or class, or a value that the column cannot have.
        """
        kept = index
        for condition in self.where:
            kept = kept[_holds(condition, kept, class_names)]
        if self.sort:
            _column(self.sort, index)
            kept = kept.sort_values(self.sort, ascending=not self.descending, kind="stable")
        return kept


def _column(name: str, index: pandas.DataFrame) -> Any:
    if name == "row":
        return index.index.to_series()
    if name not in index.columns or name in _LISTS:
        known = ", ".join(c for c in index.columns if c not in _LISTS)
        raise UsageError(
            f"there is no column {name!r} to filter or sort by; there are row, {known}"
        )
    return index[name]


def _holds(
    condition: Condition, index: pandas.DataFrame, class_names: Sequence[str] | None
) -> pandas.Series[bool]:
    pandas: Any = require("pandas", "datasets")
    if condition.column == "tokens" and "tokens" in index and condition.value:
        if condition.operator != "~":
            raise UsageError(f"{condition}: texts are filtered by a token with ~")
        word = condition.value.casefold()
        texts = index["tokens"].map(lambda own: "" if own is None else " ".join(own).casefold())
        return texts.str.contains(word, regex=False).astype(bool)
    own = _column(condition.column, index)
    if condition.value == "":
        if condition.operator not in {"=", "!="}:
            raise UsageError(f"{condition}: a value is missing")
        empty = own.isna()
        return empty if condition.operator == "=" else ~empty
    if condition.operator == "~":
        text = own.astype("string").str.contains(condition.value, case=False, regex=False)
        return text.fillna(False).astype(bool)
    value = _value(condition, own, index, class_names)
    texts = not pandas.api.types.is_numeric_dtype(own.dtype)
    if texts:
        own = own.astype("string")
    other = not isinstance(value, (str, float))
    if other and texts == pandas.api.types.is_numeric_dtype(value.dtype):
        raise UsageError(f"{condition}: one of the columns holds numbers, the other texts")
    compare = {"=": own.eq, "!=": own.ne, "<": own.lt, "<=": own.le, ">": own.gt, ">=": own.ge}
    found = compare[condition.operator](value).fillna(False) & own.notna()
    return (found & value.notna() if other else found).astype(bool)


def _value(
    condition: Condition, own: Any, index: pandas.DataFrame, class_names: Sequence[str] | None
) -> Any:
    """A number, a text, the number of a class, or another column."""
    pandas: Any = require("pandas", "datasets")
    text = condition.value
    if text in index.columns and text not in _LISTS:
        return index[text]
    if isinstance(own.dtype, pandas.DatetimeTZDtype):
        raise UsageError(f"{condition}: filter the column {condition.column} with ~")
    if not pandas.api.types.is_numeric_dtype(own.dtype):
        return text
    try:
        return float(text)
    except ValueError:
        pass
    if condition.column in CLASSES:
        names = [name.casefold() for name in class_names or ()]
        found = [number for number, name in enumerate(names) if name == text.casefold()]
        if len(found) > 1:
            raise UsageError(
                f"{condition}: several classes have the name {text!r}: give one of the numbers "
                f"{', '.join(map(str, found))}"
            )
        if found:
            return float(found[0])
        raise UsageError(f"{condition}: no class has the name {text!r}")
    raise UsageError(f"{condition}: {text!r} is neither a number nor a column")
