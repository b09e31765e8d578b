"""The exceptions that leave qaccel, their one line, and the boundary that turns everything else into one of them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST_VALUE = 60  # characters of a value in a message


class QaccelError(Exception):
    """Whatever qaccel raises: one line. Either a `UserError` or a `CompilerFault`."""

    def __init__(self, what: str) -> None:
        super().__init__(" ".join(line.strip() for line in what.splitlines()))


class UserError(QaccelError):
    """What the user can mend: the line names the node, the value, the limit and the way out. ``tvmc`` exits with 1."""


class CompilerFault(QaccelError):
    """What only we can mend: the compiler broke a promise of its own. ``tvmc`` exits with 3.

    ``what``: what went wrong. ``stage``: where; who raises it need not know, the boundary that it leaves fills it in.
    """

    def __init__(self, what: str, stage: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.stage = stage

    def __str__(self) -> str:
        where = f" in the stage '{self.stage}'" if self.stage is not None else ""
        return (
            f"internal error{where}: {self.what}; this is a fault of qaccel: run again with -v and report the trace "
            "together with the model and the command"
        )


def fault_of(error: Exception, stage: str) -> CompilerFault:
    """An exception that nobody expected as a fault of ``stage``."""
    return CompilerFault(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": "), stage)


@contextmanager
def boundary(stage: str) -> Iterator[None]:
    """Only QaccelError leaves the block: anything unexpected becomes a CompilerFault of ``stage``, raised from the original.

    A fault that names no stage yet gets this one. KeyboardInterrupt passes.
    """
    try:
        yield
    except CompilerFault as fault:
        if fault.stage is None:
            fault.stage = stage
        raise
    except QaccelError:
        raise
    except Exception as error:
        raise fault_of(error, stage) from error


def check_compiler() -> None:
    """Raises UserError where TVM runs without its compiler: qaccel then loads and runs modules, and does nothing else."""
    if os.environ.get("TVM_USE_RUNTIME_LIB") == "1":
        raise UserError(
            "TVM_USE_RUNTIME_LIB=1 keeps TVM's compiler out, so modules can be loaded and run and nothing else; unset it"
        )


def one_line(error: BaseException) -> str:
    """What an error of any library says: at most 300 characters of its text, or of the last line where it holds a trace."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith('File "')]
    return " ".join(said if len(said) == len(lines) else said[-1:])[:300] or type(error).__name__


def shown(value: Any) -> str:
    """A value of any kind as a message may print it: short, in one line; of an array its type and shape."""
    if _is_array(value):
        return f"a {value.dtype} array {list(value.shape)}"
    if isinstance(value, list | tuple | dict):
        parts = list(value.values() if isinstance(value, dict) else value)
        if len(parts) > LONGEST_VALUE or any(map(_is_array, parts)):
            return f"a {type(value).__name__} of {len(parts)}"  # its whole text would take its time
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, type)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'a' or 'b'?`` for the names that look most like ``name``, or nothing where none does."""
    near = difflib.get_close_matches(name, list(known), 3, 0.7)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def path_of(value: Any, what: str) -> Path:
    """A path that the user gave. Raises UserError naming ``what`` it is where no file can have that name."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UserError(f"{what} must be a path, a string or a pathlib.Path; it is {shown(value)}")
    try:
        os.path.lexists(value)
        Path(value).exists()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{what} {shown(str(value))} cannot be used: {reason}; choose another") from None
    return Path(value)
