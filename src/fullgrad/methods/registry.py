"""Saliency methods by name, so that whatever takes a method takes any of them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from fullgrad._options import elsewhere, with_new_names
from fullgrad._user_code import loaded, names_file
from fullgrad.errors import MethodError, OptionError

Function: TypeAlias = Callable[..., Tensor]

# What attribute() takes itself; a method's option of that name could never be given.
RESERVED = (
    "method",
    "model",
    "inputs",
    "target",
    "signed",
    "additional_forward_args",
    "batch_size",
)


@dataclass(frozen=True, slots=True)
class Method:
    """A saliency method.

    Args:
        name: how it is asked for.
        function: called as ``function(model, inputs, target, **options)``, with
            ``additional_forward_args=`` where there are any; see
            :func:`fullgrad.methods.attribute` for what it is given and what it may return.
        options: frozen dataclass type of its options, all with defaults, which refuses wrong ones;
            None takes the keywords of the function.
        about: what it computes, in one sentence.
        reference: the paper it comes from.
        signed: whether its numbers have a sign; or a function that answers for given options.
        package: module of an optional package that it needs, or None.
        direct: whether the function is handed the call as it stands, the whole batch of a model
            that is not lent, with ``signed``, ``additional_forward_args`` and ``batch_size`` as
            keywords, and answers with the finished map.
        call_options: options of the call of the model (``mode``, ``layout`` and so on, see
            :func:`fullgrad.saliency`) that the function takes too, where they are given.
        renamed: from old names of its options to new ones.
        complete: whether its numbers are a part of the explained number, with their signs and
            whether a sign is asked for or not; the rest of it has no place.

    Raises:
        ValueError: a name, function or options that cannot be used.
    """

    name: str
    function: Function
    options: type = None  # type: ignore[assignment]
    about: str = ""
    reference: str = ""
    signed: bool | Callable[[Any], bool] = True
    package: str | None = None
    direct: bool = False
    call_options: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False

    def __post_init__(self) -> None:
        name, options = self.name, self.options
        if not isinstance(name, str) or not name:
            raise ValueError(f"a method's name must be a string that is not empty, not {name!r}")
        if not callable(self.function):
            raise ValueError(  # noqa: TRY004
                f"the function of method {name!r} must be callable, not {self.function!r}"
            )
        for argument, value, fits in (
            ("about", self.about, isinstance(self.about, str)),
            ("reference", self.reference, isinstance(self.reference, str)),
            ("signed", self.signed, self.signed in (True, False) or callable(self.signed)),
            ("package", self.package, isinstance(self.package, str | None)),
            ("direct", self.direct, self.direct in (True, False)),
            ("complete", self.complete, self.complete in (True, False)),
        ):
            if not fits:
                raise ValueError(f"{argument} of method {name!r} cannot be {value!r}")
        if options is None:
            options = _options_of(name, self.function)
            object.__setattr__(self, "options", options)
        elif not (isinstance(options, type) and is_dataclass(options)):
            raise ValueError(
                f"options of method {name!r} must be a dataclass type, not {options!r}"
            )
        taken = [f.name for f in fields(options) if f.name in RESERVED]
        if taken:
            raise ValueError(
                f"method {name!r} cannot have an option {taken[0]!r}: attribute() takes it itself"
            )

    @property
    def takes(self) -> list[str]:
        """The names of its options."""
        return [f.name for f in fields(self.options)]

    def settings(self, options: Mapping[str, Any]) -> Any:
        """The options, with defaults for those that are not given.

        Raises:
            OptionError: an unknown option, or one that is missing.
            ValueError: a wrong value.
        """
        known = self.takes
        for name in options:
            if name not in known and name not in self.renamed:
                have = f"its options: {', '.join(known)}" if known else "it has no options"
                others = [m.name for m in _METHODS.values() if name in (*m.takes, *m.call_options)]
                where = f"; it is an option of {', '.join(others)}" if others else elsewhere(name)
                raise OptionError(f"method {self.name!r} has no option {name!r}; {have}{where}")
        options = with_new_names(options, self.renamed)
        missing = [
            f.name
            for f in fields(self.options)
            if f.default is MISSING and f.default_factory is MISSING and f.name not in options
        ]
        if missing:
            raise OptionError(f"method {self.name!r} needs the option {missing[0]!r}")
        return self.options(**options)

    def require_sign(self, settings: Any) -> None:
        """Refuse to give a sign to numbers that have none.

        Raises:
            MethodError: the method has no sign with these options.
        """
        if not (self.signed(settings) if callable(self.signed) else self.signed):
            given = ", ".join(f"{f.name}={getattr(settings, f.name)!r}" for f in fields(settings))
            with_options = f" with {given}" if callable(self.signed) else ""
            raise MethodError(f"method {self.name!r} has no sign{with_options}; leave signed=False")


_METHODS: dict[str, Method] = {}
_FROM_FILES: dict[str, tuple[bytes, Method]] = {}  # by specification, with the file's content


def unlike(name: Any, known: list[str]) -> str:
    """What there is instead of an unknown name, the likely ones first.

    Names that differ in signs and capitals alone come first, then those that hold the name, then
    those with similar letters.
    """
    plain = {n: re.sub("[^a-z0-9]", "", n.lower()) for n in known}
    asked = re.sub("[^a-z0-9]", "", str(name).lower())
    same = [n for n, text in plain.items() if text == asked]
    holding = [n for n, text in plain.items() if len(asked) > 3 and asked in text]
    similar = difflib.get_close_matches(asked, list(plain.values()), n=3, cutoff=0.75)
    close = same or [*holding, *(n for n in plain if plain[n] in similar and n not in holding)][:3]
    meant = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{meant}known: {', '.join(known) or 'none'}"


def _itself(value: Any) -> Any:
    return value


def _options_of(name: str, function: Function) -> type:
    """A dataclass of the keywords that a plain function takes behind its first three."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    found: list[tuple[str, Any, Any]] = []
    for p in parameters[3:]:
        if p.kind in {p.VAR_KEYWORD, p.VAR_POSITIONAL} or p.name == "additional_forward_args":
            continue
        default = p.default
        if default is p.empty:
            found.append((p.name, Any, field()))
        else:
            found.append((p.name, Any, field(default_factory=partial(_itself, default))))
    options: type = make_dataclass(f"{name} options", found, frozen=True, kw_only=True)
    return options


def register(
    name: str,
    function: Function,
    *,
    options: type | None = None,
    about: str = "",
    reference: str = "",
    signed: bool | Callable[[Any], bool] = True,
    package: str | None = None,
    direct: bool = False,
    replace: bool = False,
) -> Method:
    """Make a saliency method known by name.

    Args:
        name: how it is asked for.
        function: see :class:`Method`.
        options: frozen dataclass type of its options; None takes the keywords of the function.
        about: what it computes, in one sentence.
        reference: the paper it comes from.
        signed: whether its numbers have a sign; or a function that answers for given options.
        package: module of an optional package that it needs.
        direct: see :class:`Method`.
        replace: take the place of a method of this name.

    Returns:
        The method.

    Raises:
        ValueError: the name is taken, or something cannot be used.

    Example:
        >>> import torch
        >>> from fullgrad import methods
        >>> def size(model, inputs, target, power: float = 1.0):
        ...     return inputs.abs() ** power
        >>> method = methods.register("size", size, about="The size of the input's numbers.")
        >>> methods.attribute("size", torch.nn.Flatten(), torch.ones(1, 3, 2, 2), 0, power=2.0)
        tensor([[[[3., 3.],
                  [3., 3.]]]])
        >>> methods.unregister("size") is method
        True
    """
    method = Method(name, function, options, about, reference, signed, package, direct)  # type: ignore[arg-type]
    return add(method, replace=replace)


def add(method: Method, *, replace: bool = False) -> Method:
    """Make a method known by its name; see :func:`register`."""
    if replace not in (True, False):
        raise ValueError(f"replace must be True or False, not {replace!r}")
    if method.name in _METHODS and not replace:
        raise ValueError(
            f"method {method.name!r} is registered already; pass replace=True to replace it"
        )
    _METHODS[method.name] = method
    return method


def unregister(name: str) -> Method:
    """Forget a method.

    Returns:
        The method that was registered.

    Raises:
        ValueError: there is none of that name.
    """
    method = get(name)
    del _METHODS[name]
    return method


def from_file(spec: str) -> Method:
    """The method that a Python file defines, named ``path/to/file.py:NAME``.

    The file is run, once for each content that it has.

    Args:
        spec: file and name of a function, as :func:`fullgrad.methods.attribute` takes them, or of
            a :class:`Method`.

    Raises:
        MethodError: no such file or function, or what the file raises.
    """
    file = Path(spec.rpartition(":")[0])
    content = file.read_bytes() if file.is_file() else b""
    known = _FROM_FILES.get(spec)
    if known is not None and known[0] == content:
        return known[1]
    _, found = loaded(spec, MethodError)
    if isinstance(found, Method):
        method = dataclasses.replace(found, name=spec)
    elif callable(found):
        about = inspect.cleandoc(found.__doc__ or "").partition("\n")[0]
        method = Method(spec, found, about=about)
    else:
        raise MethodError(
            f"{spec} is {type(found).__name__}, not a function (model, inputs, target) or a Method"
        )
    _FROM_FILES[spec] = content, method
    return method


def get(name: str) -> Method:
    """The method of a name, or of ``path/to/file.py:NAME``.

    Raises:
        ValueError: there is none; lists those that are known.
    """
    method = _METHODS.get(name) if isinstance(name, str) else None
    if method is None and isinstance(name, str) and names_file(name):
        return from_file(name)
    if method is None:
        raise ValueError(f"unknown method {name!r}; {unlike(name, names())}")
    return method


def names() -> list[str]:
    """The names of all registered methods, in the order of their registration."""
    return list(_METHODS)


def resolved(method: str | Method | Function) -> Method:
    """The method that is meant by a name, a method or a plain function.

    Raises:
        ValueError: it is none of these, or an unknown name.
    """
    if isinstance(method, Method):
        return method
    if callable(method):
        return Method(getattr(method, "__name__", type(method).__name__), method)
    return get(method)
