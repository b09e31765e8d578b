"""Quantized tensors of TFLite files: operators are converted on real values, operands dequantized and results quantized.

Float operators between a quantize and a dequantize for each tensor is how all quantized models are read. TVM's frontend writes them
for some operators, with weights of 8 bits and zero point 0; here it sees a float model, whatever integers a tensor has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.tflite.tflite_frontend import OperatorConverter, TensorWrapper, get_tensor_name

from ...errors import UserError
from .labels import label_of
from .sparse import dense

# TensorType of TFLite's schema; those of more than 16 bits are quantized where they are a layer's bias.
FLOAT32, INT32, UINT8, INT64, INT16, INT8, UINT16, INT4 = 0, 2, 3, 4, 7, 9, 16, 17
INTEGERS = {UINT8: "uint8", INT16: "int16", INT8: "int8", UINT16: "uint16", INT4: "int8"}
BIASES = {INT32: "int32", INT64: "int64"}
# Operators whose result hangs on the integers themselves, not on what they stand for.
ON_INTEGERS = ("CAST", "BITCAST")
# Layers by the positions of their input, weights and bias.
LAYERS = {
    "CONV_2D": (0, 1, 2), "DEPTHWISE_CONV_2D": (0, 1, 2), "FULLY_CONNECTED": (0, 1, 2), "TRANSPOSE_CONV": (2, 1, 3),
    "CONV_3D": (0, 1, 2), "CONV_3D_TRANSPOSE": (2, 1, 3),
}  # fmt: skip


class RealTensor:
    """A quantized tensor of a flatbuffer as a float one without scales; all else is as there."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)

    def Type(self) -> int:
        return FLOAT32

    def Quantization(self) -> None:
        """No scales."""
        return None


class RealConverter(OperatorConverter):
    """TVM's converter on the real values of quantized tensors.

    ``exp_tab`` holds real values; integers are what comes in at quantized inputs, and what goes out at quantized outputs. Raises
    UserError for scales that are none, and for operators on the integers themselves.
    """

    def __init__(self, model: Any, subgraph: Any, exp_tab: Any, ctx: Any, conversion_state: Any = None) -> None:
        super().__init__(model, subgraph, exp_tab, ctx, conversion_state)
        self.labels: dict[relax.Var, str] = {}  # of operators, by the last variable of each
        self.biases: dict[int, np.ndarray] = {}  # scales of integer biases, by tensor
        self.integers: dict[int, relax.Expr] = {}  # what quantized results were rounded to

    def convert_op_to_relax(self) -> None:
        """All operators; what each gives is rounded where its tensor is quantized."""
        for index in (int(k) for k in self.subgraph.InputsAsNumpy()):
            if self._scales(index) is not None:
                integers = self.get_expr(index)
                self.hold(index, self._dequantized(index, integers))
        for name in dict.fromkeys(self.get_op_code_str(op) for op in self._operators()):
            self.convert_map[name] = self._rounded(name, self.convert_map[name])
        super().convert_op_to_relax()
        for index in (int(k) for k in self.subgraph.OutputsAsNumpy()):
            if self._scales(index) is not None:
                real = self.get_tensor_expr(self.get_tensors([index])[0])
                self.hold(index, self.integers[index] if index in self.integers else self._quantized(index, real))

    def get_tensors(self, tensors_idx_list: Any) -> list[Any]:
        """The tensors at these places, quantized ones as float ones; constants among those have their expression."""
        wrappers: list[Any] = []
        for index in (int(k) for k in self._indices_or_empty(tensors_idx_list)):
            if index < 0:
                wrappers.append(TensorWrapper(index, 0, 0))
                continue
            tensor = self.subgraph.Tensors(index)
            buffer, quantized = self.model.Buffers(tensor.Buffer()), self._scales(index) is not None
            if quantized and buffer.DataLength() and not self.has_expr(index):
                self.hold(index, self._constant(index))
            wrappers.append(TensorWrapper(index, RealTensor(tensor) if quantized else tensor, buffer))
        return wrappers

    def get_tensor_value(self, tensor_wrapper: Any, is_sparse: bool = False) -> np.ndarray:
        """The values of a constant, real ones where it is quantized."""
        index = tensor_wrapper.tensor_idx
        if index < 0 or self._scales(index) is None:
            return np.asarray(super().get_tensor_value(tensor_wrapper, is_sparse))
        scale, zero_point, axis = self._along(index)
        integers = self._integers(index)
        return (
            (integers.astype(np.float64) - _spread(zero_point, axis, integers)) * _spread(scale, axis, integers)
        ).astype(np.float32)

    def convert_quantize(self, op: Any) -> relax.Expr:
        """Real values again: its output is rounded as every other's is."""
        return self.get_tensor_expr(self.get_input_tensors(op)[0])

    def convert_dequantize(self, op: Any) -> relax.Expr:
        """The real values of integers; float16 becomes float32."""
        (source,) = self.get_input_tensors(op)
        if isinstance(source.tensor, RealTensor):
            return self.get_tensor_expr(source)
        if self.get_tensor_type_as_numpy(source) is np.float16 and self.has_expr(source.tensor_idx):
            return relax.op.astype(self.get_expr(source.tensor_idx), "float32")
        return super().convert_dequantize(op)

    def _operators(self) -> list[Any]:
        return [self.subgraph.Operators(k) for k in range(self.subgraph.OperatorsLength())]

    def hold(self, index: int, expr: relax.Expr) -> None:
        """What a tensor is from now on."""
        self.exp_tab.set_expr(self._label(index), self.bb.normalize(expr), force_override=True)

    def _label(self, index: int) -> str:
        return str(get_tensor_name(self.subgraph, index))

    def _rounded(self, name: str, convert: Any) -> Any:
        """The converter of an operator with its quantized results rounded to their integers."""

        def converted(op: Any) -> Any:
            outputs = [int(k) for k in op.OutputsAsNumpy()]
            if name in ON_INTEGERS:
                read = [int(k) for k in op.InputsAsNumpy()]
                for index in (k for k in (*read, *outputs) if k >= 0 and self._scales(k) is not None):
                    raise UserError(
                        f"operator {name} computes with the integers of quantized tensor '{self._label(index)}', which is not "
                        "known here; convert the model without it"
                    )
            self._take_bias(op, name)
            made = convert(op=op)
            if made is None:
                return None
            made = self._labelled(self.bb.normalize(made), label_of(self._label(outputs[0])))
            if not any(self._scales(index) is not None for index in outputs):
                return made
            if len(outputs) == 1:
                return self._both(outputs[0], made)
            return relax.Tuple(
                [self._both(index, self.bb.normalize(relax.TupleGetItem(made, k))) for k, index in enumerate(outputs)]
            )

        return converted

    def _labelled(self, made: relax.Expr, label: str) -> relax.Expr:
        """What an operator, or a rounding, gave, bound under its name."""
        if isinstance(made, relax.Call):
            made = self.bb.emit(made, label)
            self.labels[made] = label
        return made

    def _both(self, index: int, real: relax.Expr) -> relax.Expr:
        """Real values rounded to a tensor's integers; as they are where it is not quantized."""
        if self._scales(index) is None:
            return real
        label = label_of(self._label(index))
        self.integers[index] = self._labelled(self.bb.normalize(self._quantized(index, real)), f"{label}:rounded")
        return self._labelled(self.bb.normalize(self._dequantized(index, self.integers[index])), f"{label}:real")

    def _quantized(self, index: int, real: relax.Expr) -> relax.Expr:
        scale, zero_point, axis = self._along(index)
        kind = self.subgraph.Tensors(index).Type()
        return relax.op.quantize(real, *_operands(scale, zero_point), axis=axis, out_dtype=INTEGERS[kind])

    def _dequantized(self, index: int, integers: relax.Expr) -> relax.Expr:
        scale, zero_point, axis = self._along(index)
        return relax.op.dequantize(integers, *_operands(scale, zero_point), axis=axis)

    def _constant(self, index: int) -> relax.Expr:
        """A constant behind a dequantize; 4 bits are 8 that a clip between another pair narrows, as in QCDQ."""
        integers = self._integers(index)
        if integers.dtype == np.int64:
            if np.abs(integers).max(initial=0) >= 1 << 31:
                raise UserError(
                    f"bias '{self._label(index)}' reaches {np.abs(integers).max()}; the machine's are within 32 bits: use larger "
                    "weight scales"
                )
            integers = integers.astype(np.int32)
        made = self._dequantized(index, relax.const(integers))
        if self.subgraph.Tensors(index).Type() == INT4:
            made = self._dequantized(index, relax.op.clip(self._quantized(index, made), -8, 7))
        return made

    def _integers(self, index: int) -> np.ndarray:
        """A quantized constant as the file has it; 4 bits lie two in a byte, the first one low."""
        tensor = self.subgraph.Tensors(index)
        data = np.asarray(self.model.Buffers(tensor.Buffer()).DataAsNumpy(), np.uint8)
        shape = [int(size) for size in tensor.ShapeAsNumpy()] if tensor.ShapeLength() else []
        if tensor.Type() == INT4:
            nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))]
            return ((nibbles.astype(np.int8) ^ 8) - 8).reshape(shape)
        values = np.frombuffer(data.tobytes(), {**INTEGERS, **BIASES}[tensor.Type()])
        return dense(tensor, values) if tensor.Sparsity() is not None else values.reshape(shape)

    def _scales(self, index: int) -> np.ndarray | None:
        """The scales of a quantized tensor; None for every other."""
        tensor = self.subgraph.Tensors(index)
        if index in self.biases:
            return self.biases[index]
        stated = tensor.Quantization()
        if tensor.Type() not in INTEGERS or stated is None or not stated.ScaleLength():
            return None
        return np.atleast_1d(stated.ScaleAsNumpy()).astype(np.float32)

    def _along(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Scales and zero points of a quantized tensor, of the same size, and their axis."""
        scale, tensor = self._scales(index), self.subgraph.Tensors(index)
        assert scale is not None
        stated = tensor.Quantization()
        points = np.zeros(1, np.int64)
        axis = 0
        if stated is not None and index not in self.biases:
            axis = int(stated.QuantizedDimension())
            points = np.atleast_1d(stated.ZeroPointAsNumpy()) if stated.ZeroPointLength() else points
        label, rank = self._label(index), tensor.ShapeLength()
        if scale.size > 1 and not (axis < rank and scale.size == int(tensor.Shape(axis))):
            sizes = [int(size) for size in tensor.ShapeAsNumpy()] if rank else []
            raise UserError(f"tensor '{label}': {scale.size} scales along axis {axis} of {sizes} do not fit")
        if points.size not in (1, scale.size):
            raise UserError(f"tensor '{label}': {scale.size} scales and {points.size} zero points do not fit")
        bad = scale[~(np.isfinite(scale) & (scale > 0))]
        if bad.size:
            raise UserError(f"tensor '{label}': its scale is {bad[0]:g}; scales are positive finite numbers")
        return scale, np.broadcast_to(points, scale.shape).astype(np.int32), axis

    def _take_bias(self, op: Any, name: str) -> None:
        """Gives a layer's integer bias the product of input's and weights' scales, as TFLite's kernels do whatever the file says;
        layers that share one have it on scales of their own."""
        operands = [int(k) for k in op.InputsAsNumpy()]
        if name not in LAYERS or len(operands) <= LAYERS[name][2] or operands[LAYERS[name][2]] < 0:
            return
        source, weight, bias = (operands[k] for k in LAYERS[name])
        scales = self._scales(source), self._scales(weight)
        if self.subgraph.Tensors(bias).Type() in BIASES and scales[0] is not None and scales[1] is not None:
            self.biases[bias] = scales[0] * scales[1]
            self.hold(bias, self._constant(bias))


def _operands(scale: np.ndarray, zero_point: np.ndarray) -> tuple[relax.Expr, relax.Expr]:
    if scale.size == 1:
        return relax.const(float(scale[0]), "float32"), relax.const(int(zero_point[0]), "int32")
    return relax.const(scale), relax.const(zero_point)


def _spread(values: np.ndarray, axis: int, integers: np.ndarray) -> np.ndarray:
    if values.size == 1:
        return values.reshape(())
    return values.astype(np.float64).reshape([-1 if k == axis else 1 for k in range(integers.ndim)])
