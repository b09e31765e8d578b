"""The host: TVM's target for the CPU's part, made of the user's flags, each of which is checked.

LLVM itself dies of an architecture that it does not know, and takes a generic CPU, without more than a line on standard error, for
one that the architecture has not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import tvm

from .errors import UserError, did_you_mean, one_line
from .options import TargetOptions
from .schedules.features import features, hidden, this_cpu

# How the names begin of LLVM's architectures that are CPUs; its others are graphics processors, DSPs of one company and the like.
_CPUS = (
    "arm", "aarch64", "hexagon", "loongarch", "mips", "powerpc", "riscv", "s390x", "sparc", "thumb", "i386", "x86_64", "wasm",
)  # fmt: skip
# Spellings of architectures that LLVM reads beside its own names (llvm::Triple::parseArch).
_OTHER_SPELLINGS = re.compile(
    r"i[3-9]86|x86_64h|amd64|arm64(_32|e|ec)?|(arm|thumb)(eb)?(v\d.*)?|ppc(32)?(le)?|ppc64(le)?|sparc64|systemz|mipsr6(el)?"
)
# How the words begin that name an operating system or its absence; a triple has one of them, in third or second place.
_SYSTEMS = (
    "linux", "none", "unknown", "elf", "eabi", "darwin", "macos", "ios", "tvos", "watchos", "windows", "win32", "mingw32",
    "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "fuchsia", "haiku", "aix", "rtems", "wasi", "emscripten", "android",
    "hurd", "uefi", "zos",
)  # fmt: skip
_ABIS = {
    "arm": ("aapcs", "aapcs16", "aapcs-linux", "apcs-gnu"), "thumb": ("aapcs", "aapcs16", "aapcs-linux", "apcs-gnu"),
    "aarch64": ("aapcs", "darwinpcs"), "arm64": ("aapcs", "darwinpcs"), "mips": ("o32", "n32", "n64"),
    "riscv32": ("ilp32", "ilp32e", "ilp32f", "ilp32d"), "riscv64": ("lp64", "lp64e", "lp64f", "lp64d", "lp64q"),
    "powerpc64": ("elfv1", "elfv2"), "ppc64": ("elfv1", "elfv2"),
    "loongarch64": ("lp64s", "lp64f", "lp64d"), "loongarch32": ("ilp32s", "ilp32f", "ilp32d"),
}  # fmt: skip
_FLOAT_ABIS = ("soft", "hard")
_NUMBERS = {
    "opt-level": range(4),
    "num-cores": range(1, 1 << 16),
    "vector-width": (64, 128, 256, 512, 1024, 2048),  # bits
}


def host_target(options: TargetOptions) -> tvm.target.Target:
    """TVM's target for the CPU part. TVM 0.27 does not parse flags itself and takes ``native`` for a generic CPU.

    Without -mcpu, -mattr and -mtriple it is this machine's CPU, without what a virtual machine hides of it. Raises
    UserError for a value that LLVM does not know.
    """
    values: dict[str, Any] = {"kind": "llvm"}
    for name, value in options.host:
        values[name] = list(value) if isinstance(value, tuple) else value
    if _for_this_cpu(values):
        values["mcpu"] = "native"
    if values.get("mcpu") == "native":
        if "mtriple" in values:
            raise UserError(f"--target '{options}': -mcpu=native is this machine; name the CPU when -mtriple is given")
        own = this_cpu()
        values |= own | {"mattr": [*own["mattr"], *values.get("mattr", [])]}
    triple = values.get("mtriple")
    if triple is not None:
        _check_triple(triple)
    _check_values(values, triple or tvm.target.codegen.llvm_get_system_triple())
    machine = {"kind": "llvm"} if triple is None else {"kind": "llvm", "mtriple": triple}
    _check_cpu(values.get("mcpu"), machine)
    _check_features(values.get("mattr", []), {**machine, "mcpu": values["mcpu"]} if "mcpu" in values else machine)
    try:
        return tvm.target.Target(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--target '{options}': TVM does not take it: {one_line(error)}") from error


def _check_triple(triple: str) -> None:
    words = triple.split("-")
    known = [str(name) for name in tvm.target.codegen.llvm_get_targets() if str(name).startswith(_CPUS)]
    if words[0] not in known and not _OTHER_SPELLINGS.fullmatch(words[0]):
        near = did_you_mean(words[0], known) or f"; it knows {', '.join(known)}"
        raise UserError(f"--target: -mtriple={triple}: LLVM has no CPU architecture {words[0]!r}{near}")
    if len(words) > 1 and not any(word.startswith(_SYSTEMS) for word in words[1:]):
        near = "".join(did_you_mean(word, _SYSTEMS) for word in words[1:]) or "; a triple is such as aarch64-linux-gnu"
        raise UserError(f"--target: -mtriple={triple} names no operating system that LLVM knows{near}")


def _check_values(values: Mapping[str, Any], triple: str) -> None:
    for name, allowed in _NUMBERS.items():
        if name in values and values[name] not in allowed:
            listed = ", ".join(map(str, allowed)) if len(allowed) < 10 else f"{allowed[0]} to {allowed[-1]}"
            raise UserError(f"--target: -{name}={values[name]} is none of {listed}")
    if values.get("mfloat-abi", "soft") not in _FLOAT_ABIS:
        raise UserError(f"--target: -mfloat-abi={values['mfloat-abi']} is none of {', '.join(_FLOAT_ABIS)}")
    if "mabi" in values:
        abis = next((each for prefix, each in _ABIS.items() if triple.startswith(prefix)), ())
        if values["mabi"] not in abis:
            choice = f"it is one of {', '.join(abis)}" if abis else "there is none to choose; drop it"
            raise UserError(f"--target: -mabi={values['mabi']} is no ABI of {triple}; {choice}")


def _check_cpu(cpu: str | None, machine: Mapping[str, str]) -> None:
    if cpu is None:
        return
    known = {str(name) for name in tvm.target.codegen.llvm_get_cpu_archlist(tvm.target.Target(dict(machine)))}
    if known and cpu not in known:
        where = machine.get("mtriple", "this kind of machine (-mcpu=native is its own)")
        near = did_you_mean(cpu, known) or f"; it has such as {', '.join(sorted(known)[:: -(-len(known) // 8)])}"
        raise UserError(f"--target: LLVM has no CPU {cpu!r} for {where}{near}")


def _check_features(wanted: Iterable[str], machine: Mapping[str, Any]) -> None:
    """Each of ``wanted`` must be +name or -name, and a feature of ``machine``."""
    names = []
    for name in wanted:
        if name[:1] not in ("+", "-"):
            raise UserError(
                f"--target: -mattr={name} must be +{name} where that is to be used, -{name} where it is not"
            )
        names.append(name[1:])
    if not names:
        return
    known = features({**machine, "mattr": [f"+{name}" for name in names]})
    for name in names:
        if name not in known:
            cpus = tvm.target.codegen.llvm_get_cpu_archlist(tvm.target.Target(_without_cpu(machine)))
            every = set().union(*(features({**machine, "mcpu": str(cpu)}) for cpu in cpus))
            near = did_you_mean(name, every) or "; check -mattr"
            raise UserError(f"--target: LLVM has no CPU feature {name!r} for this kind of machine{near}")


def _without_cpu(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in machine.items() if key != "mcpu"}


def _for_this_cpu(values: Mapping[str, Any]) -> bool:
    """Plain llvm means this machine, whose vectors LLVM would not use otherwise."""
    return not any(name in values for name in ("mcpu", "mattr", "mtriple"))


def host_notes(options: TargetOptions) -> tuple[str, ...]:
    """What to know about the target that was made of the options."""
    if not _for_this_cpu(dict(options.host)):
        return ()
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    missing = hidden(cpu)
    without = f", but for {', '.join(missing)}, which this machine does not have" if missing else ""
    return (f"compiled for this machine's CPU ({cpu}{without}); -mcpu={_any_cpu()} runs on any of its kind",)


def _any_cpu() -> str:
    return "x86-64" if "x86" in tvm.target.codegen.llvm_get_system_triple() else "generic"
