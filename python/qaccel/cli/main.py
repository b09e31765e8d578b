"""``tvmc``: the verbs and flags that TVM's own command line had, for qaccel and for llvm.

Exit codes: 0; 1 for a user's error, one line on standard error; 2 for wrong usage; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from ..errors import QaccelError
from ..stages import stage_of
from ..version import __version__

VERBS = ("compile", "run", "tune", "evaluate", "inspect")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Each verb's module adds its own flags and is what runs it."""
    parser = argparse.ArgumentParser(
        prog="tvmc", description="Compile neural networks for the qaccel accelerator or a CPU, run and inspect them."
    )
    parser.add_argument("--version", action="version", version=f"tvmc of qaccel {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        module = importlib.import_module(f".{verb}", __package__)
        summary = (module.__doc__ or "").split("\n")[0].split(": ", 1)[1]
        verb_parser = verbs.add_parser(verb, help=summary, description=summary, allow_abbrev=False)
        module.add_arguments(verb_parser)
        verb_parser.add_argument("-v", "--verbose", action="store_true", help="say more; on an error, add the trace")
        verb_parser.set_defaults(execute=module.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tvmc``. Gives the exit code; a reader that has seen enough (``| head``) is no error."""
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # keep Python from complaining at exit
        return 0


def _main(arguments: Sequence[str] | None) -> int:
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.execute(parsed)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except QaccelError as error:
        return _failed(str(error), parsed.verbose)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever is wrong inside becomes one line too
        where = stage_of(error)
        stage = f" in the stage '{where}'" if where else ""
        line = " ".join(str(error).split())[:300]
        return _failed(
            f"internal error{stage}: {type(error).__name__}: {line}; run again with -v for the trace", parsed.verbose
        )
    return 0


def _failed(line: str, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    print("error: " + " ".join(line.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
