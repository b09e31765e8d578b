"""tvmc replay: run what --emit-program wrote on simulator and interpreter, and name the first difference from its golden data."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("folder", metavar="PROGRAM_DIR", type=Path, help="folder that --emit-program wrote")


def execute(arguments: argparse.Namespace) -> None:
    """Replay, and say what was compared."""
    from ...run.replay.replay import replay

    for each in replay(arguments.folder):
        what = f"{each.accesses:,} reads and writes of {each.compared_bytes:,} bytes"
        print(
            f"{each.symbol}: {each.instructions:,} instructions, {what} as the golden data say; {each.cycles:,} cycles"
        )
