"""What a CPU of LLVM's name has and this machine has not: it is not used, and a module that needs it is refused."""

from pathlib import Path

import numpy as np
import pytest
import tvm

import qaccel
from qaccel.errors import UserError
from qaccel.host import host_target
from qaccel.options import parse_target
from qaccel.schedules import features
from small_models import chain, samples

# A Zen 4 as a virtual machine shows it without AVX-512, and an ARM core without SVE.
ZEN4 = (
    "processor\t: 0\nflags\t\t: fpu sse sse2 pni ssse3 sse4_1 sse4_2 sse4a popcnt abm bmi1 bmi2 adx movbe f16c fma avx avx2 vaes aes "
    "pclmulqdq vpclmulqdq sha_ni\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp asimdhp asimdfhm asimdrdm fcma jscvt atomics crc32 lrcpc aes sha2 bf16 i8mm\n"


def _extensions(**values: str) -> dict[str, str]:
    return features.extensions(tvm.target.Target({"kind": "llvm", **values}))


def test_what_a_virtual_machine_hides() -> None:
    hidden = ["bf16", "bitalg", "bw", "cd", "dq", "f", "ifma", "vbmi", "vbmi2", "vl", "vnni", "vpopcntdq"]
    assert features.absent(_extensions(mcpu="znver4"), ZEN4) == [*(f"avx512{name}" for name in hidden), "gfni"]
    assert features.absent(_extensions(mcpu="znver2"), ZEN4) == []
    arm = _extensions(mcpu="neoverse-v1", mtriple="aarch64-linux-gnu")
    assert features.absent(arm, ARM) == ["sha3", "sve"]
    assert features.absent({"avx512f": "avx512f", "sve": "sve"}, "no word of features") == []


def test_nothing_hidden_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the default, nor by -mcpu=native with an attribute of the user's own."""
    assert features.absent(features.extensions(host_target(parse_target("llvm")))) == []
    monkeypatch.setattr(tvm.target.codegen, "llvm_get_system_cpu", lambda: "znver4")
    monkeypatch.setattr(features, "_usable", lambda: features._usable_of(ZEN4))
    for text in ("llvm", "llvm -mcpu=native -mattr=-fma"):
        target = host_target(parse_target(text))
        used = features.extensions(target)
        assert target.attrs["mcpu"] == "znver4" and "avx2" in used and not [each for each in used if "avx512" in each]
        assert ("fma" in used) == (text == "llvm")


def test_a_module_of_a_larger_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "module.so"
    qaccel.compile(chain(), target="llvm").export_library(path)
    qaccel.load(path)
    monkeypatch.setattr(features, "_usable", lambda: frozenset({"pni"}))
    with pytest.raises(
        UserError, match=r"module\.so' was compiled for a CPU with .*, which this machine does not have; compile it"
    ):
        qaccel.load(path)
    with pytest.raises(UserError, match=r"the module was compiled for a CPU with .*, which this machine does not have"):
        qaccel.compile(chain(), target="llvm -mcpu=znver4").run(samples(chain(), 1))
    qaccel.compile(chain(), target="llvm -mcpu=x86-64").export_library(path)
    assert np.isfinite(next(iter(qaccel.load(path).run(samples(chain(), 1)).values()))).all()
