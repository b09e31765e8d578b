"""``tvmc``: the verbs and flags that TVM's own command line had, for qaccel and for llvm.

Exit codes: 0; 1 for a user's error and 3 for a fault of the compiler, one line on standard error each; 2 for wrong usage; 130
when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from ..errors import CompilerFault, UserError, check_compiler, fault_of
from ..version import __version__
from .parser import Parser

VERBS = ("compile", "run", "tune", "evaluate", "analyze", "explore", "diff", "replay", "inspect")
WITHOUT_COMPILER = ("run", "diff", "replay", "inspect")  # these need TVM's runtime alone


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Each verb's module adds its own flags and is what runs it."""
    parser = Parser(
        prog="tvmc", description="Compile neural networks for the qaccel accelerator or a CPU, run and inspect them."
    )
    parser.verbs = VERBS
    parser.add_argument("--version", action="version", version=f"tvmc of qaccel {__version__}")
    parser.add_argument("-v", "--verbose", dest="verbose_before", action="count", default=0, help="as after the verb")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        module = importlib.import_module(f".verbs.{verb}", __package__)
        summary = (module.__doc__ or "").split("\n")[0].split(": ", 1)[1]
        verb_parser = verbs.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        verb_parser.verb = verb
        module.add_arguments(verb_parser)
        verb_parser.add_argument(
            "-v", "--verbose", action="count", default=0, help="say more, -vv still more; on an error, add the trace"
        )
        verb_parser.set_defaults(execute=module.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tvmc``. Gives the exit code; a reader that has seen enough (``| head``) is no error."""
    words = sys.argv[1:] if arguments is None else arguments
    if sys.stdout is None:  # closed by whoever started us
        return _main(words)
    stream = sys.stdout
    sys.stdout = output = _Output(stream)
    try:
        try:
            return _main(words)
        finally:
            output.flush()
    except _OutputFailed as failure:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # keep Python from complaining at exit
        if isinstance(failure.reason, BrokenPipeError):
            return 0
        print(f"error: standard output: {failure.reason.strerror}; send it elsewhere", file=sys.stderr)
        return 1
    finally:
        sys.stdout = stream


class _OutputFailed(Exception):
    """Standard output takes nothing more; ``reason`` is what it said."""

    def __init__(self, reason: OSError) -> None:
        super().__init__()
        self.reason = reason


class _Output:
    """Standard output whose errors are known from those of files: they raise _OutputFailed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _OutputFailed(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _OutputFailed(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _main(arguments: Sequence[str]) -> int:
    parsed = build_parser().parse_args(arguments)
    parsed.verbose += parsed.verbose_before
    try:
        with _logging(parsed.verbose), warnings.catch_warnings():
            if not parsed.verbose:
                warnings.simplefilter("ignore")  # of libraries, beside our own lines
            if parsed.verb not in WITHOUT_COMPILER:
                check_compiler()
            parsed.execute(parsed)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except _OutputFailed:
        raise
    except UserError as error:
        return _failed(error, parsed.verbose, 1)
    except CompilerFault as fault:
        return _failed(fault, parsed.verbose, 3)
    except Exception as error:  # noqa: BLE001 - the boundary: what a verb itself does wrong is a fault too
        return _failed(fault_of(error, parsed.verb), parsed.verbose, 3)
    return 0


def _failed(error: UserError | CompilerFault, verbose: int, code: int) -> int:
    if verbose:
        traceback.print_exc()
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return code


@contextmanager
def _logging(verbose: int) -> Iterator[None]:
    """What the rooms log goes to standard error: nothing, with -v what happens, with -vv why."""
    logger = logging.getLogger("qaccel")
    if not verbose:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


if __name__ == "__main__":
    sys.exit(main())
