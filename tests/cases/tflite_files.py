"""Small TFLite flatbuffers, written with the packages tflite and flatbuffers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import tflite

TYPES = {
    "float32": tflite.TensorType.FLOAT32, "float16": tflite.TensorType.FLOAT16, "int32": tflite.TensorType.INT32,
    "bool": tflite.TensorType.BOOL, "resource": tflite.TensorType.RESOURCE, "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8, "int16": tflite.TensorType.INT16, "int64": tflite.TensorType.INT64,
    "int4": tflite.TensorType.INT4,
}  # fmt: skip


@dataclass(frozen=True)
class Sparse:
    """A matrix stored row by row: the first dimension dense, of the second the columns (of blocks) that are not zero."""

    values: np.ndarray
    block: int = 1


@dataclass(frozen=True)
class Tensor:
    """A tensor by name; ``value`` where it is a constant, its own or a `Sparse` one; ``scale`` where it is quantized, several
    along ``axis``, and ``zero`` or zero points."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    value: Any = None
    variable: bool = False
    scale: Any = None
    zero: Any = 0
    axis: int = 0


@dataclass(frozen=True)
class Operator:
    """``options`` writes the operator's own table and gives its kind and place; ``custom`` is a custom operator's name."""

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    options: Callable[[flatbuffers.Builder], tuple[int, int]] | None = None
    custom: str = ""


def fully_connected(b: flatbuffers.Builder) -> tuple[int, int]:
    """Options of FULLY_CONNECTED without an activation."""
    tflite.FullyConnectedOptionsStart(b)
    return tflite.BuiltinOptions.FullyConnectedOptions, tflite.FullyConnectedOptionsEnd(b)


def options(kind: str, **fields: Any) -> Callable[[flatbuffers.Builder], tuple[int, int]]:
    """Options of an operator by the name of their table, "Conv2DOptions", with its scalar fields."""

    def write(b: flatbuffers.Builder) -> tuple[int, int]:
        getattr(tflite, f"{kind}Start")(b)
        for field, value in fields.items():
            getattr(tflite, f"{kind}Add{field}")(b, value)
        return getattr(tflite.BuiltinOptions, kind), getattr(tflite, f"{kind}End")(b)

    return write


def written(tensors: Sequence[Tensor], operators: Sequence[Operator], inputs: Sequence[str], outputs: Sequence[str],
            graphs: int = 1) -> bytes:  # fmt: skip
    """A model of ``graphs`` graphs that are all the same."""
    b = flatbuffers.Builder(1024)
    place = {tensor.name: k for k, tensor in enumerate(tensors)}
    buffers = [_buffer(b, b"")]
    made = [_tensor(b, tensor, buffers) for tensor in tensors]
    names = list(dict.fromkeys((op.name, op.custom) for op in operators))
    ops = [_operator(b, op, names.index((op.name, op.custom)), place) for op in operators]
    ends = [_numbers(b, [place[name] for name in each]) for each in (inputs, outputs)]
    all_tensors, all_ops = (
        _vector(b, tflite.SubGraphStartTensorsVector, made),
        _vector(b, tflite.SubGraphStartOperatorsVector, ops),
    )
    subgraphs = []
    for _ in range(graphs):
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, all_tensors)
        tflite.SubGraphAddInputs(b, ends[0])
        tflite.SubGraphAddOutputs(b, ends[1])
        tflite.SubGraphAddOperators(b, all_ops)
        subgraphs.append(tflite.SubGraphEnd(b))
    codes = [_code(b, *name) for name in names]
    parts = [
        _vector(b, tflite.ModelStartSubgraphsVector, subgraphs),
        _vector(b, tflite.ModelStartOperatorCodesVector, codes),
        _vector(b, tflite.ModelStartBuffersVector, buffers),
    ]
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddSubgraphs(b, parts[0])
    tflite.ModelAddOperatorCodes(b, parts[1])
    tflite.ModelAddBuffers(b, parts[2])
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def _vector(b, start, items):
    start(b, len(items))
    for item in reversed(items):
        b.PrependUOffsetTRelative(item)
    return b.EndVector()


def _numbers(b, values, dtype=np.int32):
    return b.CreateNumpyVector(np.asarray(values, dtype))


def _buffer(b, data: bytes):
    content = b.CreateByteVector(data) if data else None
    tflite.BufferStart(b)
    if content is not None:
        tflite.BufferAddData(b, content)
    return tflite.BufferEnd(b)


def _code(b, name: str, custom: str):
    number = getattr(tflite.BuiltinOperator, name)
    label = b.CreateString(custom) if custom else None
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
    tflite.OperatorCodeAddBuiltinCode(b, number)
    tflite.OperatorCodeAddVersion(b, 1)
    if label is not None:
        tflite.OperatorCodeAddCustomCode(b, label)
    return tflite.OperatorCodeEnd(b)


def _operator(b, op: Operator, code: int, place):
    inputs, outputs = (_numbers(b, [place[name] for name in names]) for names in (op.inputs, op.outputs))
    kind, options = op.options(b) if op.options is not None else (0, None)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, kind)
        tflite.OperatorAddBuiltinOptions(b, options)
    return tflite.OperatorEnd(b)


def _tensor(b, tensor: Tensor, buffers):
    sparsity, data = None, b""
    if isinstance(tensor.value, Sparse):
        sparsity, data = _sparsity(b, tensor.value)
    elif tensor.dtype == "int4":  # two in a byte, the first one low
        nibbles = np.asarray(tensor.value, np.int8).reshape(-1) & 15
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.int8))
        data = (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()
    elif tensor.value is not None:
        data = np.asarray(tensor.value, tensor.dtype).tobytes()
    if data:
        buffers.append(_buffer(b, data))
    name, shape = b.CreateString(tensor.name), _numbers(b, tensor.shape)
    scales = None if tensor.scale is None else _scales(b, tensor)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, TYPES[tensor.dtype])
    tflite.TensorAddBuffer(b, len(buffers) - 1 if data else 0)
    tflite.TensorAddName(b, name)
    tflite.TensorAddIsVariable(b, tensor.variable)
    if scales is not None:
        tflite.TensorAddQuantization(b, scales)
    if sparsity is not None:
        tflite.TensorAddSparsity(b, sparsity)
    return tflite.TensorEnd(b)


def _scales(b, tensor: Tensor):
    scale = np.atleast_1d(np.asarray(tensor.scale, np.float32))
    zero = np.broadcast_to(np.asarray(tensor.zero, np.int64), scale.shape)
    vectors = _numbers(b, scale, np.float32), _numbers(b, zero, np.int64)
    tflite.QuantizationParametersStart(b)
    tflite.QuantizationParametersAddScale(b, vectors[0])
    tflite.QuantizationParametersAddZeroPoint(b, vectors[1])
    tflite.QuantizationParametersAddQuantizedDimension(b, tensor.axis)
    return tflite.QuantizationParametersEnd(b)


def _sparsity(b, sparse: Sparse):
    """Rows dense, columns (of blocks) by segments and indices, blocks dense."""
    rows, width = sparse.values.shape
    cells = sparse.values.reshape(rows, width // sparse.block, sparse.block)
    there = cells.any(axis=2)
    segments = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    indices = np.nonzero(there)[1]
    metadata = [_dense(b, rows), _listed(b, segments, indices)]
    if sparse.block > 1:
        metadata.append(_dense(b, sparse.block))
    order, blocks = _numbers(b, range(len(metadata))), _numbers(b, [1])
    levels = _vector(b, tflite.SparsityParametersStartDimMetadataVector, metadata)
    tflite.SparsityParametersStart(b)
    tflite.SparsityParametersAddTraversalOrder(b, order)
    if sparse.block > 1:
        tflite.SparsityParametersAddBlockMap(b, blocks)
    tflite.SparsityParametersAddDimMetadata(b, levels)
    return tflite.SparsityParametersEnd(b), cells[there].tobytes()


def _dense(b, size: int):
    tflite.DimensionMetadataStart(b)
    tflite.DimensionMetadataAddFormat(b, tflite.DimensionType.DENSE)
    tflite.DimensionMetadataAddDenseSize(b, size)
    return tflite.DimensionMetadataEnd(b)


def _listed(b, segments, indices):
    """Segments as int32, indices as uint8: both kinds of vectors that there are in files."""
    values = _numbers(b, segments), _numbers(b, indices, np.uint8)
    tflite.Int32VectorStart(b)
    tflite.Int32VectorAddValues(b, values[0])
    first = tflite.Int32VectorEnd(b)
    tflite.Uint8VectorStart(b)
    tflite.Uint8VectorAddValues(b, values[1])
    second = tflite.Uint8VectorEnd(b)
    tflite.DimensionMetadataStart(b)
    tflite.DimensionMetadataAddFormat(b, tflite.DimensionType.SPARSE_CSR)
    tflite.DimensionMetadataAddArraySegmentsType(b, tflite.SparseIndexVector.Int32Vector)
    tflite.DimensionMetadataAddArraySegments(b, first)
    tflite.DimensionMetadataAddArrayIndicesType(b, tflite.SparseIndexVector.Uint8Vector)
    tflite.DimensionMetadataAddArrayIndices(b, second)
    return tflite.DimensionMetadataEnd(b)
