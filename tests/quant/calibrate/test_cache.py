"""Calibration is measured once for the same model, samples and method, and again for any other."""

import numpy as np
import pytest
import tvm

import qaccel
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
