"""Operators that ONNX or the import spells with others, and normalizations on the CPU between layers of the accelerator."""

import numpy as np
import onnx
import pytest

import qaccel
from cases.nets import Net, assert_close, decibels, floats, floats_of, ints, macs_on_the_cpu, normal, outputs, weights

pytestmark = pytest.mark.wide  # whole compilations
GAIN, BIAS = (np.random.default_rng(k).normal(size=16).astype("f4") for k in (1, 2))
# By name: the opset, and the node behind the first layer.
BETWEEN = {
    "MeanVarianceNormalization": (13, lambda net, y: net("MeanVarianceNormalization", y)),
    "MeanVarianceNormalization of all": (13, lambda net, y: net("MeanVarianceNormalization", y, axes=[1, 2, 3])),
    "GroupNormalization": (21, lambda net, y: net("GroupNormalization", y, GAIN, BIAS, num_groups=4)),
    "GroupNormalization of one group": (21, lambda net, y: net("GroupNormalization", y, GAIN, BIAS, num_groups=1)),
    "InstanceNormalization": (17, lambda net, y: net("InstanceNormalization", y, GAIN, BIAS)),
    "LpNormalization": (17, lambda net, y: net("LpNormalization", y, axis=1, p=2)),
    "LRN": (17, lambda net, y: net("LRN", y, size=5)),
    "Einsum": (17, lambda net, y: net("Einsum", y, weights(16, 16), equation="nchw,cd->ndhw")),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_between_two_layers(name):
    opset, between = BETWEEN[name]
    net = Net(opset)
    before = net("Conv", "x", weights(16, 8, 3, 3), np.zeros(16, "f4"), pads=[1] * 4)
    net("Conv", between(net, before), weights(4, 16, 1, 1), out="y")
    model = net.model({"x": [1, 8, 8, 8]}, {"y": [1, 4, 8, 8]})
    data, test = ({"x": normal(8, 8, 8, samples=n, seed=n)} for n in (16, 3))
    module = assert_close(model, data, test, "16")
    assert macs_on_the_cpu(module) == {}
    assert [each["op"] for each in module.report["fallback"]][:1] == ([] if name == "Einsum" else [_runs_as(name)])


def _runs_as(name: str) -> str:
    return {"LpNormalization": "ReduceL2"}.get(name, name.split(" ")[0])


@pytest.mark.parametrize("mode", ["nodata", "llvm"])
def test_a_norm_of_zero(mode):
    """What has the norm 0 stays 0; the least number that the divisor was kept above became 0 itself in integers."""
    net = Net(17)
    net("LpNormalization", "x", out="y", axis=1, p=2)
    model = net.model({"x": [1, 4, 4]}, {"y": [1, 4, 4]})
    x = normal(4, 4, samples=1, seed=3)
    x[:, :, 1] = 0
    module = qaccel.compile(model, **({"target": "llvm"} if mode == "llvm" else {}))
    got = module.run({"x": x})["y"]
    assert np.all(got[:, :, 1] == 0) and decibels(floats_of(model, {"x": x}), got.ravel()) > 100


@pytest.mark.parametrize("is_causal", [0, 1])
def test_a_block_with_attention_of_opset_23(is_causal):
    """PyTorch writes it so; TVM's importer ended in `KeyError: 'num_heads'`."""
    net, width = Net(23, ir=11), 32
    ones, zeros = np.ones(width, "f4"), np.zeros(width, "f4")
    within = net("LayerNormalization", "x", ones, zeros)
    parts = [net("Add", net("MatMul", within, weights(width, width, seed=k)), zeros) for k in range(3)]
    mixed = net("Attention", *parts, q_num_heads=4, kv_num_heads=4, is_causal=is_causal)
    net("Add", "x", net("MatMul", mixed, weights(width, width, seed=4)), out="y")
    model = net.model({"x": ["N", 16, width]}, {"y": ["N", 16, width]})
    data, test = ({"x": normal(16, width, samples=n, seed=n)} for n in (16, 3))
    module = qaccel.compile(model, calibration_data=data, bits="W16A16")
    assert decibels(floats(model, test), outputs(module, test)) >= 60
    assert len(macs_on_the_cpu(module)) == 2  # the products of two activations


def test_an_attention_in_a_branch_is_refused_by_name():
    """ONNX's inliner knows no types of what a branch holds."""
    inner = onnx.helper.make_node("Attention", ["x", "x", "x", "mask"], ["a"], "inner", q_num_heads=4, kv_num_heads=4)
    mask = onnx.numpy_helper.from_array(np.zeros((4, 4), "f4"), "mask")
    info = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 4, 32])
    branch = onnx.helper.make_graph([inner], "branch", [], [info], [mask])
    net = Net(23, ir=11)
    net("If", net.const(np.array(True)), out="y", then_branch=branch, else_branch=branch)
    with pytest.raises(qaccel.UserError, match=r"node 'inner': Attention cannot be spelled .* opset"):
        qaccel.compile(net.model({"x": [1, 4, 32]}, {"y": [1, 4, 32]}), target="llvm")


def test_results_and_inputs_without_values():
    """A Slice beyond the end gives nothing, which is no piece to move; an input of no values is refused with the way out."""
    net = Net(17)
    net("Slice", "x", ints(40), ints(50), ints(2), out="y")
    model = net.model({"x": [1, 3, 8]}, {"y": [1, 3, 0]})
    x = normal(3, 8, samples=1, seed=5)
    assert qaccel.compile(model).run({"x": x})["y"].shape == (1, 3, 0)
    net = Net(17)
    net("Concat", "x", "z", out="y", axis=1)
    empty = net.model({"x": [1, 3, 4], "z": [1, 0, 4]}, {"y": [1, 3, 4]})
    for how in ({}, {"target": "llvm"}):
        with pytest.raises(
            qaccel.UserError, match=r"input 'z' of shape \[1, 0, 4\] holds no values; .* --input-shapes"
        ):
            qaccel.compile(onnx.ModelProto.FromString(empty.SerializeToString()), **how)


def test_outputs_of_one_node_at_8_bits():
    """TopK's two share a name; their ranges are none of one tensor."""
    net = Net(17)
    before = net("Conv", "x", weights(4, 3, 3, 3))
    net.nodes.append(onnx.helper.make_node("TopK", [before, net.const(ints(2))], ["y", "at"], "topk"))
    int64 = onnx.TensorProto.INT64
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 2], "at": (int64, [1, 4, 6, 2])})
    data, test = ({"x": normal(3, 8, 8, samples=n, seed=n)} for n in (16, 3))
    assert_close(model, data, test, "8")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_what_changes_nothing_costs_nothing(op):
    """A mask of zeros, a scale of ones, as definitions and exporters write them; ones that repeat the values stay."""
    net = Net(17)
    neutral = np.full((4, 6, 6), 1 if op in ("Mul", "Div") else 0, "f4")
    net("Relu", net(op, net("Conv", "x", weights(4, 3, 3, 3)), neutral), out="y")
    wider = net("Add", net("GlobalAveragePool", "x"), np.zeros((1, 3, 2, 2), "f4"), out="z")
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6], wider: [1, 3, 2, 2]})
    data, test = ({"x": normal(3, 8, 8, samples=n, seed=n)} for n in (16, 3))
    module = assert_close(model, data, test, "8")
    assert [each["op"] for each in module.report["layers"]].count(op) == (op == "Add")
    assert module.run({"x": test["x"][:1]})["z"].shape == (1, 3, 2, 2)
