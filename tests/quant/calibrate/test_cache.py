"""Calibration is measured once for the same model, samples and method, and again for any other."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

import qaccel
from qaccel.frontend.import_onnx import import_onnx
from qaccel.frontend.import_relax import import_relax
from qaccel.quant.calibrate import cache, calibration
from small_models import chain, samples


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The methods of the measurements that were made, in an empty cache."""
    monkeypatch.setenv("QACCEL_CACHE", str(tmp_path / "cache"))
    made = []
    original = calibration.calibrate

    def counting(model, data, method, **rest):
        made.append(method)
        return original(model, data, method, **rest)

    monkeypatch.setattr(calibration, "calibrate", counting)
    return made


def test_other_bits_do_not_measure_again(measured):
    data = samples(chain())
    first = qaccel.quantize(chain(), data, bits=8)
    second = qaccel.quantize(chain(), data, bits="W4A8")
    again = qaccel.quantize(chain(), data, bits=8)
    assert measured == ["minmax"]
    np.testing.assert_array_equal(first.run(data)["y"], again.run(data)["y"])
    assert (first.run(data)["y"] != second.run(data)["y"]).any()
    tvm.ir.assert_structural_equal(first.quantized.mod, again.quantized.mod)  # corrected biases as well


def test_another_method_sample_or_model_measures_again(measured):
    data = samples(chain())
    qaccel.quantize(chain(), data)
    qaccel.quantize(chain(), data, calibration="mse")
    changed = {name: value.copy() for name, value in data.items()}
    changed["x"][0, 0, 0, 0] += 1
    qaccel.quantize(chain(), changed)
    model = chain()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4] + b"\0\0\0?"
    qaccel.quantize(model, data)
    assert measured == ["minmax", "mse", "minmax", "minmax"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b'{"values": {"x": [0]}}',
        b'{"values": {"x": [1, 0]}, "method": "", "samples": 1, "means": {}}',
        b'{"values": {"x": [0, 1]}, "method": "minmax", "samples": 1, "means": {"conv1": [0, "NaN"]}}',
    ],
)
def test_a_damaged_entry_is_measured_and_written_anew(measured, damage):
    data = samples(chain())
    qaccel.quantize(chain(), data)
    (entry,) = cache.folder().glob("*.json")
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    qaccel.quantize(chain(), data)
    assert measured == ["minmax", "minmax"]
    assert entry.read_bytes() == whole


def test_the_oldest_entries_make_room(measured, monkeypatch):
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    for seed in range(4):
        qaccel.quantize(chain(), samples(chain(), seed=seed))
    assert len(list(cache.folder().glob("*"))) == 2


def test_a_folder_that_cannot_be_written_only_costs_time(measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QACCEL_CACHE", str(tmp_path / "file"))
    qaccel.quantize(chain(), samples(chain()))
    qaccel.quantize(chain(), samples(chain()))
    assert measured == ["minmax", "minmax"]


def small_relax(name: str = "y", weight: float = 0.5) -> tvm.IRModule:
    """A product with a weight of one value, in a variable of this name, behind a function of TensorIR."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = builder.emit_te(tvm.topi.add, x, x)
            value = builder.emit(relax.op.matmul(value, relax.const(np.full((3, 4), weight, np.float32))), name)
            out = builder.emit_output(builder.emit_te(tvm.topi.sigmoid, value))
        builder.emit_func_output(out)
    return builder.get()


def keys() -> list[str]:
    """The keys of a model that came as ONNX and of one that came as Relax."""
    data = samples(chain())
    return [cache.key_of(model, data, "minmax") for model in (import_onnx(chain()), import_relax(small_relax()))]


def test_keys_are_the_same_in_every_process():
    code = "from quant.calibrate.test_cache import keys; print(*keys())"
    tests = Path(__file__).parents[2]
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": path}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert made.stdout.split() == keys()


def test_a_key_knows_weights_and_names_of_relax_too():
    made = [cache.key_of(import_relax(small_relax(*each)), {}, "minmax") for each in ((), ("z",), ("y", 0.25), ())]
    assert len(set(made)) == 3 and made[0] == made[3]
