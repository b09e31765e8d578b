"""What the writer writes and the reader reads again gives the same programs and streams, byte by byte."""

import dataclasses
import random

import onnx
import pytest

from breadth.test_random_networks import WIDTHS, quantized
from operators.machine import quantized_model
from operators.test_operators import OPERATORS, make_case
from qaccel.dialect.quantized import QuantizedModel
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine.artefact import Artefact
from qaccel.machine.hw import load_config
from qaccel.npu.codegen import compile_subgraph
from qaccel.npu.partition.partition import partition, subgraph_functions
from qaccel.options import BitWidths, TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.qdq.write import qdq_model
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import quantize
from qaccel.stages import Stages
from tiers import wide_after

HW = load_config("qaccel-256")
ONCE = range(200, 260)


def artefacts(q: QuantizedModel) -> list[Artefact]:
    """Programs, constants (the streams are among them) and memory maps; layers are named after nodes of either file."""
    parts = partition(q.mod, HW, q.unquantized)
    functions = subgraph_functions(parts.mod)
    made = [compile_subgraph(functions[symbol], symbol, HW).artefact for symbol in parts.subgraphs]
    return [
        dataclasses.replace(
            each, layers=(), inputs=tuple(dataclasses.replace(s, name="") for s in each.inputs),
            outputs=tuple(dataclasses.replace(s, name="") for s in each.outputs),
        )
        for each in made
    ]  # fmt: skip


def check(q: QuantizedModel) -> None:
    written = qdq_model(q)
    onnx.checker.check_model(written, full_check=True)
    again = quantize_model(written, options_of(TargetOptions(HW)), Stages())
    first, second = artefacts(q), artefacts(again)
    assert [each.program for each in first] == [each.program for each in second]
    assert [each.constants for each in first] == [each.constants for each in second]
    assert first == second
    assert {str(bits) for bits in q.plan.values()} == {str(bits) for bits in again.plan.values()}


@pytest.mark.parametrize("operator", wide_after(6, [o for o in OPERATORS if o not in ("Conv",)] + ["Conv"]))
@pytest.mark.parametrize("index", [0, 4])
def test_operator(operator: str, index: int) -> None:
    case = make_case(operator, index)
    check(quantized_model(case.model(), case.spans, BitWidths(case.weight_bits, case.activation_bits)))


@pytest.mark.parametrize("seed", wide_after(1, range(9)))
def test_network_at_every_width(seed: int) -> None:
    check(quantized(seed, WIDTHS[seed])[0])


# 13 rounds its input at two widths under two names, 66 has a 16-bit table that its inputs' range alone makes exact enough.
@pytest.mark.parametrize("seed", wide_after(2, [13, 66, *range(20)]))
def test_mixed_plan(seed: int) -> None:
    check(mixed(seed))


def mixed(seed: int) -> QuantizedModel:
    rng = random.Random(seed)
    uniform, *_ = quantized(seed, WIDTHS[seed % 9])
    return quantized(seed, {name: rng.choice(WIDTHS) for name in uniform.plan})[0]


@pytest.mark.wide
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
@pytest.mark.parametrize("bits", WIDTHS, ids=str)
def test_trained_network(name, bits, repo_root, calibration_data) -> None:
    imported = import_onnx(repo_root / "tests" / "networks" / f"{name}.onnx")
    check(quantize(imported, calibrate(imported, {k: v[:16] for k, v in calibration_data.items()}), bits))


@pytest.mark.slow
@pytest.mark.parametrize("seed", ONCE)
def test_more_networks(seed: int) -> None:
    check(quantized(seed, WIDTHS[seed % 9])[0])
    check(mixed(seed))
