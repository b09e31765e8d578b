"""The exceptions that users see, and their one line."""

from __future__ import annotations


class QaccelError(Exception):
    """Whatever qaccel raises: one line that names the node, the value, the limit and the way out."""


class UserError(QaccelError):
    """What the user can mend. ``tvmc`` exits with 1."""


class CompilerFault(QaccelError):
    """What only we can mend: the compiler broke a promise of its own. ``tvmc`` exits with 3."""


def one_line(error: BaseException) -> str:
    """The sentence that matters of an error that may be a page long: TVM's end with a trace, or begin with one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.lstrip().startswith("File ")]
    return lines[-1][:300] if lines else type(error).__name__
