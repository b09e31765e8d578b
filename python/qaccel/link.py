"""Linking: accelerator programs + CPU functions -> one deployable module."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from .cpu.compile import compile_cpu
from .dialect.operators import works_on_integers
from .host import host_target
from .machine.artefact import Artefact
from .metadata.read import DETAILS_FUNCTION, METADATA_FUNCTION, TO_RUN
from .npu.partition.partition import CODEGEN, hw_of, subgraph_functions
from .options import CompileOptions
from .relax_tools import functions, held_back
from .schedules.database import Records, records_for
from .schedules.features import extensions
from .schedules.floating.choose import Choice

ARTEFACT_ATTR = "qaccel_artefact"  # a subgraph that is compiled already carries its artefact as bytes
# Where RunCodegen keeps the subgraphs' constants for TVM to link in. Ours are in the artefacts, compressed; with these
# the module would carry every weight a second time.
_CODEGEN_CONSTANTS = "const_name_to_constant"


@dataclass(frozen=True, eq=False)
class Linked:
    """One module of everything, and how each function of the CPU's part was scheduled."""

    executable: relax.VMExecutable
    choices: tuple[Choice, ...]

    def __repr__(self) -> str:
        return f"<Linked: {len(self.choices)} functions of the CPU>"


def link(mod: tvm.IRModule, options: CompileOptions, metadata: Mapping[str, Any]) -> Linked:
    """The stage `link`, for the host and with the tuning records of ``options``; otherwise as `build`.

    The module's metadata also get ``cpu_features``, what its code may use of the CPU, by LLVM's names, and how Linux calls it:
    another machine may not have it.
    """
    target = host_target(options.target)
    return build(mod, target, {**metadata, "cpu_features": extensions(target)}, records_of(options))


def records_of(options: CompileOptions) -> list[Records]:
    """The user's tuning records, then those that come with the package. Raises UserError for a mistake in target or records."""
    return records_for(options.tuning_records, host_target(options.target))


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
    from .machine.simulator import create_module
    from .npu.codegen import compile_subgraph

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
    passes: list[Any] = []
    legalized = []
    if subgraph_functions(mod):
        # Where qaccel is imported from a folder, `import tvm` has not registered it.
        tvm_ffi.register_global_func("relax.ext.qaccel", codegen, override=True)
        passes.append(relax.transform.RunCodegen({}, entry_functions=["main"]))
    if any(works_on_integers(f) for f in functions(mod) if not (f.attrs and f.attrs.get("Codegen") == CODEGEN)):
        from .cpu.legalize import LegalizeQuantized

        legalized.append(LegalizeQuantized(records))
    with target:
        mod = tvm.transform.Sequential([*legalized, *passes])(mod).without_attr(_CODEGEN_CONSTANTS)
    mod, choices = compile_cpu(mod, target, records)
    return mod, (*(each.choice() for legalize in legalized for each in legalize.planned), *choices)


def build(
    mod: tvm.IRModule, target: tvm.target.Target, metadata: Mapping[str, Any], records: Sequence[Records] = ()
) -> Linked:
    """Links a partitioned (or plain float) module; ``metadata`` is what ``read_metadata`` will give.

    ``records``: tuned schedules for the CPU's part. The metadata lie in the module as two functions that return their JSON: that
    survives every way of exporting, needs no library of ours to be read, and works over RPC.
    """
    mod = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    with held_back():
        mod, choices = lowered(mod, target, records)
    for name, to_run in ((METADATA_FUNCTION, True), (DETAILS_FUNCTION, False)):
        text = tvm.ir.StringImm(
            json.dumps({key: value for key, value in metadata.items() if (key in TO_RUN) == to_run})
        )
        mod[name] = relax.Function([], relax.SeqExpr([], text), text.ty, True).with_attr("global_symbol", name)
    finish = tvm.transform.Sequential([relax.transform.ToNonDataflow(), relax.transform.VMShapeLower()])
    return Linked(relax.build(mod, target, relax_pipeline=finish), choices)
