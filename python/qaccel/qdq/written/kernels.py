"""What ONNX stores otherwise than the dialect has it: integer kernels, integers of 4 bits, and its own version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...dialect.operators import ConvAttrs
from ...errors import UserError
from ...frontend.graph import DOMAIN, attrs_of

_IR_VERSION_OF_21 = 10
NARROW_AND_WIDE_OPSET = 21  # Q and DQ of int4 and int16
Phase = tuple[int, int, ConvAttrs, np.ndarray]  # of rows, of pixels, its convolution, its kernel OHWI


def stored_kernel(op: str, weight: np.ndarray, order: np.ndarray | None) -> tuple[np.ndarray, int]:
    """A Conv's kernel OHWI as OIHW, a Gemm's or MatMul's as [K, M]; with it the axis of the output channels.

    ``order``: which row of the matrix each value of a channel's kernel is; None where they are in the matrix's order.
    """
    if op == "Conv":
        return weight.transpose(0, 3, 1, 2), 0
    rows = weight.reshape(len(weight), -1).T
    return (rows if order is None else rows[np.argsort(order)]), 1


def transposed_kernel(phases: Sequence[Phase], size: tuple[int, int], attributes: Mapping[str, Any]) -> np.ndarray:
    """The kernel [OC, IC / groups, *size] of a ConvTranspose that was divided into one convolution for each phase of its strides.

    Output y = stride * t + phase takes kernel[k] at input t + place where phase + pad - place * stride = k * dilation. Taps that
    no output needs are 0. ``attributes`` are those of the ONNX node.
    """
    strides, dilations = (list(attributes.get(key, [1, 1])) for key in ("strides", "dilations"))
    pads = list(attributes.get("pads", [0] * 4))
    channels, _, _, per_group = phases[0][3].shape
    kernel = np.zeros((channels, per_group, *size), np.int64)
    for row, pixel, attrs, weight in phases:
        taps = []
        for axis, phase in enumerate((row, pixel)):
            offsets = [
                phase + pads[axis] - (k - attrs.padding[axis]) * strides[axis] for k in range(weight.shape[1 + axis])
            ]
            known = [offset // dilations[axis] if offset % dilations[axis] == 0 else -1 for offset in offsets]
            taps.append([(k, tap) for k, tap in enumerate(known) if 0 <= tap < size[axis]])
        for i, y in taps[0]:
            for j, x in taps[1]:
                kernel[:, :, y, x] = weight[:, i, j]
    return kernel


def at_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """A copy of the model at opset ``least`` or its own if that is newer."""
    have = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
    if have < least:
        try:
            result = _resized(onnx.version_converter.convert_version(_kept(model), least))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the model cannot be brought from opset {have} to {least}: {reason}") from None
    else:
        result = onnx.ModelProto()
        result.CopyFrom(model)
    if least >= NARROW_AND_WIDE_OPSET:
        result.ir_version = max(result.ir_version, _IR_VERSION_OF_21)
    return result


def _kept(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with each Upsample in a domain of our own, where the converter, which would rename it and its tensor, leaves it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.op_type == "Upsample" and not node.domain:
            node.domain = DOMAIN
    if any(node.domain == DOMAIN for node in result.graph.node):
        result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return result


def _resized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each such Upsample as the Resize that it is."""
    for node in (each for each in model.graph.node if each.domain == DOMAIN):
        attrs = attrs_of(node)
        scales = node.input[1] if len(node.input) > 1 else f"{node.output[0]}_scales"
        if len(node.input) < 2:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(attrs["scales"], np.float32), scales))
        node.CopyFrom(
            helper.make_node(
                "Resize", [node.input[0], "", scales], list(node.output), node.name, mode=attrs.get("mode", "nearest"),
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )
        )  # fmt: skip
    kept = [each for each in model.opset_import if each.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def nibbles(values: np.ndarray) -> bytes:
    """4-bit integers packed as ONNX has them: row-major, low nibble first."""
    flat = values.reshape(-1).astype(np.int64) & 15
    flat = np.append(flat, 0) if flat.size % 2 else flat
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
