"""Hand-written Relax: partitioned, built through the registered pipeline, beside TVM's own build of the same module."""

from itertools import product

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import qaccel
from qaccel.backend import register
from qaccel.errors import QaccelError
from qaccel.machine.artefact import Artefact
from qaccel.machine.isa import isa
from qaccel.npu.partition.partition import subgraph_functions

RNG = np.random.default_rng(0)


def small(batch_norm: bool = False, softmax: bool = False) -> tvm.IRModule:
    """conv, bias, (batch_norm,) relu, max_pool, (softmax,) conv, mean, matmul: x [1, 3, 16, 16] to [1, 5]."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 3, 16, 16), "float32"))

    def const(*shape: int, scale: float = 1.0) -> relax.Expr:
        return relax.const((RNG.normal(0, scale, shape)).astype(np.float32))

    with builder.function("main", [x]):
        with builder.dataflow():
            value = builder.emit(relax.op.nn.conv2d(x, const(8, 3, 3, 3, scale=0.2), padding=[1, 1, 1, 1]))
            value = builder.emit(relax.op.add(value, const(1, 8, 1, 1, scale=0.1)))
            if batch_norm:
                gain = relax.const(RNG.uniform(0.5, 1.5, 8).astype(np.float32))
                variance = relax.const(RNG.uniform(0.5, 1.5, 8).astype(np.float32))
                normal = builder.emit(relax.op.nn.batch_norm(value, gain, const(8), const(8), variance, axis=1))
                value = builder.emit(relax.TupleGetItem(normal, 0))
            value = builder.emit(relax.op.nn.relu(value))
            value = builder.emit(relax.op.nn.max_pool2d(value, [2, 2], [2, 2]))
            if softmax:
                value = builder.emit(relax.op.nn.softmax(value, axis=1))
            value = builder.emit(relax.op.nn.conv2d(value, const(6, 8, 1, 1, scale=0.4)))
            value = builder.emit(relax.op.mean(value, [2, 3]))
            out = builder.emit_output(relax.op.matmul(value, const(6, 5, scale=0.5)))
        builder.emit_func_output(out)
    return builder.get()


def run(executable: relax.VMExecutable, x: np.ndarray) -> np.ndarray:
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


def sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    return 10 * np.log10((reference**2).sum() / ((value - reference) ** 2).sum())


@pytest.mark.wide
@pytest.mark.parametrize(("batch_norm", "softmax"), list(product((True, False), repeat=2)))
def test_the_pipeline_builds_a_float_module(batch_norm: bool, softmax: bool) -> None:
    register()
    mod = small(batch_norm, softmax)
    x = RNG.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    expected = run(tvm.compile(relax.transform.DecomposeOpsForInference("main")(mod), "llvm"), x)
    target = tvm.target.Target({"kind": "llvm"})
    finish = tvm.transform.Sequential(
        [relax.get_pipeline("qaccel"), relax.transform.ToNonDataflow(), relax.transform.VMShapeLower()]
    )
    value = run(relax.build(mod, target, relax_pipeline=finish), x)
    assert value.shape == expected.shape
    assert sqnr_db(expected, value) > 34  # weights of 8 bits


def test_partition_keeps_the_signature_and_says_what_runs_where() -> None:
    mod = small(softmax=True)
    parts = qaccel.partition_for_qaccel(mod, "qaccel-64", input_range=(-1, 1))
    assert len(subgraph_functions(parts)) == 2
    (param,) = parts["main"].params
    assert (str(param.ty.dtype), [int(d) for d in param.ty.shape]) == ("float32", [1, 3, 16, 16])


def test_eight_bits_with_data() -> None:
    data = {"x": RNG.uniform(-1, 1, (8, 3, 16, 16)).astype(np.float32)}
    parts = qaccel.partition_for_qaccel(small(), calibration_data=data)
    (function,) = subgraph_functions(parts).values()
    assert str(function.params[0].ty.dtype) == "int8"


def test_what_cannot_be_taken_is_named() -> None:
    @I.ir_module
    class Symbolic:
        @R.function
        def main(x: R.Tensor(("n", 4), "float32")) -> R.Tensor(("n", 4), "float32"):
            with R.dataflow():
                y = R.nn.relu(x)
                R.output(y)
            return y

    with pytest.raises(QaccelError, match="'x' of the Relax module"):
        qaccel.partition_for_qaccel(Symbolic)
    with pytest.raises(QaccelError, match="main"):
        qaccel.partition_for_qaccel(tvm.IRModule())


@pytest.mark.parametrize(
    "target", ["qaccel", pytest.param("qaccel -config=qaccel-64, llvm -mcpu=x86-64", marks=pytest.mark.wide)]
)
def test_tvm_compile_knows_the_target(target: str) -> None:
    """It gives what the registered pipeline gives, with the accelerator's modules in it."""
    register()
    mod = small()
    x = RNG.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    expected = run(tvm.compile(mod, "llvm"), x)
    executable = tvm.compile(mod, target=target)
    (accelerator,) = [each for each in executable.mod.imports if each.kind == "qaccel"]
    config = "qaccel-64" if "qaccel-64" in target else "qaccel-256"
    assert Artefact.from_bytes(bytes(accelerator["get_artefact"]()), isa().version).hw.name == config
    value = run(executable, x)
    assert not np.array_equal(value, expected), "it ran in float"
    assert sqnr_db(expected, value) > 34


def test_tvm_compile_says_what_it_cannot_take() -> None:
    register()
    before = tvm.compile
    register()
    assert tvm.compile is before
    for mod, words in ((small(), {"relax_pipeline": "default"}), (tvm.IRModule(), {}), ("model.onnx", {})):
        with pytest.raises(QaccelError, match="qaccel.compile") as error:
            tvm.compile(mod, target="qaccel", **words)
        assert "\n" not in str(error.value)
    with pytest.raises(QaccelError, match="unknown kind 'cuda'"):
        tvm.compile(small(), target="qaccel, cuda")
