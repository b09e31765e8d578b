"""LSTM, GRU and RNN spelled out, against ONNX Runtime's own."""

import numpy as np
import onnx
import pytest

import qaccel
from frontend.checks import assert_equals_onnx_runtime, f, onnx_ops
from frontend.onnx_models import model, node, ort_run
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx
from tiers import wide_after

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def network(kind: str, direction: str, *, steps=5, batch=2, bias=True, start="none", opset=17, **attrs):
    """X [steps, batch, 6] through one layer of hidden size 4; all of its outputs."""
    hidden, ways, gates = 4, 2 if direction == "bidirectional" else 1, GATES[kind]
    consts = {"w": f(ways, gates * hidden, 6), "r": f(ways, gates * hidden, hidden)}
    inputs, shapes = ["x", "w", "r", ""], {"x": (steps, batch, 6)}
    if bias:
        consts["b"], inputs[3] = f(ways, 2 * gates * hidden), "b"
    if start != "none":
        inputs.append("")
        for name in ("h", "c")[: 2 if kind == "LSTM" else 1]:
            inputs.append(name)
            if start == "constant":
                consts[name] = f(ways, batch, hidden)
            else:
                shapes[name] = (ways, batch, hidden)
    outputs = ("y", "y_h", "y_c")[: 3 if kind == "LSTM" else 2]
    layer = node(kind, inputs, list(outputs), name="layer", hidden_size=hidden, direction=direction, **attrs)
    return model([layer], consts, shapes, outputs, opset=opset)


@pytest.mark.parametrize("direction", wide_after(1, ["bidirectional", "forward", "reverse"]))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {}), ("LSTM", {"start": "computed", "bias": False}), ("LSTM", {"start": "constant", "opset": 11}),
        ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("GRU", {"start": "computed", "linear_before_reset": 1}),
        ("GRU", {"start": "constant", "bias": False}), ("RNN", {"start": "computed"}), ("RNN", {"bias": False}),
    ],
)  # fmt: skip
def test_equals_onnx_runtime(kind, direction, options):
    imported = assert_equals_onnx_runtime(network(kind, direction, **options))
    assert kind not in onnx_ops(imported)


def test_on_the_accelerator():
    """Nothing is left to the CPU, and 16 bits are close to float."""
    proto = network("LSTM", "bidirectional", batch=1)
    data = {"x": np.random.default_rng(1).standard_normal((5 * 8, 1, 6)).astype(np.float32)}
    module = qaccel.compile(proto, calibration_data=data, bits="W16A16")
    assert module.report["fallback"] == [] and module.report["subgraphs"] == 1
    one = {"x": data["x"][:5]}
    for name, wanted in ort_run(proto, one).items():
        error = np.square(module.run(one)[name] - wanted).sum()
        assert 10 * np.log10(np.square(wanted).sum() / error) > 50


def test_what_is_refused_by_name():
    lengths = network("LSTM", "forward")
    lengths.graph.node[0].input.append("lengths")
    lengths.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5, 3], "i4"), "lengths"))
    computed = network("LSTM", "forward", batch=1)
    computed.graph.node[0].input.append("lengths")
    computed.graph.input.append(onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [1]))
    for proto, said in (
        (network("LSTM", "forward", steps=600), "LSTM has 600 steps; at most 512 compile: give shorter --input-shapes"),
        (network("GRU", "forward", clip=0.5), "GRU has the attribute clip; export it without"),
        (
            network("RNN", "forward", activations=["Softplus"]),
            "the activation Softplus; Sigmoid, Tanh and Relu compile",
        ),
        (lengths, r"LSTM has sequence_lens \[5, 3\]; only sequences of all 5 steps compile"),
        (computed, "LSTM compiles where 'lengths' is a constant.*fix it with --input-values \"lengths:VALUE\""),
    ):
        with pytest.raises(QaccelError, match=f"node 'layer': .*{said}"):
            import_onnx(proto)
