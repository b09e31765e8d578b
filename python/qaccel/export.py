"""Exporting: a linked module -> a .so or .tar file."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm import relax
from tvm.support import cc

from .errors import UserError, one_line, path_of
from .run.files import check_file, write_file

SUFFIXES = (".so", ".tar")


def check_output_path(path: str | Path, mtriple: str | None = None) -> Path:
    """The path, if a module for ``mtriple`` (None: this machine) can be written there.

    Raises UserError for another suffix, a folder that is missing, and a .so that no installed compiler links.
    """
    path = path_of(path, "output")
    if path.suffix not in SUFFIXES:
        raise UserError(f"output '{path}' must end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".so":
        _linker(mtriple)
    return check_file(path, "output")


def export_library(executable: relax.VMExecutable, path: str | Path, mtriple: str | None = None) -> Path:
    """Write the module; the file appears whole or not at all.

    ``mtriple`` cross-compiles: a .so then needs that triple's g++. Raises UserError if the path cannot be written or
    no compiler links it. The same module gives the same bytes.
    """
    path = check_output_path(path, mtriple)
    arguments: dict[str, Any] = {}
    if path.suffix == ".tar":
        arguments["fcompile"] = _tar
    elif mtriple is not None:
        arguments["fcompile"] = cc.cross_compiler(_linker(mtriple))

    # Where LLVM cannot write its files it ends the process: nothing of ours may lie beside the output then.
    try:
        with tempfile.TemporaryDirectory(prefix="qaccel-") as folder:
            linked = Path(folder) / path.name
            executable.export_library(str(linked), **arguments)
            return write_file(path, lambda temporary: shutil.copy(linked, temporary), "output")
    except RuntimeError as error:
        raise UserError(f"output '{path}': the C++ compiler cannot link it: {one_line(error)}") from error
    except OSError as error:
        raise UserError(
            f"output '{path}': {error.strerror or error} in the folder for temporary files; make room"
        ) from error


def _tar(output: str, files: Sequence[str], **_options: Any) -> None:
    """A tarball of object files, as `tvm.support.tar.tar` makes one, but without times, owners and the folder's own order."""
    with (
        open(output, "wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in sorted(map(Path, files), key=lambda path: path.name):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            with path.open("rb") as contents:
                archive.addfile(member, contents)


_tar.output_format = "tar"  # type: ignore[attr-defined]  # what TVM reads of such a function


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
