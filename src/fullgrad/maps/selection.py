"""Which terms a map is made of.

The decomposition is exact whichever are drawn; docs/selections.md shows what each choice does to
the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from fullgrad.engine.module_path import is_submodule
from fullgrad.engine.wrappers import unwrap
from fullgrad.operations import Kind

Named: TypeAlias = Literal["all", "explicit", "implicit", "bias", "input"]
Terms: TypeAlias = Named | str | Sequence[str]

NAMED: tuple[str, ...] = get_args(Named)
_KINDS: dict[str, tuple[Kind, ...]] = {
    "all": ("explicit", "implicit", "both"),
    "explicit": ("explicit", "both"),
    "implicit": ("implicit",),
    "bias": ("explicit", "implicit", "both"),
    "input": (),
}
_WITH_INPUT = ("all", "explicit", "input")


@dataclass(frozen=True, slots=True)
class Selection:
    """The terms that count.

    Args:
        input: whether the input term does.
        kinds: of bias terms.
        modules: paths whose bias terms count, with all they contain; None for every module.
    """

    input: bool
    kinds: tuple[Kind, ...]
    modules: tuple[str, ...] | None = None

    def wants(self, kind: Kind, module: str) -> bool:
        """Whether a bias term of a kind in a module counts."""
        if kind not in self.kinds:
            return False
        return self.modules is None or any(is_submodule(module, m) for m in self.modules)


def paths_in(model: Any) -> Iterator[str]:
    """The paths of a model's modules, wrappers around it taken off; found when they are read."""
    yield from (name for name, _ in unwrap(model).named_modules())


def selection(terms: Terms, modules: Iterable[str] = ()) -> Selection:
    """Read the ``terms`` option.

    Args:
        terms: one of the names, the path of a module (a stage), or a list of module paths, with
            ``"input"`` among them for the input term.
        modules: the model's module paths, to refuse others.

    Raises:
        ValueError: an unknown name, a module that the model lacks, an empty list.
    """
    if isinstance(terms, str) and terms in NAMED:
        return Selection(terms in _WITH_INPUT, _KINDS[terms])
    if not isinstance(terms, Iterable):
        raise ValueError(f"terms must be one of {', '.join(NAMED)}, or modules, not {terms!r}")  # noqa: TRY004
    listed = (terms,) if isinstance(terms, str) else tuple(terms)
    known = set(modules)
    paths = tuple(t for t in listed if t != "input")
    unknown = [repr(p) for p in paths if p not in known or p in NAMED]
    if unknown or not listed:
        raise ValueError(
            f"terms must be one of {', '.join(NAMED)}, or modules of the model (with 'input' for "
            f"the input term), not {', '.join(unknown) or 'nothing'}"
        )
    return Selection("input" in listed, _KINDS["all"], paths)
