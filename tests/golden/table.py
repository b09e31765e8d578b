"""The golden table: what compiled networks cost and how they were made, one fact per line.

A line is `network target bits quantity subject value`; the first five name the fact, and "-" stands where there is nothing to
say. The target is a config of the accelerator, or a CPU. Nothing here depends on the machine that measures, but for one thing:
what NumPy's library sums up in float differs in the last bit from one CPU to another, which moves measured ranges and corrected
biases a little. These alone are compared with the tolerances below, and where a network's float values are exact, not even they.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tvm.tirx import PrimFunc

import qaccel
from networks import data
from qaccel.dialect import operators
from qaccel.frontend.import_model import import_for_cpu, import_model
from qaccel.host import host_target
from qaccel.link import lowered
from qaccel.options import CompileOptions, parse_target
from qaccel.quant.calibrate import calibration

# All that is taken from inside the package; everything else goes through `qaccel`.
from qaccel.schedules.database import shipped_records

HERE = Path(__file__).parent
NETWORKS = ("resnet", "mobilenet")
CONFIGS = ("qaccel-64", "qaccel-256", "qaccel-1024")
BITS = ("W8A8", "W4A8", "W8A16")
# One with AVX-512 and VNNI, one with AVX2; four cores.
CPUS = ("cascadelake", "haswell")
SHOWN = 20  # lines of a message

# By quantity: how far old and new may lie apart, relative and absolute. What is not here must be equal. A last bit of a scale
# turns some values behind it to their other neighbour; by the last layer that adds up to 350 in a bias_size.
_OF_RANGES, _OF_BIASES = (1e-5, 0.0), (5e-3, 400.0)
TOLERANCES = {
    "range_lo": _OF_RANGES, "range_hi": _OF_RANGES,
    "bias_size": _OF_BIASES, "bias_least": _OF_BIASES, "bias_most": _OF_BIASES,
}  # fmt: skip

Model = str | Path | onnx.ModelProto


def model_of(network: str) -> Model:
    """A network by its name in the table."""
    return EXACT[network]() if network in EXACT else data.HERE / f"{network}.onnx"


def data_of(network: str) -> dict[str, np.ndarray]:
    """What it is calibrated with."""
    if network in NETWORKS:
        return {data.INPUT_NAME: data.load("calibration", 64)["images"]}
    shape = [dim.dim_value for dim in model_of(network).graph.input[0].type.tensor_type.shape.dim]
    if network == "rounded":
        return {"x": np.full((4, *shape[1:]), 255 / 256, np.float32)}
    return {"x": np.random.RandomState(7).randint(0, 256, (4, *shape[1:])).astype(np.float32) / 256}


# Networks for what the two of the repository do not show


def grouped() -> onnx.ModelProto:
    """Two convolutions in eight groups, of four channels each and of two: x [1, 32, 16, 16] to y [1, 16, 16, 16]."""
    rng = np.random.RandomState(6)
    weights = {"w1": rng.randint(-7, 8, (32, 4, 3, 3)) / 64, "w2": rng.randint(-7, 8, (16, 4, 1, 1)) / 64}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="conv1", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w2"], ["y"], name="conv2", group=8),
    ]
    return _model(nodes, [1, 32, 16, 16], [1, 16, 16, 16], weights)


def expanding() -> onnx.ModelProto:
    """Few channels become many, and few again: SRAM is slowest in taking the many. x [1, 16, 24, 24] to y [1, 8, 24, 24]."""
    rng = np.random.RandomState(5)
    weights = {"w1": rng.randint(-7, 8, (64, 16, 1, 1)) / 64, "w2": rng.randint(-7, 8, (8, 64, 1, 1)) / 64}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="conv1"),
        helper.make_node("Conv", ["c", "w2"], ["y"], name="conv2"),
    ]
    return _model(nodes, [1, 16, 24, 24], [1, 8, 24, 24], weights)


def rounded() -> onnx.ModelProto:
    """All weights but one of a channel round to zero, which correction makes up for: x [1, 512, 2, 2] to y [1, 2, 2, 2].

    At 8 bits an integer product counts 2**-15. The corrected bias of channel 0 is beyond int32, so that it must stay as it is.
    """
    weight = np.full((2, 512, 1, 1), 0.375)
    weight[:, 0] = 127
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")]
    bias = np.array([2.0**31 - 2**15, 1000]) / 2**15
    return _model(nodes, [1, 512, 2, 2], [1, 2, 2, 2], {"w": weight / 128, "b": bias})


def _model(
    nodes: list[onnx.NodeProto], shape: list[int], out: list[int], weights: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "golden", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# Their weights and samples are small multiples of powers of two, so that every machine gets the same float values.
EXACT = {"grouped": grouped, "expanding": expanding, "rounded": rounded}


# Measuring


def measure(network: str, bits: str, configs: Sequence[str] = CONFIGS) -> list[str]:
    """What the accelerator makes of a calibrated network, and at 8 bits its corrected biases.

    Weights are rounded to nearest: what a machine's linear algebra has in its last digits decides no integer then.
    """
    quantized = qaccel.quantize(model_of(network), data_of(network), bits=bits, effort="fast")
    lines = [each for config in configs for each in accelerator(network, config, bits, quantized)]
    return lines + (biases(network, bits, quantized) if bits == "W8A8" else [])


def measure_without_data(network: str) -> list[str]:
    """A compilation that is given nothing but the model, and the ranges that it works with."""
    return [*accelerator(network, "qaccel-256", "no-data", qaccel.quantize(model_of(network))), *ranges(network)]


def ranges(network: str) -> list[str]:
    """Both ends of every tensor's range where there is no data."""
    lines = []
    found = calibration.measure(import_model(model_of(network), None, None), CompileOptions()).ranges
    for name, (lo, hi) in found.values.items():
        lines += [line(network, "-", "no-data", "range_lo", name, f"{lo:.6g}")]
        lines += [line(network, "-", "no-data", "range_hi", name, f"{hi:.6g}")]
    return lines


def measure_cpu(network: str, cpus: Sequence[str] = CPUS) -> list[str]:
    """How each function for the CPU is scheduled: of the float model by which rule or record, of integers by its own loops."""
    quantized = qaccel.quantize(model_of(network), data_of(network), bits="W8A8", effort="fast").quantized.mod
    model, _ = import_for_cpu(model_of(network), None, None)
    lines = []
    for cpu in cpus:
        target = host_target(parse_target(f"llvm -mtriple=x86_64-linux-gnu -mcpu={cpu} -num-cores=4"))
        for bits, mod in (("float", model.mod), ("W8A8", quantized)):
            made, choices = lowered(mod, target, shipped_records(target))
            # A kernel of integers shows its plan in its code.
            choices = [choice for choice in choices if not choice.plan.startswith(("ConvPlan", "RowsPlan"))]
            chosen = {choice.function for choice in choices}
            for each in sorted(choices, key=lambda choice: choice.function):
                plan = f"{each.source}:{each.plan or 'loops'}".replace(" ", "")
                lines.append(line(network, cpu, bits, "schedule", each.function, plan))
                if each.layers:
                    lines.append(line(network, cpu, bits, "layers", each.function, ",".join(each.layers)))
            functions = {var.name_hint: f for var, f in made.functions_items() if isinstance(f, PrimFunc)}
            for name in sorted(set(functions) - chosen):
                lines += _kernel(network, cpu, bits, name, functions[name].script())
    return lines


def accelerator(network: str, config: str, bits: str, quantized: qaccel.QuantizedNetwork) -> Iterator[str]:
    """Counts of the whole network, and the cycles of each layer."""
    module = qaccel.compile(quantized, hw=config)
    report = module.report
    assert module.compiled is not None
    totals = {
        "cycles": report["cycles"],
        "instructions": sum(len(each.profile["trace"]["start"]) for each in module.compiled.subgraphs),
        "stream_bytes": report["weights"]["stream_bytes"],
        "peak_sram_bytes": report["memory"]["peak_sram_bytes"],
    }
    for quantity, value in totals.items():
        yield line(network, config, bits, quantity, "-", value)
    for kind, value in report["dram_bytes"].items():
        yield line(network, config, bits, "dram_bytes", kind, value)
    for layer in report["layers"]:
        yield line(network, config, bits, "layer_cycles", layer["name"], layer["cycles"])


def biases(network: str, bits: str, quantized: qaccel.QuantizedNetwork) -> list[str]:
    """Integer biases of each layer: the sum of their absolutes, the least and the greatest; if exact, a digest."""
    lines = []
    for block in quantized.quantized.mod["main"].body.blocks:
        for call in (binding.value for binding in block.bindings if operators.is_quantized(binding.value)):
            attrs = operators.read(call)
            if attrs.operator != "qaccel.conv2d":
                continue
            bias = operators.constant(call.args[2]).astype(np.int64)
            facts = {"bias_size": np.abs(bias).sum(), "bias_least": bias.min(), "bias_most": bias.max()}
            if network in EXACT:
                facts["bias_digest"] = zlib.crc32(bias.tobytes())
            lines += [line(network, "-", bits, quantity, attrs.name, value) for quantity, value in facts.items()]
    return lines


def _kernel(network: str, cpu: str, bits: str, name: str, text: str) -> list[str]:
    """Of a function that no rule scheduled: its loops from the outside in, "p" where they are parallel, and its own buffers."""
    loops = re.findall(r"^ *for .* in (?:T\.(\w+)|range)\((.*)\):", text, re.MULTILINE)
    extents = ",".join(f"{extent.replace(' ', '')}{kind[:1]}" for kind, extent in loops) or "none"
    buffers = len(re.findall(r"= T\.alloc_buffer\(", text))
    return [line(network, cpu, bits, "loops", name, extents), line(network, cpu, bits, "buffers", name, buffers)]


def line(network: str, target: str, bits: str, quantity: str, subject: str, value: object) -> str:
    """One fact, in columns."""
    subject = re.sub(r"\s+", "_", subject)
    return f"{network:<9} {target:<11} {bits:<7} {quantity:<15} {subject:<42} {value}"


# Comparing


def path_of(name: str) -> Path:
    """The golden file of that name."""
    return HERE / f"{name}.txt"


def golden(name: str) -> str:
    """What it says; nothing if it is not there yet."""
    return path_of(name).read_text(encoding="utf-8") if path_of(name).is_file() else ""


def compare(old_text: str, new_lines: Sequence[str]) -> str:
    """What differs between a golden file and what was measured, one line each; empty if nothing does."""
    old, new = facts(old_text.splitlines()), facts(new_lines)
    found = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, "nothing"), new.get(key, "nothing")
        if not _same(key, before, after):
            found.append(f"{' '.join(part for part in key if part != '-')}: {before} -> {after}")
    if len(found) > SHOWN:
        found[SHOWN:] = [f"... and {len(found) - SHOWN} lines more"]
    return "\n".join(found)


def merged(old_text: str, new_lines: Sequence[str]) -> str:
    """The text of a golden file: what was measured, but for lines that are the same within their tolerance."""
    old = {tuple(line.split()[:5]): line for line in old_text.splitlines()}
    lines = []
    for line in new_lines:
        key = tuple(line.split()[:5])
        kept = old.get(key, line)
        lines.append(kept if _same(key, kept.split()[5], line.split()[5]) else line)
    return "".join(f"{line}\n" for line in lines)


def about(old_text: str, new_lines: Sequence[str]) -> str:
    """The part of a golden file that a smaller measurement can be held against: the same network, targets and bits."""
    measured = {tuple(line.split()[:3]) for line in new_lines}
    return "\n".join(line for line in old_text.splitlines() if tuple(line.split()[:3]) in measured)


def facts(lines: Sequence[str]) -> dict[tuple[str, ...], str]:
    facts: dict[tuple[str, ...], str] = {}
    for line in lines:
        *key, value = line.split()
        assert len(key) == 5 and tuple(key) not in facts, line
        facts[tuple(key)] = value
    return facts


def _same(key: tuple[str, ...], before: str, after: str) -> bool:
    network, _, _, quantity, _ = key
    if before == after or quantity not in TOLERANCES or network in EXACT or "nothing" in (before, after):
        return before == after
    relative, absolute = TOLERANCES[quantity]
    return abs(float(before) - float(after)) <= relative * abs(float(before)) + absolute
