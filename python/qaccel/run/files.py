"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import UserError, path_of


def check_folder(path: str | Path, what: str) -> Path:
    """``path``, if files can be written there or the folder can be made. Raises UserError naming ``what`` it is for."""
    path = path_of(path, what)
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{what} folder '{path}' cannot be made: '{existing}' is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{what} folder '{path}' cannot be written; choose another")
    return path


def check_file(path: str | Path, what: str) -> Path:
    """``path``, if a file can be written there. Raises UserError naming ``what`` it is for."""
    path = path_of(path, what)
    if path.is_dir():
        raise UserError(f"{what} '{path}' is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{what} '{path}': the folder '{path.parent}' does not exist; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{what} '{path}': the folder '{path.parent}' cannot be written; choose another")
    return path


def write_file(path: str | Path, write: Callable[[Path], object], what: str) -> Path:
    """Call ``write`` on a temporary path beside ``path`` (same suffix) and rename the result over ``path``."""
    path = check_file(path, what)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".qaccel-", dir=path.parent))
        try:
            write(folder / path.name)
            os.replace(folder / path.name, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{what} '{path}' cannot be written: {error.strerror or error}; choose another place"
        ) from error
    return path


def write_text(path: str | Path, text: str, what: str) -> Path:
    """Write a UTF-8 text file; errors as ``write_file``."""
    return write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), what)


def write_folder(path: str | Path, files: Mapping[str, bytes], what: str) -> Path:
    """Write ``files`` (relative path: contents) below ``path``, which is made if it is not there.

    All are written beside their places first and then renamed, so that a full disk leaves nothing half-written.
    """
    path = check_folder(path, what)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".qaccel-", dir=path))
        try:
            for name, contents in files.items():
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).write_bytes(contents)
            for name in files:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / name, path / name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        if made and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        raise UserError(
            f"{what} folder '{path}' cannot be written: {error.strerror or error}; choose another place"
        ) from error
    return path
