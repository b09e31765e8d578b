"""Writes what is generated from the machine's description in target/: C++ headers of the simulator, and the ISA manual.

    python -m qaccel.machine.generate --isa-header qaccel_isa.h --hw-header qaccel_hw.h
    python -m qaccel.machine.generate --manual target/MANUAL.md

The build runs it before qaccel and what it depends on are installed, so it needs those files and the standard library only.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..hw_spec import parameters
from ..isa_spec import isa
from .config import config_header
from .header import header
from .manual import manual


def write_text(path: Path, text: str) -> None:
    """Replace a file's contents in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m qaccel.machine.generate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--isa-header", type=Path, metavar="FILE", help="write the C++ view of isa.toml there")
    parser.add_argument("--hw-header", type=Path, metavar="FILE", help="write the C++ view of hw.toml there")
    parser.add_argument("--manual", type=Path, metavar="FILE", help="write the ISA manual there")
    options = parser.parse_args(arguments)
    if not (options.isa_header or options.hw_header or options.manual):
        parser.error("nothing to write: give --isa-header, --hw-header or --manual")
    if options.isa_header:
        write_text(options.isa_header, header(isa()))
    if options.hw_header:
        write_text(options.hw_header, config_header(parameters()))
    if options.manual:
        write_text(options.manual, manual(isa(), parameters()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
