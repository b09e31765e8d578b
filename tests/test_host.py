"""Targets of the host: what LLVM knows is taken, what it does not know is refused before it can die of it."""

import pytest

from qaccel.errors import UserError
from qaccel.host import host_target
from qaccel.options import parse_target
from tiers import wide_after

TAKEN = (
    "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72 -mattr=+neon,-crypto", "llvm -mtriple=x86_64-linux-gnu -mcpu=haswell",
    "llvm -mtriple=armv7a-linux-gnueabihf -mfloat-abi=hard -mattr=+neon", "llvm -mtriple=arm64-apple-darwin", "llvm -mtriple=aarch64",
    "llvm -mtriple=riscv64-unknown-elf -mabi=lp64d", "llvm -mtriple=thumbv7em-none-eabi", "llvm -mtriple=i686-linux-gnu",
    "llvm -mtriple=wasm32-wasi", "llvm -mtriple=x86_64-pc-windows-msvc", "llvm -mtriple=aarch64-linux-android",
    "llvm -mtriple=powerpc64le-linux-gnu", "llvm -mtriple=x86_64-conda-linux-gnu", "llvm -opt-level=2 -num-cores=4",
)  # fmt: skip


@pytest.mark.parametrize("text", wide_after(6, TAKEN))
def test_what_llvm_knows(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    target, given = host_target(parse_target(text)), dict(parse_target(text).host)
    assert all(str(target.attrs[name]) == given[name] for name in ("mcpu", "mtriple") if name in given)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "arch", ["foo", "x86", "x64", "riscv64gc", "aarch46", "amdgcn", "nvptx64", "spirv64", "bpfel", "gnu"]
)
def test_architectures_that_no_cpu_has(arch: str) -> None:
    for triple in (arch, f"{arch}-linux-gnu", f"{arch}-bar"):
        with pytest.raises(UserError, match=f"no CPU architecture '{arch}'"):
            host_target(parse_target(f"llvm -mtriple={triple}"))


@pytest.mark.parametrize("triple", ["aarch64-linxu", "x86_64-foo-bar", "arm-gnu-linxu", "aarch64-lnux-gnu"])
def test_systems_that_there_are_not(triple: str) -> None:
    with pytest.raises(UserError, match="no operating system that LLVM knows; "):
        host_target(parse_target(f"llvm -mtriple={triple}"))


def test_near_names_are_those_of_the_triple() -> None:
    with pytest.raises(UserError, match=r"'cortex-a72x' for aarch64-linux-gnu; did you mean 'cortex-a72'"):
        host_target(parse_target("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72x"))
    with pytest.raises(UserError, match="no CPU 'haswell' for aarch64-linux-gnu; it has such as"):
        host_target(parse_target("llvm -mtriple=aarch64-linux-gnu -mcpu=haswell"))
    with pytest.raises(UserError, match="no CPU feature 'avx2' for this kind of machine"):
        host_target(parse_target("llvm -mtriple=aarch64-linux-gnu -mattr=+avx2"))
