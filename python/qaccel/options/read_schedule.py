"""Schedules as a user gives them: a file, or the same as dictionaries. Every mistake of form is found here."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import UserError, did_you_mean, path_of, shown
from .limits import is_whole
from .schedule import NO_POST, SCHEDULE_VERSION, Schedule, SubgraphSchedule

_TOP = ("schedule", "hw", "hw_digest", "subgraphs")
_MOST = (1 << 31) - 1


def schedule_of(given: Any) -> Schedule:
    """A schedule, a dictionary that says one, or the path of a file. Raises UserError for what is none, in one line."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, Mapping):
        return _schedule(given, "the schedule")
    path = path_of(given, "--schedule")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _object(pairs, str(path)))
    except OSError as error:
        raise UserError(f"schedule '{path}': {error.strerror}; tvmc compile --emit-schedule FILE writes one") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"schedule '{path}' is not JSON: {error}; --emit-schedule writes one to begin with") from error
    return _schedule(found, f"schedule '{path}'")


def _object(pairs: list[tuple[str, Any]], origin: str) -> dict[str, Any]:
    """A JSON object. Raises UserError for a name that it has twice: JSON would silently take the last."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise UserError(f"schedule '{origin}' has {shown(name)} twice; keep one of its entries")
        made[name] = value
    return made


def _schedule(given: Any, origin: str) -> Schedule:
    if not isinstance(given, Mapping):
        raise UserError(f"{origin} must be an object with {_listed(_TOP)}; it is {shown(given)}")
    version = given.get("schedule")
    if not is_whole(version) or version != SCHEDULE_VERSION:
        raise UserError(
            f'{origin} says "schedule": {shown(version)}, and this qaccel reads version {SCHEDULE_VERSION}; write it anew with '
            "--emit-schedule"
        )
    _check_names(given, _TOP, origin)
    hw, digest = given.get("hw"), given.get("hw_digest")
    if not isinstance(hw, str):
        raise UserError(f'{origin}: "hw" must be the name of the config that it is for; it is {shown(hw)}')
    if digest is not None and not isinstance(digest, str):
        raise UserError(f'{origin}: "hw_digest" must be a text; it is {shown(digest)}; leave it out')
    subgraphs = _value(Mapping[str, SubgraphSchedule], given.get("subgraphs"), f"{origin}: subgraphs")
    return Schedule(hw, subgraphs, digest, origin)


def _value(kind: Any, given: Any, place: str) -> Any:
    """A value of a type from what JSON gave; ``place`` names it in errors."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (each for each in inner if each is not type(None))
        if given is None:
            raise UserError(f"{place} is null; leave it out, and the compiler decides")
        return _value(some, given, place)
    if origin is tuple:
        if not isinstance(given, list | tuple):
            raise UserError(f"{place} must be a list; it is {shown(given)}")
        return tuple(_value(inner[0], each, f"{place}[{number}]") for number, each in enumerate(given))
    if origin is not None:
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UserError(f"{place} must be an object by name; it is {shown(given)}")
        return {name: _value(inner[1], each, f"{place}.{_short(name)}") for name, each in given.items()}
    if is_dataclass(kind):
        return _record(kind, given, place)
    if kind is int and (not is_whole(given) or not 0 <= given <= _MOST):
        raise UserError(f"{place} must be a whole number from 0 to {_MOST}; it is {shown(given)}")
    if kind is not int and not isinstance(given, kind):
        what = {str: "a text", bool: "true or false"}[kind]
        raise UserError(f"{place} must be {what}; it is {shown(given)}")
    return int(given) if kind is int else given


def _record(kind: Any, given: Any, place: str) -> Any:
    if not isinstance(given, Mapping):
        raise UserError(f"{place} must be an object with {_listed(_hints(kind))}; it is {shown(given)}")
    _check_names(given, _hints(kind), place)
    made = {}
    for each in fields(kind):
        if each.name not in given:
            if each.default is MISSING and each.default_factory is MISSING:
                raise UserError(f'{place} has no "{each.name}"; add it')
        elif each.name == "post" and given["post"] is None:
            made["post"] = NO_POST
        else:
            made[each.name] = _value(_hints(kind)[each.name], given[each.name], f"{place}.{each.name}")
            choices = each.metadata.get("one_of")
            if choices and made[each.name] not in choices:
                raise UserError(
                    f"{place}.{each.name} must be {' or '.join(map(repr, choices))}; it is {shown(made[each.name])}"
                )
    return kind(**made)


def _check_names(given: Mapping[Any, Any], known: Any, place: str) -> None:
    for name in given:
        if name not in known:
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            raise UserError(f"{place} has no entry {shown(name)}; it may have {_listed(known)}{near}")


def _listed(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}
