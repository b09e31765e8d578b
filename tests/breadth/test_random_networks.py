"""Random networks of all operators: 16 bits against ONNX Runtime, and every width on the machine against exact NumPy."""

import os
from dataclasses import replace
from itertools import product

import numpy as np
import onnxruntime
import pytest

from breadth.generator import network
from breadth.machine import check_on_machine
from qaccel.dialect.pieces import Piece
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_model
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine.hw import config_names
from qaccel.model import Model
from qaccel.npu.layers import FeatureMap
from qaccel.npu.plan.tiles.strided import Strided
from qaccel.options import BitWidths
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import quantize
from tiers import wide_after

IN_CI = range(30)
ONCE = range(int(os.environ.get("QACCEL_NETWORKS_FROM", 1000)), int(os.environ.get("QACCEL_NETWORKS_TO", 1300)))
WIDTHS = [BitWidths(w, a) for w, a in product((4, 8, 16), (4, 8, 16))]
LEAST_SQNR_DB = 40


def quantized(seed: int, bits: BitWidths) -> tuple[QuantizedModel, dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """The network quantized on four samples, the samples, and what ONNX Runtime makes of each."""
    model = network(seed)
    imported: Model = import_onnx(model)
    data = {"x": np.random.default_rng(seed).standard_normal((4, *imported.inputs[0].shape[1:])).astype(np.float32)}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    expected = [dict(zip(names, session.run(names, {"x": sample[None]}), strict=True)) for sample in data["x"]]
    return quantize(imported, calibrate(imported, data), bits), data, expected


def check(seed: int) -> None:
    """16 bits near ONNX Runtime; the machine equal to NumPy at 16 bits and at one of the nine pairs."""
    q, data, expected = quantized(seed, BitWidths(16, 16))
    result = run_model(q, data)
    for name in expected[0]:
        reference = np.concatenate([each[name] for each in expected])
        error = result[name] - reference
        noise, power = float((error**2).sum()), float((reference**2).sum())
        assert noise < 1e-12 or 10 * np.log10(power / noise) >= LEAST_SQNR_DB, (seed, name)
    config = config_names()[seed % len(config_names())]
    check_on_machine(q, config, seed, "cycle" if seed % 2 else "functional")
    narrow, *_ = quantized(seed, WIDTHS[seed % len(WIDTHS)])
    check_on_machine(narrow, config, seed)


@pytest.mark.parametrize("seed", wide_after(3, IN_CI))
def test_random_network(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ONCE)
def test_more_random_networks(seed: int) -> None:
    check(seed)


@pytest.mark.wide
def test_a_program_with_a_piece_astray_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: every piece of a move read from one channel or pixel further."""
    from qaccel.npu.emit import moves

    original = moves.source_of

    def astray(piece: Piece, x: FeatureMap) -> Strided:
        part = original(piece, x)
        return replace(part, begin=part.begin - x.pixel_bytes if part.begin >= x.pixel_bytes else part.begin)

    monkeypatch.setattr(moves, "source_of", astray)
    caught = 0
    for seed in range(8):
        q, *_ = quantized(seed, BitWidths(8, 8))
        try:
            check_on_machine(q, "qaccel-256", seed)
        except (AssertionError, QaccelError):
            caught += 1
    assert caught >= 3
