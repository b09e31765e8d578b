"""Ranges of 4-bit tensors: of the least error that their own 16 steps allow, judged by the layers that read them."""

from dataclasses import replace

import numpy as np
import pytest

import qaccel
from qaccel.emulate.executor import execute
from qaccel.emulate.integers import run_model
from qaccel.options import BitWidths
from qaccel.quant.calibrate.calibration import Calibration
from qaccel.quant.calibrate.channels import Channels
from qaccel.quant.calibrate.narrow import narrowed
from qaccel.quant.calibrate.ranges import Histogram, calibrate, mse_range
from qaccel.quant.quantize import quantize
from quant.layers import model, node, prepared
from small_models import chain, samples


def two_layers(wide: float = 1.0):
    """A layer, a Relu and a layer that multiplies the first channel by ``wide``."""
    rng = np.random.default_rng(3)
    second = rng.normal(size=(6, 8, 3, 3))
    second[:, 0] *= wide
    nodes = [node("Conv", "first", ["x", "w"]), node("Relu", "relu", ["first"]), node("Conv", "second", ["relu", "v"])]
    constants = {"w": rng.normal(size=(8, 4, 1, 1)).astype(np.float32), "v": second.astype(np.float32)}
    return prepared(model(nodes, {"x": (1, 4, 12, 12)}, ["second"], constants), samples=32)


def test_less_error_than_least_and_greatest():
    imported, ranges, data = two_layers()
    calibration = Calibration(ranges, data, measured=True)
    plain = quantize(imported, ranges, BitWidths(8, 4))
    other = narrowed(plain, calibration, None)
    lo, hi = other.ranges.values["relu"]
    assert lo == 0 and 0.3 * ranges.values["relu"][1] < hi < 0.9 * ranges.values["relu"][1]
    assert other.ranges.values["second"] == ranges.values["second"]  # what the user reads has 8 bits
    assert set(other.ranges.cuts) == {"x", "relu"}
    wanted = execute(imported, data)["second"]
    errors = [
        np.square(run_model(quantize(imported, each, BitWidths(8, 4)), data)["second"] - wanted).mean()
        for each in (ranges, other.ranges)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_a_copy_in_few_bits_has_a_range_of_its_own():
    """A sum at 8 bits that a layer reads at 4: the copy's 16 steps are searched, the sum loses hardly any of its range."""
    rng = np.random.default_rng(4)
    nodes = [
        node("Conv", "first", ["x", "w"]),
        node("Add", "sum", ["first", "x"]),
        node("Conv", "second", ["sum", "v"]),
    ]
    constants = {
        "w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "v": rng.normal(size=(6, 4, 3, 3)).astype(np.float32),
    }
    nodes.append(node("Conv", "other", ["sum", "w"]))
    imported, ranges, data = prepared(model(nodes, {"x": (1, 4, 12, 12)}, ["second", "other"], constants), samples=32)
    bits = {"second": BitWidths(8, 4)}
    plain = quantize(imported, ranges, bits)
    other = narrowed(plain, Calibration(ranges, data, measured=True), None).ranges
    assert set(other.copies) == {"sum.to4"} and other.values["sum"] == pytest.approx(ranges.values["sum"], rel=0.25)
    lo, hi = other.copies["sum.to4"]
    assert 0.3 < (hi - lo) / (ranges.values["sum"][1] - ranges.values["sum"][0]) < 0.95
    wanted = execute(imported, data)["second"]
    errors = [
        np.square(run_model(quantize(imported, r, bits), data)["second"] - wanted).mean() for r in (ranges, other)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_a_channel_that_counts_more_keeps_its_values():
    """Of channels with other ranges: with the layer behind reading one alone, that one's values decide."""
    imported, ranges, data = two_layers(wide=1e3)
    made = narrowed(quantize(imported, ranges, BitWidths(8, 4)), Calibration(ranges, data, measured=True), None)
    values = execute_relu(imported, data)[:, 0]
    alone = mse_range(Histogram(np.histogram(values, 4096, ranges.values["relu"])[0], *ranges.values["relu"]), 16)
    assert made.ranges.values["relu"] == pytest.approx(alone, rel=0.03)


def execute_relu(imported, data) -> np.ndarray:
    seen = []
    execute(imported, data, lambda name, value: seen.append(value.copy()) if name == "relu" else None)
    return np.concatenate(seen)


def test_as_asked_for():
    imported, ranges, data = two_layers()
    calibration = Calibration(ranges, data, measured=True)
    four, eight = (quantize(imported, ranges, BitWidths(8, bits)) for bits in (4, 8))
    assert narrowed(four, calibration, "minmax") is calibration
    for method in ("minmax", "percentile", "entropy", "mse"):  # which chose at 256 levels already
        assert narrowed(eight, calibration, method) is calibration
    assert narrowed(four, Calibration(ranges, data, measured=False), None).ranges is ranges
    plain = {name: each.values for name in ("mse", "entropy") for each in [narrowed(four, calibration, name).ranges]}
    assert plain["mse"]["relu"] != plain["entropy"]["relu"]


def heavy_tail():
    """A layer whose values reach far, a Relu and a layer; 256 samples, and 256 others of the same kind."""
    imported, _, _ = two_layers()
    far = np.random.default_rng(6).standard_t(8, (512, 4, 12, 12)).astype(np.float32)
    return imported, calibrate(imported, {"x": far[:256]}), {"x": far[:256]}, {"x": far[256:]}


def test_less_error_at_8_bits_on_other_samples():
    imported, ranges, data, others = heavy_tail()
    calibration = Calibration(ranges, data, measured=True)
    other = narrowed(quantize(imported, ranges, BitWidths(8, 8)), calibration, None).ranges
    assert set(other.cuts) == {"relu"}
    assert all(other.values[end] == ranges.values[end] for end in ("x", "second"))  # the user's own
    values = execute_relu(imported, others).astype(np.float64)
    errors = []
    for each in (ranges, other):
        lo, hi = each.values["relu"]
        step = (hi - lo) / 255
        errors.append(np.square(np.clip(np.rint(values / step) * step, lo, hi) - values).mean())
    assert errors[1] < 0.95 * errors[0]


def test_8_bits_keep_their_ends_without_samples_enough_to_tell():
    imported, ranges, data, _ = heavy_tail()
    quantized = quantize(imported, ranges, BitWidths(8, 8))
    for kept in (
        Calibration(ranges, {"x": data["x"][:15]}, measured=True),
        Calibration(ranges, data, measured=True, holds_outliers=True),
        Calibration(ranges, data, measured=False),
    ):
        assert narrowed(quantized, kept, None) is kept


def test_8_bits_know_the_ends_of_samples_that_were_not_counted():
    """A value far out in the last of many samples: the first ones alone would leave it out, far beyond their own ends."""
    imported, _, data = two_layers()
    data = {"x": np.concatenate([0.2 * data["x"]] * 3)}
    data["x"][-1] *= 6
    ranges = calibrate(imported, data)
    quantized = quantize(imported, ranges, BitWidths(8, 8))
    known, unknown = (
        narrowed(quantized, Calibration(each, data, measured=True), None).ranges.values["relu"][1]
        for each in (ranges, replace(ranges, channels={"relu": flat(ranges.channels["relu"])}))
    )
    assert unknown < known <= ranges.values["relu"][1]


def flat(channels: Channels) -> Channels:
    return replace(channels, lo=np.zeros_like(channels.lo), hi=np.zeros_like(channels.hi))


def test_every_door_takes_it():
    made = {
        effort: qaccel.quantize(chain(), samples(chain()), bits="W8A4", effort=effort) for effort in ("fast", "default")
    }
    cut = {effort: {each["name"] for each in q.quantized.ranges["cut"]} for effort, q in made.items()}
    assert not cut["fast"] and "relu1" in cut["default"]
