"""Resize and Upsample in every mode against ONNX Runtime, as Gathers, one resize2d, or weights."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from frontend.checks import f, onnx_ops, relax_ops
from frontend.onnx_models import model, node, ort_run, worst
from qaccel.emulate.executor import execute
from qaccel.frontend.import_onnx import import_onnx
from tiers import wide_after

COORDINATES = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
SIZES: list[tuple[str, list[float]]] = [
    ("scales", [1, 1, 2, 2]), ("scales", [1, 1, 0.6, 1.7]), ("sizes", [1, 2, 7, 3]), ("sizes", [1, 2, 1, 12]),
    ("scales", [1, 1, 3, 1]),
]  # fmt: skip


def check(nodes: list[Any], consts: dict[str, np.ndarray], shape: tuple[int, ...], opset: int) -> list[str]:
    proto = model(nodes, consts, shape, opset=opset)
    x = f(*shape)
    imported, expected = import_onnx(proto), ort_run(proto, {"x": x})
    assert worst(execute(imported, {"x": x}), expected) < 1e-5
    assert worst(ort_run(imported.onnx_model, {"x": x}), expected) < 1e-5
    return onnx_ops(imported)


def resize(kind: str, values: list[float], **attrs: Any) -> tuple[list[Any], dict[str, np.ndarray]]:
    operands = ["x", "", "s"] if kind == "scales" else ["x", "", "", "s"]
    consts = {"s": np.array(values, np.float32 if kind == "scales" else np.int64)}
    return [node("Resize", operands, ["y"], **attrs)], consts


@pytest.mark.parametrize(("coordinates", "rounding"), list(itertools.product(COORDINATES, ROUNDINGS)))
@pytest.mark.parametrize(("kind", "values"), SIZES)
def test_nearest(coordinates: str, rounding: str, kind: str, values: list[float]) -> None:
    attrs = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    assert set(check(*resize(kind, values, **attrs), (1, 2, 5, 6), 19)) == {"Gather"}


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", wide_after(2, [*COORDINATES, "half_pixel_symmetric"]))
@pytest.mark.parametrize(("kind", "values"), SIZES)
def test_interpolated(mode: str, coordinates: str, kind: str, values: list[float]) -> None:
    check(*resize(kind, values, mode=mode, coordinate_transformation_mode=coordinates), (1, 2, 5, 6), 19)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_integer_factors_stay_one_node(coordinates: str) -> None:
    nodes, consts = resize("scales", [1, 1, 2, 2], mode="linear", coordinate_transformation_mode=coordinates)
    imported = import_onnx(model(nodes, consts, (1, 2, 5, 6), opset=13))
    assert relax_ops(imported) == ["image.resize2d"]


@pytest.mark.parametrize(
    "attrs",
    [{"mode": "linear", "antialias": 1}, {"mode": "cubic", "antialias": 1}, {"mode": "cubic", "exclude_outside": 1}],
)
def test_weights(attrs: dict[str, Any]) -> None:
    assert "MatMul" in check(*resize("scales", [1, 1, 0.5, 0.4], **attrs), (1, 2, 8, 9), 19)


def test_other_ranks_axes_and_policies() -> None:
    check(*resize("scales", [1, 1, 2], mode="linear"), (1, 2, 8), 13)
    check(
        *resize("sizes", [7, 12], mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"), (1, 2, 8, 9), 19
    )


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_spellings(mode: str) -> None:
    scales = np.array([1, 1, 2, 3], np.float32)
    check([node("Upsample", ["x", "s"], ["y"], mode=mode)], {"s": scales}, (1, 2, 4, 5), 9)
    check([node("Upsample", ["x"], ["y"], mode=mode, scales=[1.0, 1.0, 2.0, 2.0])], {}, (1, 2, 4, 5), 7)
    smaller = np.array([1, 1, 2, 0.6], np.float32)
    check([node("Resize", ["x", "s"], ["y"], mode=mode)], {"s": smaller}, (1, 2, 4, 9), 10)
