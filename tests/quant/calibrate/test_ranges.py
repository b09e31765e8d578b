"""Calibration against ONNX Runtime's calibrators, NumPy and brute force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import calibrate as ort_calibrate

from frontend.onnx_models import model, node
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx
from qaccel.model import Model
from qaccel.quant.calibrate import ranges as ours
from qaccel.quant.calibrate.ranges import METHODS, Histogram, calibrate
from tiers import wide_after


def network() -> Model:
    rng = np.random.default_rng(30)
    return import_onnx(
        model(
            [
                node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
                node("Relu", ["c"], ["r"], name="relu"),
                node("Conv", ["r", "v"], ["d"], name="second"),
                node("Add", ["d", "x"], ["y"], name="add"),
            ],
            {
                "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
                "b": rng.standard_normal(8).astype(np.float32),
                "v": rng.standard_normal((3, 8, 1, 1)).astype(np.float32),
            },
            (1, 3, 16, 16),
        )
    )


class Reader(ort_calibrate.CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self.feeds: Iterator[dict] = ({"x": x[k : k + 1]} for k in range(len(x)))

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def ort_ranges(imported: Model, x: np.ndarray, method: str, tmp_path: Path) -> dict[str, tuple[float, float]]:
    """ONNX Runtime's range of every node's output, by node name."""
    path = tmp_path / "m.onnx"
    onnx.save(imported.onnx_model, path)
    extra = {"minmax": {}, "percentile": {"num_bins": 4096, "percentile": 99.99, "symmetric": False}}[method]
    kind = {"minmax": ort_calibrate.CalibrationMethod.MinMax, "percentile": ort_calibrate.CalibrationMethod.Percentile}[
        method
    ]
    calibrator = ort_calibrate.create_calibrator(path, None, str(tmp_path / "a.onnx"), kind, extra_options=extra)
    calibrator.collect_data(Reader(x))
    found = calibrator.compute_data().data
    names = {n.outputs[0]: n.name for n in imported.operators} | {"x": "x"}
    return {
        names[k]: (float(np.ravel(v.range_value[0])[0]), float(np.ravel(v.range_value[1])[0]))
        for k, v in found.items()
        if k in names
    }


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(31).standard_normal((20, 3, 16, 16)).astype(np.float32) + 0.3


def test_minmax_equals_onnx_runtime(samples: np.ndarray, tmp_path: Path) -> None:
    imported = network()
    theirs = ort_ranges(imported, samples, "minmax", tmp_path)
    for batch in (1, 7, 32):
        ranges = calibrate(imported, {"x": samples}, batch=batch)
        assert ranges.samples == 20 and set(theirs) == set(ranges.values)
        for name, (lo, hi) in theirs.items():
            np.testing.assert_allclose(ranges.values[name], (min(lo, 0), max(hi, 0)), rtol=1e-5, atol=1e-6)


def test_percentile_equals_onnx_runtime(samples: np.ndarray, tmp_path: Path) -> None:
    """Up to some bins: ONNX Runtime's histogram grows with the data, ours spans it from the start."""
    imported = network()
    theirs = ort_ranges(imported, samples, "percentile", tmp_path)
    ranges = calibrate(imported, {"x": samples}, "percentile")
    full = calibrate(imported, {"x": samples}).values
    for name, (lo, hi) in theirs.items():
        width = full[name][1] - full[name][0]
        np.testing.assert_allclose(ranges.values[name], (min(lo, 0), max(hi, 0)), atol=0.01 * width)


def test_percentile_equals_numpy() -> None:
    samples = np.random.default_rng(33).standard_normal((300, 3, 16, 16)).astype(np.float32)
    values = calibrate(network(), {"x": samples}, "percentile").values["x"]
    expected = np.percentile(samples, [0.005, 99.995], method="inverted_cdf")
    np.testing.assert_allclose(values, expected, atol=2 * (samples.max() - samples.min()) / ours.BINS)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64, np.int64]), st.integers(1, 100_000))
def test_binned_counts_as_numpy_does(seed: int, dtype: type, size: int) -> None:
    rng = np.random.default_rng(seed)
    value = (rng.standard_normal(size) * 10 ** rng.uniform(-3, 3)).astype(dtype)
    lo, hi = min(0.0, float(value.min())), max(0.0, float(value.max()))
    if lo == hi:
        return
    counts = ours.binned(value, lo, hi)
    assert counts.sum() == size
    # float32 arithmetic may move a value across a border, never further
    assert np.abs(np.cumsum(counts) - np.cumsum(np.histogram(value, ours.BINS, (lo, hi))[0])).max() <= max(
        3, size // 500
    )


def grid_error(values: np.ndarray, lo: float, hi: float) -> float:
    """The mean squared error of rounding the values themselves to 256 levels between lo and hi."""
    step = (hi - lo) / 255
    zero = round(-lo / step)
    q = np.clip(np.rint(values / step) + zero, 0, 255)
    return float(np.mean(((q - zero) * step - values) ** 2))


def histogram_of(values: np.ndarray) -> Histogram:
    lo, hi = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(ours.binned(values, lo, hi), lo, hi)


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(32)
    normal = rng.standard_normal(200_000)
    return {
        "normal": normal,
        "laplace": rng.laplace(size=200_000),
        "relu": np.maximum(normal, 0),
        "skewed": np.where(normal < 0, 0.05 * normal, normal * 3),
        "outliers": np.concatenate([normal, [40.0, -25.0]]),
        "one outlier": np.concatenate([np.maximum(normal, 0), [100.0]]),
        "uniform": rng.uniform(-1, 3, 200_000),
        "heavy": rng.standard_t(3, 200_000),
    }


@pytest.mark.parametrize("name", wide_after(4, distributions()))
def test_mse_is_near_the_best_range(name: str) -> None:
    """Against brute force on the values themselves over a grid of ranges."""
    values = distributions()[name].astype(np.float32)
    lo, hi = float(min(values.min(), 0)), float(max(values.max(), 0))
    subset = np.concatenate([values[:20_000], values[-3:]])
    keeps = np.geomspace(0.02, 1, 40)
    best = min(grid_error(subset, lo * a, hi * b) for a in (keeps if lo else [1]) for b in (keeps if hi else [1]))
    chosen = ours.mse_range(histogram_of(subset))
    assert grid_error(subset, *chosen) <= 1.06 * best
    assert lo <= chosen[0] <= 0 <= chosen[1] <= hi


@pytest.mark.parametrize("name", list(distributions()))
def test_entropy_clips_outliers_and_keeps_the_bulk(name: str) -> None:
    values = distributions()[name].astype(np.float32)
    lo, hi = ours.entropy_range(histogram_of(values))
    inside = np.mean((values >= lo) & (values <= hi))
    assert inside > 0.98
    if "outlier" in name:
        assert hi < 15 and lo > -15
    if name in ("uniform", "normal"):
        assert hi - lo > 0.7 * (values.max() - values.min())
    if name in ("relu", "one outlier"):
        assert lo == 0


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_tensors(method: str) -> None:
    zeros = {"w": np.zeros((2, 3, 1, 1), np.float32), "b": np.array([5.0, 5.0], np.float32)}
    proto = model(
        [
            node("Conv", ["x", "w"], ["z"], name="zero"),
            node("Conv", ["x", "w", "b"], ["k"], name="constant"),
            node("Neg", ["k"], ["n"], name="negative"),
            node("Add", ["z", "n"], ["y"], name="add"),
        ],
        zeros,
        (1, 3, 4, 4),
    )
    x = np.zeros((1, 3, 4, 4), np.float32)
    x[0, 0, 0, 0] = 1e-30
    ranges = calibrate(import_onnx(proto), {"x": x}, method).values
    assert ranges["zero"] == (0, 0)
    assert ranges["constant"][0] == 0 and 4.9 < ranges["constant"][1] <= 5
    assert ranges["negative"][1] == 0 and -5 <= ranges["negative"][0] < -4.9
    assert all(lo <= 0 <= hi and np.isfinite([lo, hi]).all() for lo, hi in ranges.values())


@settings(max_examples=80)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.sampled_from(METHODS))
@pytest.mark.wide
def test_every_range_lies_within_the_observed_and_holds_zero(values: list[float], method: str) -> None:
    x = np.asarray(values, np.float32)[:, None]
    imported = import_onnx(model([node("Relu", ["x"], ["y"], name="r")], {}, (1, 1)))
    for name, (lo, hi) in calibrate(imported, {"x": x}, method).values.items():
        least = 0.0 if name == "r" else min(0.0, float(x.min()))
        assert least <= lo <= 0 <= hi <= max(0.0, float(x.max()))


def test_errors(samples: np.ndarray) -> None:
    imported = network()
    with pytest.raises(QaccelError, match="choose one of"):
        calibrate(imported, {"x": samples}, "median")
    with pytest.raises(QaccelError, match="no samples"):
        calibrate(imported, {"x": samples[:0]})
    overflow = import_onnx(model([node("Exp", ["x"], ["y"], name="boom")], {}, (1, 2)))
    with pytest.raises(QaccelError, match="'boom'"):
        calibrate(overflow, {"x": np.full((3, 2), 1000, np.float32)})
