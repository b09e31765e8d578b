"""Integer inputs and outputs: the same integers as the float module's, by the scales that the metadata states."""

import gc

import numpy as np
import pytest

import qaccel
from qaccel.errors import QaccelError
from quant.layers import model, node
from small_models import chain, samples, several
from tiers import wide_after

WEIGHT = np.random.default_rng(1).normal(0, 0.5, (4, 4, 1, 1)).astype(np.float32)


def compiled(made, dtype, data):
    return qaccel.compile(made, calibration_data=data, bits=8, io_dtype=dtype)


def to_integers(values, entry):
    limits = np.iinfo(entry["dtype"])
    steps = np.rint(values / np.float32(entry["scale"])) + entry["zero_point"]
    return np.clip(steps, limits.min, limits.max).astype(entry["dtype"])


@pytest.mark.parametrize("dtype", wide_after(1, ["uint8", "int8"]))
@pytest.mark.parametrize("made", [chain(), chain(batch=2), several()], ids=["chain", "batch of two", "several"])
def test_integers_are_those_of_the_float_module(made, dtype):
    data = samples(made, count=8)
    floating, integer = compiled(made, "float32", data), compiled(made, dtype, data)
    entries = {entry["name"]: entry for entry in integer.metadata["inputs"]}
    assert {entry["dtype"] for entry in entries.values()} == {dtype}
    result = integer.run({name: to_integers(value, entries[name]) for name, value in data.items()})
    expected = floating.run(data)
    for entry in integer.metadata["outputs"]:
        value = result[entry["name"]]
        assert value.dtype == dtype and value.shape == expected[entry["name"]].shape
        real = (value.astype(np.int32) - entry["zero_point"]).astype(np.float32) * np.float32(entry["scale"])
        np.testing.assert_array_equal(real, expected[entry["name"]])


def test_an_input_that_float_operators_read_as_well():
    """Softmax reads the real values of the same integers."""
    nodes = [node("Conv", "conv", ["x", "w"]), node("Softmax", "prob", ["x"], axis=1), node("Conv", "last", ["prob", "w"]),
             node("Add", "sum", ["conv", "last"])]  # fmt: skip
    made = model(nodes, {"x": (1, 4, 6, 6)}, ["sum"], {"w": WEIGHT})
    data = {"x": np.random.default_rng(0).normal(0, 1, (4, 4, 6, 6)).astype(np.float32)}
    floating, integer = compiled(made, "float32", data), compiled(made, "int8", data)
    (entry,), (out,) = integer.metadata["inputs"], integer.metadata["outputs"]
    given = to_integers(data["x"], entry)
    real = ((given.astype(np.int32) - entry["zero_point"]) * np.float32(entry["scale"])).astype(np.float32)
    expected = floating.run({"x": real})["sum"]
    value = (integer.run({"x": given})["sum"].astype(np.int32) - out["zero_point"]) * np.float32(out["scale"])
    np.testing.assert_array_equal(value.astype(np.float32), expected)


def test_float_ends_are_named(capfd):
    nodes = [node("Conv", "conv", ["x", "w"]), node("Softmax", "prob", ["conv"], axis=1)]
    made = model(nodes, {"x": (1, 4, 6, 6)}, ["prob"], {"w": WEIGHT})
    data = {"x": np.zeros((2, 4, 6, 6), np.float32) + np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1)}
    with pytest.raises(QaccelError, match="output 'prob' is no 8-bit integer"):
        compiled(made, "int8", data)
    gc.collect()
    assert "BlockBuilder" not in "".join(capfd.readouterr())  # TVM's word on a block that the error left open
    with pytest.raises(QaccelError, match="input 'x' has 16 bits"):
        qaccel.compile(chain(), io_dtype="int8")
    with pytest.raises(QaccelError, match="io-dtype int4 is unknown"):
        qaccel.compile(chain(), io_dtype="int4")
    with pytest.raises(QaccelError, match="is for quantization"):
        from qaccel.options import CompileOptions, parse_target
        from qaccel.pipeline import compile_model
        from qaccel.stages import Stages

        compile_model(chain(), CompileOptions(target=parse_target("llvm"), io_dtype="int8"), "m", Stages())


def test_indices_stay_as_they_are() -> None:
    """An int64 output beside a float one, which alone becomes integers."""
    nodes = [node("Conv", "c", ["x", "w"]), node("ArgMax", "best", ["c"], axis=1)]
    made = model(nodes, {"x": (1, 4, 3, 3)}, ["c", "best"], {"w": WEIGHT})
    made.graph.output[1].type.tensor_type.elem_type = 7
    x = np.random.default_rng(2).normal(size=(4, 4, 3, 3)).astype(np.float32)
    plain, whole = (compiled(made, dtype, {"x": x}) for dtype in ("float32", "int8"))
    assert [each["dtype"] for each in whole.metadata["outputs"]] == ["int8", "int64"]
    assert any("'best' stays int64" in each for each in whole.notes)
    entry = whole.metadata["inputs"][0]
    integers = np.clip(np.rint(x[:1] / np.float32(entry["scale"])) + entry["zero_point"], -128, 127).astype(np.int8)
    got, wanted = whole.run({"x": integers}), plain.run({"x": x[:1]})
    np.testing.assert_array_equal(got["best"], wanted["best"])
