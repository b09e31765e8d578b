"""What ``import tvm`` calls: the backend's names in TVM's registries. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
from typing import Any


def register() -> None:
    """Register the loader of saved modules, ``relax.ext.qaccel`` and the pipeline "qaccel".

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


def _codegen(functions: Any, options: Any, constant_names: Any) -> Any:
    from .link import codegen

    return codegen(functions, options, constant_names)


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
