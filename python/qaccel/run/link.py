"""Linking: accelerator programs + CPU functions -> one deployable module."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import cc

from ..cpu.pipeline import compile_cpu
from ..cpu.records import Records
from ..cpu.rules import Choice
from ..errors import QaccelError
from ..npu.artefact import Artefact
from ..npu.partition import CODEGEN, hw_of, subgraph_functions
from ..options import TargetOptions
from .files import check_file, write_file

ARTEFACT_ATTR = "qaccel_artefact"  # a subgraph that is compiled already carries its artefact as bytes
METADATA_FUNCTION = "qaccel_metadata"
SUFFIXES = (".so", ".tar")
# Where RunCodegen keeps the subgraphs' constants for TVM to link in. Ours are in the artefacts, compressed; with these
# the module would carry every weight a second time.
_CODEGEN_CONSTANTS = "const_name_to_constant"


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
            raise QaccelError(
                f"--target '{options}': -mcpu=native is this machine; name the CPU when -mtriple is given"
            )
        values["mcpu"] = tvm.target.codegen.llvm_get_system_cpu()
    _check_cpu(values)
    try:
        target = tvm.target.Target(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise QaccelError(f"--target '{options}': TVM does not take it: {one_line(error)}") from error
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
            raise QaccelError(f"--target: LLVM has no CPU feature {name!r} for this kind of machine; check -mattr")


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
        raise QaccelError(f"--target: LLVM has no CPU {cpu!r} for this machine; use -mcpu=native or one that it has")


def with_artefacts(mod: tvm.IRModule, artefacts: Mapping[str, Artefact]) -> tvm.IRModule:
    """The partitioned module with each subgraph's artefact attached, so that linking does not compile it again."""
    functions = dict(mod.functions_items())
    for var, function in mod.functions_items():
        if var.name_hint in artefacts:
            functions[var] = function.with_attr(ARTEFACT_ATTR, artefacts[var.name_hint].to_bytes())
    return tvm.IRModule(functions, attrs=mod.attrs)


def codegen(functions: Sequence[relax.Function], options: Any, constant_names: Any) -> list[Any]:
    """``relax.ext.qaccel``: one runtime module per subgraph. ``options`` and ``constant_names`` (by TVM) are not needed:
    a subgraph carries its config, and its constants go into its artefact."""
    del options, constant_names
    from ..npu.codegen import compile_subgraph
    from .simulator import create_module

    modules = []
    for function in functions:
        if ARTEFACT_ATTR in function.attrs:
            data = bytes(function.attrs[ARTEFACT_ATTR])
        else:
            symbol = str(function.attrs["global_symbol"])
            data = compile_subgraph(function, symbol, hw_of(function)).artefact.to_bytes()
        modules.append(create_module(data))
    return modules


def lowered(
    mod: tvm.IRModule, target: tvm.target.Target, records: Sequence[Records] = ()
) -> tuple[tvm.IRModule, tuple[Choice, ...]]:
    """A partitioned module with external modules attached and everything else ready for the VM code generator.

    Also gives how each function of the CPU was scheduled.
    """
    passes = []
    if subgraph_functions(mod):
        from ..backend import register

        register()  # where qaccel is imported from a folder, `import tvm` has not found it
        passes.append(relax.transform.RunCodegen({}, entry_functions=["main"]))
    if _has_dialect(mod):
        from ..cpu.legalize import LegalizeQuantized

        passes.insert(0, LegalizeQuantized())
    with target:
        mod = tvm.transform.Sequential(passes)(mod).without_attr(_CODEGEN_CONSTANTS)
    return compile_cpu(mod, target, records)


def _has_dialect(mod: tvm.IRModule) -> bool:
    from ..quant import operators

    return any(
        operators.is_quantized(binding.value)
        for function in mod.functions.values()
        if isinstance(function, relax.Function) and not (function.attrs and function.attrs.get("Codegen") == CODEGEN)
        for block in function.body.blocks
        for binding in block.bindings
    )


def build(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    metadata: Mapping[str, Any],
    records: Sequence[Records] = (),
    choices: list[Choice] | None = None,
) -> relax.VMExecutable:
    """VM executable of a partitioned (or plain float) module; ``metadata`` is what ``read_metadata`` will give.

    ``records``: tuned schedules for the CPU's part; ``choices``, if given, gets how each of its functions was scheduled.

    It lies in the module as a function that returns its JSON: that survives every way of exporting, needs no library
    of ours to be read, and works over RPC.
    """
    mod = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    text = tvm.ir.StringImm(json.dumps(metadata))
    function = relax.Function([], relax.SeqExpr([], text), text.ty, True).with_attr("global_symbol", METADATA_FUNCTION)
    mod, chosen = lowered(mod, target, records)
    if choices is not None:
        choices += chosen
    mod[METADATA_FUNCTION] = function
    finish = tvm.transform.Sequential([relax.transform.ToNonDataflow(), relax.transform.VMShapeLower()])
    return relax.build(mod, target, relax_pipeline=finish)


def read_metadata(vm: relax.VirtualMachine) -> dict[str, Any] | None:
    """What ``build`` was given; None if the module has no such function."""
    try:
        function = vm[METADATA_FUNCTION]
    except (AttributeError, ValueError, RuntimeError):
        return None
    return json.loads(str(function()))


def check_output_path(path: str | Path) -> Path:
    """The path, if a module can be written there. Raises QaccelError for another suffix or a folder that is missing."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise QaccelError(f"output '{path}' must end in {' or '.join(SUFFIXES)}")
    return check_file(path, "output")


def export_library(executable: relax.VMExecutable, path: str | Path, mtriple: str | None = None) -> Path:
    """Write the module; the file appears whole or not at all.

    ``mtriple`` cross-compiles: a .so then needs that triple's g++. Raises QaccelError if the path cannot be written or
    no compiler links it.
    """
    path = check_output_path(path)
    arguments: dict[str, Any] = {}
    if path.suffix == ".so":
        compiler = _linker(mtriple)
        if mtriple is not None:
            arguments["fcompile"] = cc.cross_compiler(compiler)

    def write(temporary: Path) -> None:
        try:
            executable.export_library(str(temporary), **arguments)
        except RuntimeError as error:
            raise QaccelError(f"output '{path}': the C++ compiler cannot link it: {one_line(error)}") from error

    return write_file(path, write, "output")


def _linker(mtriple: str | None) -> str:
    if mtriple is None:
        if not cc.get_cc():
            raise QaccelError("a .so is linked by g++ or clang++, and none is installed; install one, or write a .tar")
        return str(cc.get_cc())
    compiler = shutil.which(f"{mtriple}-g++") or shutil.which(f"{mtriple}-gcc")
    if compiler is None:
        raise QaccelError(
            f"a .so for {mtriple} is linked by {mtriple}-g++, which is not installed; install it, or write a .tar"
        )
    return compiler


def one_line(error: BaseException) -> str:
    """The sentence that matters of an error that may be a page long: TVM's end with a trace, or begin with one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.lstrip().startswith("File ")]
    return lines[-1][:300] if lines else type(error).__name__
