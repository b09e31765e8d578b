"""The C++ library of the machine: the simulator, its runtime module and the weight codecs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm_ffi

from ..errors import UserError
from .hw import target_dir

_LIBRARY = "libqaccel_sim.so"


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
def load_library() -> Any:
    """Load the library once; this registers its global functions and the loader of saved modules."""
    return tvm_ffi.load_module(str(library_path()))


def native_function(name: str) -> Any:
    """A global function of the library. What it raises is for ``machine_error``."""
    load_library()
    return tvm_ffi.get_global_func(name)


def machine_error(error: RuntimeError) -> UserError:
    """The one line of an error that the library raised."""
    return UserError(str(error).strip().splitlines()[0])
