"""TFLite files: sparse and float16 weights, EXPAND_DIMS, and what does not compile, each in one line that names it."""

import importlib.util

import numpy as np
import pytest

import qaccel
from cases.nets import decibels, macs_on_the_cpu, normal, weights
from qaccel.cli.main import main

if importlib.util.find_spec("tflite") is None or importlib.util.find_spec("flatbuffers") is None:
    pytest.skip("the packages tflite and flatbuffers are not installed", allow_module_level=True)

from cases.tflite_files import Operator, Sparse, Tensor, fully_connected, written

RELU = Operator("RELU", ["x"], ["y"])


def _compiled(data: bytes, folder, samples: np.ndarray) -> qaccel.Module:
    (folder / "m.tflite").write_bytes(data)
    return qaccel.compile(folder / "m.tflite", calibration_data={"x": samples}, bits=8)


def _refusal(data: bytes, folder, capsys) -> str:
    """The one line that the command says, which exits with 1."""
    (folder / "m.tflite").write_bytes(data)
    assert main(["compile", str(folder / "m.tflite"), "--target=qaccel", "-o", str(folder / "m.so")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("block", [1, 4])
def test_sparse_weights(block, half, tmp_path):
    """DENSIFY alone, and before the DEQUANTIZE that makes float16 weights float32."""
    matrix = weights(16, 6).T.astype("f2" if half else "f4")  # [6, 16]
    kept = np.random.default_rng(1).random((6, 16 // block)) < 0.5
    matrix = matrix * np.repeat(kept, block, axis=1)
    dtype = "float16" if half else "float32"
    tensors = [
        Tensor("x", (1, 16)), Tensor("s", (6, 16), dtype, Sparse(matrix, block)), Tensor("d", (6, 16), dtype),
        Tensor("w", (6, 16)), Tensor("b", (6,), value=weights(1, 6)[0]), Tensor("y", (1, 6)),
    ]  # fmt: skip
    operators = [Operator("DENSIFY", ["s"], ["d"])] + [Operator("DEQUANTIZE", ["d"], ["w"])] * half
    operators.append(Operator("FULLY_CONNECTED", ["x", "w" if half else "d", "b"], ["y"], fully_connected))
    module = _compiled(written(tensors, operators, ["x"], ["y"]), tmp_path, normal(16, samples=128, seed=1))
    assert macs_on_the_cpu(module) == {}
    x = normal(16, samples=8, seed=2, gain=0.8)
    wanted = x @ matrix.astype("f4").T + weights(1, 6)[0]
    got = np.concatenate([next(iter(module.run({"x": row[None]}).values())) for row in x])
    assert decibels(wanted, got) >= 30


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_expand_dims(axis, tmp_path):
    result = {0: (1, 1, 4, 8), 1: (1, 1, 4, 8), -1: (1, 4, 8, 1)}[axis]
    tensors = [
        Tensor("x", (1, 4, 8)), Tensor("a", (1,), "int32", np.array([axis])), Tensor("e", result), Tensor("y", result),
    ]  # fmt: skip
    operators = [Operator("EXPAND_DIMS", ["x", "a"], ["e"]), Operator("RELU", ["e"], ["y"])]
    module = _compiled(written(tensors, operators, ["x"], ["y"]), tmp_path, normal(4, 8, samples=32, seed=1))
    x = normal(4, 8, samples=1, seed=2, gain=0.8)
    got = next(iter(module.run({"x": x}).values()))
    assert got.shape == result and decibels(np.maximum(x, 0).reshape(result), got) >= 30


def test_a_custom_operator_is_named(tmp_path, capsys):
    tensors = [Tensor("x", (1, 8)), Tensor("y", (1, 8))]
    data = written(tensors, [Operator("CUSTOM", ["x"], ["y"], custom="MaxPoolingWithArgmax2D")], ["x"], ["y"])
    assert "custom operator 'MaxPoolingWithArgmax2D'" in _refusal(data, tmp_path, capsys)


@pytest.mark.parametrize("name", ["IF", "WHILE", "CALL", "STABLEHLO_WHILE"])
def test_control_flow_is_named(name, tmp_path, capsys):
    tensors = [Tensor("x", (1, 8)), Tensor("c", (1,), "bool", np.array([True])), Tensor("y", (1, 8))]
    data = written(tensors, [Operator(name, ["c", "x"], ["y"])], ["x"], ["y"], graphs=2)
    assert f"operator {name} is control flow" in _refusal(data, tmp_path, capsys)


@pytest.mark.parametrize("name", ["VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"])
def test_a_state_between_runs_is_named(name, tmp_path, capsys):
    tensors = [Tensor("x", (1, 8)), Tensor("h", (1,), "resource"), Tensor("y", (1, 8))]
    data = written(tensors, [Operator(name, ["h"], ["h"]), RELU], ["x"], ["y"])
    line = _refusal(data, tmp_path, capsys)
    assert f"operator {name} keeps a state between runs" in line and "as an input and an output" in line


def test_a_variable_tensor_is_refused(tmp_path, capsys):
    tensors = [Tensor("x", (1, 8)), Tensor("state", (1, 8), variable=True), Tensor("y", (1, 8))]
    data = written(tensors, [RELU], ["x"], ["y"])
    assert "keeps a state between its runs in a variable tensor" in _refusal(data, tmp_path, capsys)


def test_an_operator_that_tvm_lacks_is_named(tmp_path, capsys):
    tensors = [Tensor("x", (1, 8)), Tensor("y", (1, 8))]
    data = written(tensors, [Operator("HASHTABLE_LOOKUP", ["x"], ["y"])], ["x"], ["y"])
    assert "HASHTABLE_LOOKUP" in _refusal(data, tmp_path, capsys).upper()


@pytest.mark.parametrize("data", [b"", b"TFL3", bytes(range(256)) * 4])
def test_a_damaged_file(data, tmp_path, capsys):
    assert "is not a TFLite model" in _refusal(data, tmp_path, capsys)
