"""The C++ library of the machine: the simulator, its runtime module and the weight codecs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm_ffi

from ..errors import UserError
from .hw_spec import target_dir
from .isa_spec import isa

_LIBRARY = "libqaccel_sim.so"
_VERSION = "qaccel_isa_version"


def library_path() -> Path:
    """The library: installed beside isa.toml, else the newest build of the checkout."""
    installed = target_dir() / "lib" / _LIBRARY
    if installed.is_file():
        return installed
    builds = sorted((target_dir().parent / "build").glob(f"**/{_LIBRARY}"), key=lambda path: path.stat().st_mtime)
    if not builds:
        raise UserError(f"{_LIBRARY} is not built: install qaccel (pip install .)")
    return builds[-1]


@lru_cache(maxsize=1)
def register_library() -> tuple[Path, Any]:
    """Load the library once, which registers the loader of saved modules; gives its path and it."""
    path = library_path()
    return path, tvm_ffi.load_module(str(path))


@lru_cache(maxsize=1)
def load_library() -> Any:
    """The library, for use. Raises UserError for one that was built for another version of the ISA."""
    path, library = register_library()
    known = library.implements_function(_VERSION)
    check_version(path, int(library.get_function(_VERSION)()) if known else None)
    return library


def check_version(path: Path, version: int | None) -> None:
    """Raises UserError, with how to make it anew, where a library at ``path`` is of another ISA version than this Python code.

    None is the version of a library that is too old to say it.
    """
    if version != isa().version:
        again = "pip install ." if path.parent == target_dir() / "lib" else "make sim"
        raise UserError(
            f"'{path}' is built for ISA version {version or 'unknown'}, this qaccel has {isa().version}; rebuild it: {again}"
        )


def native_function(name: str) -> Any:
    """A function of the library. What it raises is for ``machine_error``."""
    return load_library().get_function(name)


def machine_error(error: RuntimeError) -> UserError:
    """The one line of an error that the library raised."""
    return UserError(str(error).strip().splitlines()[0])
