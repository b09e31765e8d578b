"""The C++ library is of the version that this Python code writes programs for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm_ffi

from qaccel.errors import UserError
from qaccel.machine import native
from qaccel.machine.hw import target_dir
from qaccel.machine.isa import isa


def test_the_library_knows_its_version() -> None:
    native.load_library()
    known = tvm_ffi.get_global_func("qaccel.isa_version", allow_missing=True)
    if known is None:
        pytest.skip("the library was built before it could say its version")
    assert int(known()) == isa().version


@pytest.mark.parametrize(("folder", "way_out"), [(Path("build"), "make sim"), (target_dir() / "lib", "pip install")])
def test_another_version_is_refused_with_a_way_out(folder: Path, way_out: str) -> None:
    with pytest.raises(UserError, match=f"ISA version {isa().version - 1}.*{way_out}") as refused:
        native.check_version(folder / "libqaccel_sim.so", isa().version - 1)
    assert "\n" not in str(refused.value)
