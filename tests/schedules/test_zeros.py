"""Convolutions and pools on the CPU, which leave out what is around their input, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper

import qaccel
from qaccel.cpu.compile import fuse
from qaccel.frontend.import_model import import_model
from qaccel.host import host_target
from qaccel.options import parse_target
from qaccel.schedules.floating import loop_nests, register_tile, zeros
from qaccel.schedules.floating.choose import schedule_all
from qaccel.schedules.host import host_of
from tiers import wide_after

from .test_float import check, drawn, one_node

# (input, size of the window, dilation, padding, stride): windows larger than the plane, columns that see zeros only, tiles of which
# every pixel or every second one is outside, a window of one pixel that is padded all the same
GEOMETRIES = [
    ((1, 16, 3, 30), 7, 1, 7, 3), ((1, 16, 2, 3), 5, 1, 2, 1), ((1, 16, 1, 1), 3, 1, 1, 1), ((1, 16, 2, 3), 3, 4, 4, 1),
    ((1, 16, 5, 9), 1, 1, 2, 2), ((1, 3, 30, 31), 3, 12, 12, 1),
]  # fmt: skip


def convolution(weight: np.ndarray, geometry: tuple[Any, ...]) -> onnx.ModelProto:
    shape, window, dilation, padding, stride = geometry
    return one_node(
        "Conv", [shape], [weight], kernel_shape=[window] * 2, dilations=[dilation] * 2, pads=[padding] * 4, strides=[stride] * 2
    )  # fmt: skip


@pytest.mark.parametrize("mcpu", wide_after(1, ["native", "haswell", "x86-64"]))
@pytest.mark.parametrize(("shape", "window", "dilation", "padding", "stride"), wide_after(4, GEOMETRIES))
def test_zeros_around_the_input(
    shape: tuple[int, ...], window: int, dilation: int, padding: int, stride: int, mcpu: str
) -> None:
    geometry = (shape, window, dilation, padding, stride)
    rng = np.random.default_rng(window)
    check(
        convolution(drawn(rng, 24, shape[1], window, window), geometry),
        {"x0": drawn(rng, *shape)},
        f"llvm -mcpu={mcpu}",
    )


def test_a_wrong_pixel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel that is left out too much, in the columns in which not all are taken."""
    rng = np.random.default_rng(3)
    plain, geometry = zeros._only, ((1, 16, 5, 9), 3, 1, 1, 1)
    model, x = convolution(drawn(rng, 24, 16, 3, 3), geometry), drawn(rng, 1, 16, 5, 9)
    check(model, {"x0": x})
    monkeypatch.setattr(
        zeros, "_only", lambda body, pixel, chosen, count: plain(body, pixel, chosen[len(chosen) < count :], count)
    )
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check(model, {"x0": x})


def test_weights_that_meet_only_zeros_do_not_count() -> None:
    """Eight of nine taps of a 3x3 window on a plane of one pixel are infinite: no zero is multiplied by them."""
    rng = np.random.default_rng(4)
    weight, x = np.full((24, 16, 3, 3), np.inf, np.float32), drawn(rng, 1, 16, 1, 1)
    weight[:, :, 1, 1] = drawn(rng, 24, 16)
    (result,) = qaccel.compile(convolution(weight, ((1, 16, 1, 1), 3, 1, 1, 1)), target="llvm").run({"x0": x}).values()
    expected = weight[:, :, 1, 1].astype(np.float64) @ x[0, :, 0, 0]
    np.testing.assert_allclose(result[0, :, 0, 0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_input_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduled function has no stage of the input with zeros around it, unless the rule says that it is worth it."""
    model = convolution(drawn(np.random.default_rng(5), 24, 16, 3, 3), ((1, 16, 5, 9), 3, 1, 1, 1))

    def text() -> str:
        target = host_target(parse_target("llvm"))
        scheduled, _ = schedule_all(fuse(import_model(model, None, None).mod, target).mod, host_of(target))
        return str([each for each in scheduled.functions.values() if isinstance(each, tvm.tirx.PrimFunc)])

    assert "padded" not in text()
    monkeypatch.setattr(register_tile, "_skips_zeros", lambda *_: False)
    assert "padded" in text()


def test_pools_with_borders_are_computed_in_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of channels, which lie side by side after a convolution. What a pool reads through is a choice of a value or none."""
    model = convolution(drawn(np.random.default_rng(6), 32, 16, 1, 1), ((1, 16, 9, 9), 1, 1, 0, 1))
    pool = helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model.graph.node[0].output[0] = "c"
    model.graph.node.append(pool)
    check(model, {"x0": drawn(np.random.default_rng(7), 1, 16, 9, 9)})

    def vectors() -> int:
        target = host_target(parse_target("llvm"))
        scheduled, _ = schedule_all(fuse(import_model(model, None, None).mod, target).mod, host_of(target))
        (pools,) = [each for var, each in scheduled.functions_items() if "pool" in var.name_hint]
        return str(pools).count("T.vectorized")

    assert vectors() > 0
    monkeypatch.setattr(loop_nests, "_VECTOR_INTRINSICS", loop_nests._VECTOR_INTRINSICS - {loop_nests._CHOICE})
    assert vectors() == 0
