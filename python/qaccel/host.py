"""The host: TVM's target for the CPU's part, made of the user's flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tvm

from .errors import UserError, one_line
from .options import TargetOptions


def host_target(options: TargetOptions) -> tvm.target.Target:
    """TVM's target for the CPU part. TVM 0.27 does not parse flags itself and takes ``native`` for a generic CPU.

    Without -mcpu, -mattr and -mtriple it is this machine's CPU.
    """
    values: dict[str, Any] = {"kind": "llvm"}
    for name, value in options.host:
        values[name] = list(value) if isinstance(value, tuple) else value
    if _for_this_cpu(values):
        values["mcpu"] = "native"
    if values.get("mcpu") == "native":
        if "mtriple" in values:
            raise UserError(f"--target '{options}': -mcpu=native is this machine; name the CPU when -mtriple is given")
        values["mcpu"] = tvm.target.codegen.llvm_get_system_cpu()
    _check_cpu(values)
    try:
        target = tvm.target.Target(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--target '{options}': TVM does not take it: {one_line(error)}") from error
    _check_features(target, values.get("mattr", []))
    return target


def _check_features(target: tvm.target.Target, wanted: Sequence[str]) -> None:
    """LLVM ignores a feature that it does not know, saying so on standard error at every turn."""
    added = [name[1:] for name in wanted if name.startswith("+")]
    if not added:
        return
    with _no_standard_error():
        known = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}
    for name in added:
        if name not in known:
            raise UserError(f"--target: LLVM has no CPU feature {name!r} for this kind of machine; check -mattr")


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """Keeps what C++ writes to standard error out of the user's sight."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _for_this_cpu(values: Mapping[str, Any]) -> bool:
    """Plain llvm means this machine, whose vectors LLVM would not use otherwise."""
    return not any(name in values for name in ("mcpu", "mattr", "mtriple"))


def host_notes(options: TargetOptions) -> tuple[str, ...]:
    """What to know about the target that was made of the options."""
    if not _for_this_cpu(dict(options.host)):
        return ()
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    return (f"compiled for this machine's CPU ({cpu}); -mcpu={_any_cpu()} runs on any of its kind",)


def _any_cpu() -> str:
    return "x86-64" if "x86" in tvm.target.codegen.llvm_get_system_triple() else "generic"


def _check_cpu(values: Mapping[str, Any]) -> None:
    """LLVM only logs an unknown CPU and compiles for a generic one; that would be a surprise."""
    cpu = values.get("mcpu")
    if cpu is None or "mtriple" in values:
        return
    known = {str(name) for name in tvm.target.codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm"}))}
    if known and cpu not in known:
        raise UserError(f"--target: LLVM has no CPU {cpu!r} for this machine; use -mcpu=native or one that it has")
