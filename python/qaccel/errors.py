"""The exceptions that leave qaccel, their one line, and the boundary that turns everything else into one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class QaccelError(Exception):
    """Whatever qaccel raises: one line. Either a `UserError` or a `CompilerFault`."""


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


def one_line(error: BaseException) -> str:
    """The sentence that matters of an error that may be a page long: TVM's end with a trace, or begin with one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.lstrip().startswith("File ")]
    return lines[-1][:300] if lines else type(error).__name__
