"""Random QDQ networks in all spellings: on the accelerator, and operator by operator the integers of ONNX Runtime."""

import os
from collections import Counter

import numpy as np
import pytest

from breadth.machine import check_on_machine
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_model
from qaccel.machine.hw import config_names
from qaccel.npu.partition.partition import float_macs
from qaccel.options import TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.stages import Stages
from qdq.networks import LAYERS, PROBE, every_tensor, operator_alone, qdq_network
from tiers import wide_after

IN_CI = range(50)
UNKNOWN = (1273,)  # ONNX Runtime refuses its pool, whose pads are as large as its window
ONCE = [k for k in range(1000, 1000 + int(os.environ.get("QACCEL_QDQ_NETWORKS", "500"))) if k not in UNKNOWN]
PER_MILLION = 20  # of convolutions and products that ONNX Runtime, which sums in float32, may give one off
AT_A_TIE = 2.0**-11  # of a step: what float32 sums, and constants of 16 bits, may be off
NEAR_A_TIE = 2.0**-5  # the same of functions, which ONNX Runtime approximates
WIDE_STEPS = 2  # of 16-bit integers, which float32 holds only nearly


def read(model) -> QuantizedModel:
    return quantize_model(model, options_of(TargetOptions()), Stages())


def check(seed: int, machine: bool) -> Counter:
    """Values of single operators, and those that differ, by "layer" and "other"."""
    model, tensors, sample = qdq_network(seed)
    name = model.graph.input[0].name
    values = every_tensor(model, sample) | {name: sample}
    whole = read(model)
    macs = float_macs(whole.model.mod)
    in_float = {node for node, _, _ in whole.unquantized}
    assert sum(count for node, count in macs.items() if node in in_float) <= 0.01 * sum(macs.values()), (
        whole.unquantized
    )
    assert all(reason for _, _, reason in whole.unquantized)
    if machine:
        check_on_machine(whole, config_names()[seed % len(config_names())], seed)
    found: Counter = Counter()
    for tensor, (real, scale, kind) in tensors.items():
        part = operator_alone(model, real, f"{tensor}{PROBE}", values) if real != name else None
        if part is None:
            continue
        ops = {node.op_type for node in part.graph.node}
        given = {each.name: values[each.name] for each in part.graph.input}
        got = run_model(read(part), given)[f"{tensor}{PROBE}"]
        off = np.rint((got.astype(np.float64) - values[f"{tensor}{PROBE}"]) / scale)
        wide = "s16" in (kind, *(tensors[t][2] for t in tensors if tensors[t][0] in given))
        if wide:  # a table of 16 bits interpolates, which ONNX Runtime does not
            assert ops & _TABLES or np.abs(off).max(initial=0) <= WIDE_STEPS, (seed, tensor, ops)
            continue
        assert np.abs(off).max(initial=0) <= 1, (seed, tensor, ops)
        steps = values[real].astype(np.float64) / scale
        from_tie = np.abs(np.abs(steps - np.floor(steps)) - 0.5)[off != 0]
        layer = "layer" if ops & set(LAYERS) else "other"
        tie = NEAR_A_TIE if ops & _TABLES else AT_A_TIE
        assert layer == "layer" or (from_tie <= tie).all(), (seed, tensor, ops, from_tie)
        found[layer] += off.size
        found[f"{layer} off"] += int((off != 0).sum())
    return found


_TABLES = {
    "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Elu", "Softplus", "Erf", "Abs", "Neg", "Exp", "Log", "Sqrt", "Pow",
}  # fmt: skip


@pytest.mark.parametrize("seed", wide_after(2, IN_CI))
def test_network(seed: int) -> None:
    found = check(seed, machine=True)
    assert found["layer off"] <= max(1, found["layer"] * PER_MILLION // 1_000_000)


@pytest.mark.slow
def test_more_networks() -> None:
    found: Counter = sum((check(seed, machine=seed % 5 == 0) for seed in ONCE), Counter())
    print(dict(found))
    assert found["layer off"] <= found["layer"] * PER_MILLION // 1_000_000
