"""The C++ library is of the version that this Python code writes programs for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm_ffi
import tvm_ffi.libinfo

from qaccel.errors import UserError
from qaccel.machine import native
from qaccel.machine.hw import target_dir
from qaccel.machine.isa import isa


def test_the_library_knows_its_version() -> None:
    assert int(native.native_function("qaccel_isa_version")()) == isa().version


@pytest.mark.parametrize(("folder", "way_out"), [(Path("build"), "make sim"), (target_dir() / "lib", "pip install")])
def test_another_version_is_refused_with_a_way_out(folder: Path, way_out: str) -> None:
    with pytest.raises(UserError, match=f"ISA version {isa().version - 1}.*{way_out}") as refused:
        native.check_version(folder / "libqaccel_sim.so", isa().version - 1)
    assert "\n" not in str(refused.value)


def test_a_library_too_old_to_say_its_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tvm_ffi.load_module(tvm_ffi.libinfo.find_libtvm_ffi())
    monkeypatch.setattr(native, "register_library", lambda: (Path("build/libqaccel_sim.so"), other))
    native.load_library.cache_clear()
    with pytest.raises(UserError, match="ISA version unknown"):
        native.load_library()
