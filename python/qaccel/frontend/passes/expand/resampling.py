"""Where each output of an ONNX Resize or Upsample comes from, computed in float32 as ONNX Runtime does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ...graph import Graph, attrs_of

LINEAR_MODES = ("linear", "bilinear", "trilinear")


@dataclass(frozen=True)
class Resampling:
    """A Resize with constant scales. `scales` and `rois` (start, end) have one entry for each axis of the data."""

    mode: str
    coordinates: str
    nearest: str
    sizes_in: tuple[int, ...]
    sizes_out: tuple[int, ...]
    scales: tuple[float, ...]
    rois: tuple[tuple[float, float], ...]
    antialias: bool
    cubic_coefficient: float
    exclude_outside: bool
    extrapolation_value: float

    @property
    def changed(self) -> tuple[int, ...]:
        """Axes along which anything happens."""
        crop = self.coordinates == "tf_crop_and_resize"
        return tuple(
            k
            for k, (a, b) in enumerate(zip(self.sizes_in, self.sizes_out, strict=True))
            if a != b or self.scales[k] != 1 or crop and self.rois[k] != (0.0, 1.0)
        )

    def exact(self, axis: int) -> bool:
        """Whether the scale is the quotient of the sizes, so that either may be used."""
        return abs(self.sizes_in[axis] * self.scales[axis] - self.sizes_out[axis]) < 1e-4

    def positions(self, axis: int) -> np.ndarray:
        """The fractional input position of every output along an axis, float32."""
        length, count = self.sizes_in[axis], self.sizes_out[axis]
        out = np.arange(count, dtype=np.float32)
        scale, half, one = np.float32(self.scales[axis]), np.float32(0.5), np.float32(1)
        if self.coordinates == "tf_crop_and_resize":
            start, end = (np.float32(v) for v in self.rois[axis])
            if count == 1:
                return half * (start + end) * np.float32(length - 1) * np.ones_like(out)
            return start * np.float32(length - 1) + out * (end - start) * np.float32(length - 1) / np.float32(count - 1)
        if scale == 1:
            return out
        if self.coordinates == "align_corners":
            return out * np.float32(length - 1) / np.float32(count - 1) if count > 1 else np.zeros_like(out)
        if self.coordinates == "asymmetric":
            return out / scale
        if self.coordinates == "tf_half_pixel_for_nn":
            return (out + half) / scale
        if self.coordinates == "pytorch_half_pixel" and count == 1:
            return np.zeros_like(out)
        if self.coordinates == "half_pixel_symmetric":
            adjustment = np.float32(count) / (scale * np.float32(length))
            center = np.float32(length) / 2
            return center * (one - adjustment) + (out + half) / scale - half
        return (out + half) / scale - half

    def indices(self, axis: int) -> np.ndarray:
        """The input index of every output of a nearest-neighbour Resize along an axis."""
        x = self.positions(axis)
        floor = np.floor(x)
        if self.nearest == "simple":  # what Upsample and the first Resize do
            index = np.ceil(x) if self.scales[axis] < 1 else np.trunc(x)
        elif self.nearest == "floor":
            index = floor
        elif self.nearest == "ceil":
            index = np.ceil(x)
        elif self.nearest == "round_prefer_ceil":
            index = np.floor(x + np.float32(0.5))
        else:
            index = np.where(x == floor + np.float32(0.5), floor, np.floor(x + np.float32(0.5)))
        return np.clip(index, 0, self.sizes_in[axis] - 1).astype(np.int64)

    def neighbours(self, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For a linear Resize along an axis: lower and upper index of every output, and the upper one's weight."""
        last = self.sizes_in[axis] - 1
        x = np.clip(self.positions(axis), 0, last)
        low = np.minimum(np.floor(x), last).astype(np.int64)
        return low, np.minimum(low + 1, last), (x - low).astype(np.float32)


def resampling(node: onnx.NodeProto, graph: Graph) -> Resampling | None:
    """What a Resize or Upsample node does; None where its scales are no constants."""
    attrs = attrs_of(node)
    shape, out_shape = graph.shape(node.input[0]), graph.shape(node.output[0])
    axes = [a % len(shape) for a in attrs.get("axes", range(len(shape)))]
    given = [graph.consts[i].reshape(-1) if i and i in graph.consts else None for i in node.input[1:]]
    if any(i and i not in graph.consts and i in graph.types for i in node.input[1:]):
        return None
    legacy = node.op_type == "Upsample" or graph.opset < 11
    roi, scale, sizes = (None, given[0] if given else None, None) if legacy else (*given, None, None, None)[:3]
    if legacy and "scales" in attrs:
        scale = np.asarray(attrs["scales"], np.float32)
    full = [1.0] * len(shape)
    if scale is not None and scale.size:
        for axis, value in zip(axes, scale.tolist(), strict=True):
            full[axis] = float(value)
    elif sizes is not None and sizes.size:
        keep = attrs.get("keep_aspect_ratio_policy", "stretch")
        wanted = [float(s) / shape[a] for a, s in zip(axes, sizes.tolist(), strict=True)]
        same = {"not_larger": min, "not_smaller": max}.get(keep)
        for axis, value in zip(axes, wanted, strict=True):
            full[axis] = float(np.float32(same(wanted) if same else value))
    else:
        return None
    rois = [(0.0, 1.0)] * len(shape)
    if roi is not None and roi.size == 2 * len(axes):
        for k, axis in enumerate(axes):
            rois[axis] = (float(roi[k]), float(roi[k + len(axes)]))
    mode = attrs.get("mode", "nearest")
    return Resampling(
        "linear" if mode in LINEAR_MODES else mode,
        "asymmetric" if legacy else attrs.get("coordinate_transformation_mode", "half_pixel"),
        "simple" if legacy else attrs.get("nearest_mode", "round_prefer_floor"),
        shape, out_shape, tuple(full), tuple(rois), bool(attrs.get("antialias", 0)),
        float(attrs.get("cubic_coeff_a", -0.75)), bool(attrs.get("exclude_outside", 0)),
        float(attrs.get("extrapolation_value", 0.0)),
    )  # fmt: skip
