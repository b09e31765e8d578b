"""Frozen dataclasses that are their JSON, too: made in the program, or read back from a file and checked against their types."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R")
_SHOWN = 160  # characters of values that a record shows of itself


class Misfit(ValueError):
    """A value that was read is not what its type says; the text goes on from the name of the whole: "has no 'layers[0].cycles'"."""


class Record(dict[str, Any]):
    """The base of a frozen dataclass that is also the dictionary of its fields, as JSON has them.

    ``layer.cycles`` and ``layer["cycles"]`` are one value; tuples are lists in the dictionary, and `json.dumps` takes it as it is.
    Subclasses are declared ``@dataclass(frozen=True, eq=False, repr=False)``: two records are equal if their dictionaries are.
    """

    def __post_init__(self) -> None:
        dict.update(self, {field.name: plain(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.items())
        return f"{type(self).__name__}({values if len(values) < _SHOWN else values[:_SHOWN] + '...'})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is frozen; change a copy: dict(...)")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse


def plain(value: Any) -> Any:
    """A value as JSON would give it back: dataclasses and mappings as dictionaries, tuples as lists."""
    if isinstance(value, Record):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def read_as(kind: type[R], value: Any, place: str = "") -> R:
    """A dataclass from what JSON gave. Keys that it does not know are left out.

    Args:
        kind: the dataclass.
        value: what `json.loads` gave.
        place: where the value stands, for messages; empty for the whole.

    Raises:
        Misfit: a key is missing, or a value is of another type than its field.
    """
    return _read(kind, value, place)


def _read(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (each for each in inner if each is not type(None))
        return None if value is None else _read(some, value, place)
    if origin is tuple:
        _check(value, list | tuple, "a list", place)
        return tuple(_read(inner[0], each, f"{place}[{number}]") for number, each in enumerate(value))
    if origin is not None:  # a mapping by name
        _check(value, Mapping, "an object", place)
        return {name: _read(inner[1], each, _inside(place, name)) for name, each in value.items()}
    if hasattr(kind, "__dataclass_fields__"):
        _check(value, Mapping, "an object", place)
        return kind(**{name: _field(hint, value, name, place) for name, hint in _hints(kind).items()})
    accepted = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        _misfit(value, {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}[kind], place)
    return value


def _field(hint: Any, value: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in value:
        raise Misfit(f"has no '{_inside(place, name)}'")
    return _read(hint, value[name], _inside(place, name))


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _check(value: Any, accepted: Any, what: str, place: str) -> None:
    if not isinstance(value, accepted):
        _misfit(value, what, place)


def _misfit(value: Any, what: str, place: str) -> NoReturn:
    raise Misfit(f"has {_shown(value)} at {place or 'its top'}, where {what} belongs")


def _shown(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:40]


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
