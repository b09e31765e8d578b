"""Which instructions a CPU has: LLVM tells by the CPU's name, Linux by what this machine lets a program use.

A virtual machine may hide some that the CPU of its name has (AVX-512 of a Zen 4); code that uses them dies of an illegal
instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a machine that only runs modules asks for `absent` alone
    import tvm

_CPUINFO = Path("/proc/cpuinfo")
# Extensions that LLVM uses of its own accord in code for vectors and numbers: its name, and Linux's in /proc/cpuinfo.
_LINUX_NAMES = {
    "x86_64": {
        "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "sse4a": "sse4a", "popcnt": "popcnt",
        "lzcnt": "abm", "bmi": "bmi1", "bmi2": "bmi2", "tbm": "tbm", "adx": "adx", "movbe": "movbe", "f16c": "f16c",
        "fma": "fma", "fma4": "fma4", "xop": "xop", "avx": "avx", "avx2": "avx2", "avxvnni": "avx_vnni",
        "avxifma": "avx_ifma", "avxvnniint8": "avx_vnni_int8", "avxvnniint16": "avx_vnni_int16",
        "avxneconvert": "avx_ne_convert", "gfni": "gfni", "vaes": "vaes", "aes": "aes", "pclmul": "pclmulqdq",
        "vpclmulqdq": "vpclmulqdq", "sha": "sha_ni", "avx512f": "avx512f", "avx512cd": "avx512cd", "avx512bw": "avx512bw",
        "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512ifma": "avx512ifma", "avx512vbmi": "avx512vbmi",
        "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni", "avx512bitalg": "avx512_bitalg",
        "avx512vpopcntdq": "avx512_vpopcntdq", "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16",
        "avx512vp2intersect": "avx512_vp2intersect", "amx-tile": "amx_tile", "amx-int8": "amx_int8", "amx-bf16": "amx_bf16",
        "amx-fp16": "amx_fp16",
    },
    "aarch64": {
        "neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm", "bf16": "bf16", "fullfp16": "asimdhp", "fp16fml": "asimdfhm",
        "rdm": "asimdrdm", "complxnum": "fcma", "jsconv": "jscvt", "lse": "atomics", "crc": "crc32", "rcpc": "lrcpc", "sve": "sve",
        "sve2": "sve2", "sme": "sme", "sme2": "sme2", "aes": "aes", "sha2": "sha2", "sha3": "sha3",
    },
}  # fmt: skip


def features(values: Mapping[str, Any]) -> set[str]:
    """All that LLVM says of a target that is given as TVM's dictionary: extensions, and how its code is tuned."""
    import tvm

    from ..relax_tools import held_back

    with held_back(show=False):
        return {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(tvm.target.Target(dict(values)))}


def extensions(target: tvm.target.Target) -> dict[str, str]:
    """Those of the extensions above that code for a target may use: by LLVM's name, sorted, Linux's."""
    names = ("mcpu", "mattr", "mtriple")
    values = {name: target.attrs[name] for name in names if name in target.attrs}
    linux = {name: flag for each in _LINUX_NAMES.values() for name, flag in each.items()}
    return {name: linux[name] for name in sorted(features({"kind": "llvm", **values}) & set(linux))}


def this_cpu() -> dict[str, Any]:
    """What TVM's target says of the CPU that this process runs on: ``mcpu``, and in ``mattr`` what is hidden of it."""
    import tvm

    cpu = str(tvm.target.codegen.llvm_get_system_cpu())
    return {"mcpu": cpu, "mattr": [f"-{name}" for name in hidden(cpu)]}


def hidden(cpu: str) -> list[str]:
    """Extensions that LLVM would use on a CPU of that name, and programs on this machine cannot."""
    import tvm

    return absent(extensions(tvm.target.Target({"kind": "llvm", "mcpu": cpu})))


def absent(extensions: Mapping[str, str], cpuinfo: str | None = None) -> list[str]:
    """Those of ``extensions`` (LLVM's names and Linux's) that this machine's programs cannot use, by LLVM's name; none where it
    does not tell: only Linux does.

    ``cpuinfo``: the text of /proc/cpuinfo, for tests.
    """
    usable = _usable() if cpuinfo is None else _usable_of(cpuinfo)
    return [] if usable is None else sorted(name for name, flag in extensions.items() if flag not in usable)


@cache
def _usable() -> frozenset[str] | None:
    try:
        return _usable_of(_CPUINFO.read_text())
    except OSError:
        return None


def _usable_of(cpuinfo: str) -> frozenset[str] | None:
    """Linux's names, of the first CPU: x86 calls them flags, ARM Features."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None
