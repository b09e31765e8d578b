"""What ``import tvm`` calls: the backend's names in TVM's registries. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import functools
import os
from typing import Any


def register() -> None:
    """Register the loader of saved modules, ``relax.ext.qaccel``, the pipeline "qaccel" and the target of `tvm.compile`.

    Runs in every process that imports TVM, RPC workers included; doing it again changes nothing.
    """
    import tvm_ffi

    from .machine.native import register_library

    # The library registers `ffi.Module.load_from_bytes.qaccel` itself; it is small, and a worker has no other moment. Whether it
    # is of this ISA version is looked at where it is used: reading isa.toml takes longer than all else here.
    register_library()
    tvm_ffi.register_global_func("relax.ext.qaccel", _codegen, override=True)
    if os.environ.get("TVM_USE_RUNTIME_LIB", "0") == "0":
        from tvm.relax import pipeline

        if "qaccel" not in pipeline.PIPELINE_MAP:
            pipeline.register_pipeline("qaccel")(qaccel_pipeline)
        _teach_compile()


def _codegen(functions: Any, options: Any, constant_names: Any) -> Any:
    from .link import codegen

    return codegen(functions, options, constant_names)


def _teach_compile() -> None:
    """``tvm.compile(mod, target="qaccel, llvm -mcpu=...")``. TVM 0.27 has no door to register a kind of target from outside, so
    this puts a function before TVM's, which gets every other target as before."""
    import tvm

    plain = tvm.compile
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def compile(mod: Any, target: Any = None, **pipelines: Any) -> Any:
        if isinstance(target, str) and target.split(",")[0].split(None, 1)[:1] == ["qaccel"]:
            return _compile_for_qaccel(plain, mod, target, pipelines)
        return plain(mod, target, **pipelines)

    tvm.compile = compile


def _compile_for_qaccel(plain: Any, mod: Any, target: str, pipelines: dict[str, Any]) -> Any:
    """Raises UserError for what is no Relax module with a function ``main``, and for pipelines of the caller's."""
    import tvm
    from tvm import relax

    from .errors import UserError, boundary, shown
    from .host import host_target
    from .options import parse_target

    with boundary("tvm.compile"):
        if pipelines:
            raise UserError(
                f"tvm.compile for {target!r} has a pipeline of its own; drop {', '.join(pipelines)}, or use qaccel.compile"
            )
        if not isinstance(mod, tvm.IRModule) or not any(
            isinstance(each, relax.Function) for each in mod.functions.values()
        ):
            raise UserError(
                f"tvm.compile for {target!r} takes a tvm.IRModule of Relax functions, not {shown(mod)}; qaccel.compile takes models"
            )
        parsed = parse_target(target)
        finish = [qaccel_pipeline(parsed.config), relax.transform.ToNonDataflow(), relax.transform.VMShapeLower()]
        return plain(mod, host_target(parsed), relax_pipeline=tvm.transform.Sequential(finish))


def qaccel_pipeline(hw: Any = None) -> Any:
    """``relax.get_pipeline("qaccel", hw=...)``: quantize (without data, W8A16), partition, compile and lower any module.

    What the pipeline gives is ready for ``relax.build``'s code generator; modules that are quantized or partitioned
    already are taken as they are.
    """
    import tvm

    from .machine.hw import DEFAULT_CONFIG, load_config

    config = load_config(DEFAULT_CONFIG if hw is None else hw)

    @tvm.transform.module_pass(opt_level=0, name="qaccel")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        from .link import lowered
        from .npu.partition.partition import subgraph_functions
        from .relax_idioms import partition_for_qaccel

        target = tvm.target.Target.current(allow_none=True) or tvm.target.Target({"kind": "llvm"})
        return lowered(mod if subgraph_functions(mod) else partition_for_qaccel(mod, config), target)[0]

    return run
