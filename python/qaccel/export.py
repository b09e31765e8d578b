"""Exporting: a linked module -> a .so or .tar file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tvm import relax
from tvm.support import cc

from .errors import UserError, one_line
from .run.files import check_file, write_file

SUFFIXES = (".so", ".tar")


def check_output_path(path: str | Path, mtriple: str | None = None) -> Path:
    """The path, if a module for ``mtriple`` (None: this machine) can be written there.

    Raises UserError for another suffix, a folder that is missing, and a .so that no installed compiler links.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"output '{path}' must end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".so":
        _linker(mtriple)
    return check_file(path, "output")


def export_library(executable: relax.VMExecutable, path: str | Path, mtriple: str | None = None) -> Path:
    """Write the module; the file appears whole or not at all.

    ``mtriple`` cross-compiles: a .so then needs that triple's g++. Raises UserError if the path cannot be written or
    no compiler links it.
    """
    path = check_output_path(path, mtriple)
    arguments: dict[str, Any] = {}
    if path.suffix == ".so" and mtriple is not None:
        arguments["fcompile"] = cc.cross_compiler(_linker(mtriple))

    def write(temporary: Path) -> None:
        try:
            executable.export_library(str(temporary), **arguments)
        except RuntimeError as error:
            raise UserError(f"output '{path}': the C++ compiler cannot link it: {one_line(error)}") from error

    return write_file(path, write, "output")


def _linker(mtriple: str | None) -> str:
    if mtriple is None:
        if not cc.get_cc():
            raise UserError("a .so is linked by g++ or clang++, and none is installed; install one, or write a .tar")
        return str(cc.get_cc())
    compiler = shutil.which(f"{mtriple}-g++") or shutil.which(f"{mtriple}-gcc")
    if compiler is None:
        raise UserError(
            f"a .so for {mtriple} is linked by {mtriple}-g++, which is not installed; install it, or write a .tar"
        )
    return compiler
