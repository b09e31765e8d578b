"""From an ONNX file to the canonical ONNX graph: loaded, checked, static, folded, simplified, every node named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper, helper, numpy_helper, version_converter

from ..errors import UserError, one_line
from .forms import AS_FLOAT, Forms
from .graph import Graph, NotStatic, TensorType, fresh_name
from .inputs import as_float32, with_values
from .passes import contrib
from .passes.affine import with_statistics
from .passes.definitions import spelled_out
from .passes.fold import fold
from .passes.simplify import simplify

OLDEST_OPSET = 7  # older files are brought to it by ONNX's own converter
LARGEST_MODEL_BYTES = (1 << 31) - 1  # protobuf's own limit for one message
FIRST_IR_OF_CONSTANTS = 4  # before it every initializer had to be an input as well, which the graph's constants are not
DOMAINS = ("", "ai.onnx")


def canonical_graph(
    model: str | Path | onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, Any] | None = None,
    forms: Forms = AS_FLOAT,
) -> Graph:
    """Loads, checks and canonicalises a model.

    `input_shapes` fixes dimensions by input name, those that the model fixes too where its nodes allow it; a symbolic batch
    (axis 0) becomes 1 by itself. `input_values` makes constants of inputs. Tensors of float16 become float32.
    Raises UserError for everything that is wrong with the file or that cannot be compiled.
    """
    proto = checked(forms.spelled(load(model)))
    fixed = with_values(proto, input_values or {})
    notes = as_float32(proto)
    changed = _overridden(proto, input_shapes or {})
    try:
        with np.errstate(all="ignore"):  # a model's own constants may overflow; that is no message for its user
            graph = graph_of(proto, dict(input_shapes or {}))
            graph = replace(graph, fixed=fixed, notes=notes, overridden=changed)
            return forms.settled(simplify(with_statistics(forms.read(fold(graph)))))
    except UserError as err:
        if not changed:
            raise
        raise blamed_on_shapes(err, changed) from err
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError) as err:
        reason = one_line(err)
        raise UserError(f"the model's graph is inconsistent ({type(err).__name__}): {reason}") from err


def blamed_on_shapes(error: UserError, changed: str) -> UserError:
    """The error, with the sizes of inputs that were ``changed`` against the model's own in front."""
    return type(error)(
        f"--input-shapes changes {changed}, and the model does not allow it: {error}; give another shape"
    )


def load(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """The model with its external data in memory; a ModelProto is copied."""
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    path = Path(model)
    try:
        size_bytes = path.stat().st_size
        if not path.is_file():
            raise UserError(f"'{path}' is not a file; give an .onnx model")
        if size_bytes == 0:
            raise UserError(f"'{path}' is empty; give an .onnx model")
        if size_bytes > LARGEST_MODEL_BYTES:
            raise UserError(_too_large(path, size_bytes))
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as err:
        raise UserError(f"cannot read the model '{path}': {err.strerror or err}; give another file") from err
    except DecodeError as err:
        raise UserError(f"'{path}' is not an ONNX model, or is truncated or damaged; copy or export it again") from err
    _load_external_data(proto, path)
    if not proto.HasField("graph") or not proto.ir_version:
        raise UserError(f"'{path}' is not an ONNX model: it holds no graph; export it again")
    return proto


def _too_large(path: Path, size_bytes: int) -> str:
    return (
        f"'{path}' holds {size_bytes / 1e9:.1f} GB of model and weights; the limit is 2 GB (2147483647 bytes): "
        "compile it in parts"
    )


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """Reads tensors kept in files beside the model; refuses totals over 2 GB before reading them."""
    tensors = [t for t in external_data_helper._get_all_tensors(proto) if external_data_helper.uses_external_data(t)]
    total = proto.ByteSize()
    for tensor in tensors:
        total += math.prod(tensor.dims) * max(1, _item_bytes(tensor.data_type))
    if total > LARGEST_MODEL_BYTES:
        raise UserError(_too_large(path, total))
    for tensor in tensors:
        info = {entry.key: entry.value for entry in tensor.external_data}
        beside = path.parent / info.get("location", "")
        if not beside.is_file():
            raise UserError(
                f"tensor '{tensor.name}' is stored in '{info.get('location', '')}', which is missing beside '{path}'; "
                "copy that file next to the model"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
            numpy_helper.to_array(tensor)
        except (OSError, ValueError, TypeError, onnx.checker.ValidationError) as err:
            raise UserError(
                f"tensor '{tensor.name}': its external data in '{beside}' is truncated or unreadable ({one_line(err)})"
            ) from err


def _item_bytes(data_type: int) -> int:
    try:
        return helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except (KeyError, TypeError, ValueError):
        return 1


def checked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with local functions inlined, after ONNX's checker, the opset range and the domains."""
    if not all(isinstance(text, str) for text in _names(proto)):
        raise UserError("the model is damaged: it holds names that are not UTF-8")
    proto = spelled_out(proto)
    if not proto.graph.name:
        proto.graph.name = "model"
    outputs = [info.name for info in proto.graph.output]
    twice = next((name for name in outputs if outputs.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"the model names its output '{twice}' twice; export it with a name for each")
    if not proto.graph.node or not proto.graph.output:
        raise UserError("the model is empty: its graph has no nodes or no outputs")
    opset, newest = _opset(proto), onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise UserError(f"the model uses opset {opset}; supported are 1 to {newest}: export it again at opset 13 to 21")
    if opset < OLDEST_OPSET:
        proto = _converted(proto, opset)
        opset = OLDEST_OPSET
    for node in proto.graph.node:
        if node.domain not in DOMAINS and not (contrib.is_known(node) or contrib.is_border(node)):
            name = node.name or next(iter(node.output), "")
            raise UserError(
                f"node '{name}': operator {node.op_type} of domain '{node.domain}' is not supported; "
                f"export the model with standard ONNX operators only"
            )
    _fill_resize_operands(proto, opset)
    # Exporters leave out shapes of inputs and outputs; the checker wants them, inference here does without.
    unshaped = [
        i.type.tensor_type
        for i in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
        if i.type.HasField("tensor_type") and not i.type.tensor_type.HasField("shape")
    ]
    for tensor in unshaped:
        tensor.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as err:
        raise UserError(f"the model breaks the ONNX standard: {one_line(err)}") from err
    for tensor in unshaped:
        tensor.ClearField("shape")
    return proto


def _opset(proto: onnx.ModelProto) -> int:
    return max((o.version for o in proto.opset_import if o.domain in DOMAINS), default=0)


def _converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model of an old opset at OLDEST_OPSET. The converter wants every initializer among the inputs, as files had it then."""
    for node in proto.graph.node:
        if node.op_type == "PRelu" or any(a.name == "axis" for a in node.attribute) and _broadcasts(node):
            raise UserError(
                f"node '{node.name or node.output[0]}': {node.op_type} of opset {opset} broadcasts along an axis of its own, "
                "which ONNX's converter to newer opsets gets wrong: export the model again at opset 13 to 21"
            )
    inputs = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name not in inputs:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    refused = (onnx.shape_inference.InferenceError, version_converter.ConvertError, onnx.checker.ValidationError)
    try:
        return version_converter.convert_version(proto, OLDEST_OPSET)
    except (RuntimeError, ValueError, *refused) as err:
        raise UserError(
            f"the model uses opset {opset}, and ONNX's converter cannot bring it to {OLDEST_OPSET} ({one_line(err)}): "
            "export it again at opset 13 to 21"
        ) from err


def _broadcasts(node: onnx.NodeProto) -> bool:
    return any(a.name == "broadcast" and a.i for a in node.attribute)


def _fill_resize_operands(proto: onnx.ModelProto, opset: int) -> None:
    """Before opset 13 Resize has no optional operands, yet exporters leave `roi` and `scales` out; empty ones say the same."""
    for node in proto.graph.node:
        if node.op_type == "Resize" and 11 <= opset < 13 and "" in node.input[1:3]:
            name = fresh_name(f"{node.output[0]}_none", {t.name for t in proto.graph.initializer})
            proto.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), name))
            for position in (1, 2):
                if not node.input[position]:
                    node.input[position] = name


def _names(proto: onnx.ModelProto) -> Iterator[object]:
    """Every name in the main graph; protobuf gives bytes instead of a string where one is not UTF-8."""
    graph = proto.graph
    yield graph.name
    for entry in (*proto.opset_import, *graph.node):
        yield entry.domain
    for tensor in (*graph.initializer, *graph.input, *graph.output):
        yield tensor.name
    for info in (*graph.input, *graph.output):
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    for node in graph.node:
        yield from (node.name, node.op_type, *node.input, *node.output, *(a.name for a in node.attribute))


def graph_of(proto: onnx.ModelProto, input_shapes: dict[str, tuple[int, ...]]) -> Graph:
    """The graph with static input types and a unique name for every node; tensors not yet inferred."""
    if proto.graph.sparse_initializer:
        raise UserError(f"tensor '{proto.graph.sparse_initializer[0].values.name}' is sparse; store it densely")
    try:
        consts = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    except (ValueError, TypeError, KeyError) as err:
        raise UserError(f"an initializer of the model is damaged: {one_line(err)}") from err
    inputs = [i for i in proto.graph.input if i.name not in consts]
    exact = [i for i in inputs if _is_static(i) and i.name not in input_shapes] if _means_zero(proto) else []
    types = _input_types(inputs, input_shapes, {i.name: _exact_type(i) for i in exact})
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    return Graph(
        nodes=_named(proto.graph.node, types),
        consts=consts,
        types=types,
        inputs=tuple(i.name for i in inputs),
        outputs=tuple(o.name for o in proto.graph.output),
        opsets=tuple(sorted(opsets.items())),
        ir_version=max(proto.ir_version, FIRST_IR_OF_CONSTANTS),
        name=proto.graph.name,
        declared=_declared(proto)
        if all(_is_static(i) for i in inputs) and not _overridden(proto, input_shapes)
        else {},
    )


def _overridden(proto: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The inputs that the model fixes at other sizes than `input_shapes` gives, in words; empty if there are none."""
    dims = {i.name: i.type.tensor_type.shape.dim for i in proto.graph.input}
    stated = {name: [d.dim_value for d in each] for name, each in dims.items()}
    return ", ".join(
        f"'{name}' from [{', '.join(d.dim_param or str(d.dim_value) for d in dims[name])}] to {list(given)}"
        for name, given in input_shapes.items()
        if name in stated
        and len(stated[name]) == len(given)
        and any(was not in (0, now) for was, now in zip(stated[name], given, strict=True))
    )


def _means_zero(proto: onnx.ModelProto) -> bool:
    """Whether a size of 0 is one: where the file reshapes to such sizes, or holds no weights. Exporters of networks
    write 0 for "not known"."""
    reshapes = any(
        n.op_type == "Reshape" and a.name == "allowzero" and a.i for n in proto.graph.node for a in n.attribute
    )
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return reshapes or not any(t.data_type in floats for t in proto.graph.initializer)


def _is_static(info: onnx.ValueInfoProto) -> bool:
    tensor = info.type.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)


def _exact_type(info: onnx.ValueInfoProto) -> TensorType:
    tensor = info.type.tensor_type
    return tuple(d.dim_value for d in tensor.shape.dim), tensor.elem_type


def _declared(proto: onnx.ModelProto) -> dict[str, TensorType]:
    """Static types that the model states for its outputs and intermediate tensors."""
    infos = [i for i in (*proto.graph.value_info, *proto.graph.output) if _is_static(i)]
    return {i.name: _exact_type(i) for i in infos}


def _input_types(
    inputs: list[onnx.ValueInfoProto], input_shapes: dict[str, tuple[int, ...]], exact: dict[str, TensorType]
) -> dict[str, TensorType]:
    """Static types of all inputs; those in `exact` are as the file states them."""
    names = [i.name for i in inputs]
    for name in input_shapes:
        if name not in names:
            raise UserError(f"--input-shapes names '{name}', which is not an input; inputs are {', '.join(names)}")
    for info in inputs:
        if not info.type.HasField("tensor_type"):
            raise NotStatic(f"input '{info.name}' is no tensor; sequences, maps and optionals cannot be compiled")
        kind = info.type.tensor_type.elem_type
        if kind in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
            label = onnx.TensorProto.DataType.Name(kind)
            raise UserError(f"input '{info.name}' has element type {label}; only numbers can be compiled")
    # One symbol stands for one size throughout the model, so whatever fixes it once fixes it everywhere.
    known: dict[str, int] = {}
    for info in inputs:
        shape = info.type.tensor_type.shape
        given = input_shapes.get(info.name)
        for axis, dim in enumerate(shape.dim):
            if dim.dim_param and given is not None and axis < len(given):
                known.setdefault(dim.dim_param, given[axis])
    for info in inputs:
        dims = info.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            known.setdefault(dims[0].dim_param, 1)
    return {
        i.name: exact.get(i.name) or (_input_shape(i, input_shapes.get(i.name), known), i.type.tensor_type.elem_type)
        for i in inputs
    }


def _input_shape(info: onnx.ValueInfoProto, given: tuple[int, ...] | None, known: Mapping[str, int]) -> tuple[int, ...]:
    """The static shape of one input; `known` maps symbols to sizes."""
    name = info.name
    tensor = info.type.tensor_type
    if given is not None and any(size < 1 for size in given):
        raise UserError(f"--input-shapes gives {list(given)} for input '{name}'; sizes must be at least 1")
    if not tensor.HasField("shape"):
        if given is None:
            raise UserError(f"input '{name}' has no shape in the model; give --input-shapes \"{name}:[1,3,224,224]\"")
        return tuple(int(size) for size in given)
    declared = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    symbols = [d.dim_param or "?" for d in tensor.shape.dim]
    shown = [s if v is None else v for v, s in zip(declared, symbols, strict=True)]
    shown_text = "[" + ",".join(str(s) for s in shown) + "]"
    if given is not None and len(given) != len(declared):
        raise UserError(
            f"--input-shapes gives {len(given)} dimensions for input '{name}', the model has {len(declared)}: "
            f"{shown_text}"
        )
    shape = []
    for axis, (size, symbol) in enumerate(zip(declared, symbols, strict=True)):
        wanted = None if given is None else int(given[axis])
        fixed = wanted if wanted is not None else size if size is not None else known.get(symbol)
        if fixed is None and axis == 0:
            fixed = 1
        if fixed is None:
            example = ",".join(str(v if v is not None else 1 if k == 0 else 224) for k, v in enumerate(declared))
            raise UserError(
                f"input '{name}' has the symbolic dimension '{symbol}' on axis {axis} of {shown_text}; fix it with "
                f'--input-shapes "{name}:[{example}]"'
            )
        shape.append(fixed)
    return tuple(shape)


def _named(nodes: list[onnx.NodeProto], inputs: Mapping[str, TensorType]) -> tuple[onnx.NodeProto, ...]:
    """Unique names, different from the inputs' too (ranges are keyed by either); unnamed nodes take their output's."""
    taken = set(inputs)
    named = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.domain = "" if node.domain == "ai.onnx" else node.domain
        copy.name = fresh_name(node.name or next((o for o in node.output if o), node.op_type), taken)
        taken.add(copy.name)
        named.append(copy)
    return tuple(named)
