"""Every accelerator subgraph of a quantized model on the simulator, against exact NumPy, on integers of the full range."""

from __future__ import annotations

import numpy as np
import tvm

from npu.harness import run_artefact
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_quantized
from qaccel.machine.hw import load_config
from qaccel.npu.codegen import compile_subgraph
from qaccel.npu.partition.partition import Partitioned, partition, subgraph_functions


def check_on_machine(q: QuantizedModel, config: str, seed: int = 0, mode: str = "functional") -> Partitioned:
    """Asserts that simulator and NumPy agree in every integer; gives the partition."""
    hw = load_config(config)
    parts = partition(q.mod, hw, q.unquantized)
    rng = np.random.default_rng(seed)
    for symbol, function in subgraph_functions(parts.mod).items():
        compiled = compile_subgraph(function, symbol, hw)
        inputs = [
            rng.integers(-(1 << (slot.bits - 1)), 1 << (slot.bits - 1), slot.shape) for slot in compiled.artefact.inputs
        ]
        outputs, counters = run_artefact(compiled.artefact, inputs, mode)
        mod = tvm.IRModule({"main": function.without_attr("global_symbol")})
        named = {param.name: value[None] for param, value in zip(function.params, inputs, strict=True)}
        expected = run_quantized(mod, named)
        assert len(outputs) == len(expected)
        for k, output in enumerate(outputs):
            np.testing.assert_array_equal(output, expected[str(k)][0], err_msg=f"{symbol} output {k}")
        if mode == "cycle":
            assert sum(layer["cycles"] for layer in counters["layers"]) == counters["cycles"]
    return parts
