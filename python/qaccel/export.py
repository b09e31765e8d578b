"""Exporting: a linked module -> a .so or .tar file."""

from __future__ import annotations

import gzip
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm import relax
from tvm.support import cc

from .errors import UserError, one_line, path_of
from .options import MODULE_SUFFIXES
from .run.files import check_file, write_file


def check_output_path(path: str | Path, mtriple: str | None = None, cross_compiler: str | None = None) -> Path:
    """The path, if a module for ``mtriple`` (None: this machine) can be written there.

    Raises UserError for another suffix, a folder that is missing, a .so that no installed compiler links, and a
    ``cross_compiler`` that is not installed or has nothing to link.
    """
    path = path_of(path, "output")
    if path.suffix not in MODULE_SUFFIXES:
        raise UserError(f"output '{path}' must end in {' or '.join(MODULE_SUFFIXES)}")
    if path.suffix == ".so":
        _linker(mtriple, cross_compiler)
    elif cross_compiler is not None:
        raise UserError(f"--cross-compiler links a .so, and the output is '{path}'; drop it, or name a .so")
    return check_file(path, "output")


def export_library(
    executable: relax.VMExecutable, path: str | Path, mtriple: str | None = None, cross_compiler: str | None = None
) -> Path:
    """Write the module; the file appears whole or not at all.

    ``mtriple`` cross-compiles: a .so then needs that triple's g++, or ``cross_compiler``, a program and its flags as a shell
    takes them. Raises UserError if the path cannot be written or no compiler links it. The same module gives the same bytes.
    """
    path = check_output_path(path, mtriple, cross_compiler)
    arguments: dict[str, Any] = {}
    if path.suffix == ".tar":
        arguments["fcompile"] = _tar
    elif mtriple is not None or cross_compiler is not None:
        program, *flags = _linker(mtriple, cross_compiler)
        arguments["fcompile"] = cc.cross_compiler(program, options=flags)

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


def _linker(mtriple: str | None, cross_compiler: str | None = None) -> list[str]:
    """The program that links a .so, and its flags."""
    if cross_compiler is not None:
        try:
            words = shlex.split(cross_compiler)
        except ValueError as error:
            raise UserError(f"--cross-compiler {cross_compiler!r}: {error}; give it as a shell takes it") from None
        if not words or shutil.which(words[0]) is None:
            raise UserError(
                f"--cross-compiler {cross_compiler!r} is not installed; give the name or path of a compiler"
            )
        return words
    if mtriple is None:
        if not cc.get_cc():
            raise UserError("a .so is linked by g++ or clang++, and none is installed; install one, or write a .tar")
        return [str(cc.get_cc())]
    compiler = shutil.which(f"{mtriple}-g++") or shutil.which(f"{mtriple}-gcc")
    if compiler is None:
        raise UserError(
            f"a .so for {mtriple} is linked by {mtriple}-g++, which is not installed; install it, give --cross-compiler, "
            "or write a .tar"
        )
    return [compiler]
