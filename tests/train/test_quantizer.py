"""QaccelQuantizer: programs that PT2E converts give the simulator's integers, layer by layer, with the bits of their plan."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qaccel
from cases.nets import macs_on_the_cpu
from qaccel.errors import UserError

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchao") is None:
    pytest.skip("the packages torch and torchao are not installed", allow_module_level=True)

import torch

from train import families, layers, networks

pytestmark = pytest.mark.slow  # torch alone takes seconds to export a network

# How far from a tie, in steps, a difference may be: the machine rounds the ratio of scales to float32, a 2^-24th of 2^7 or 2^15 steps.
NEAR_A_TIE = {4: 2e-5, 8: 2e-5, 16: 4e-3}
EQUAL = {
    4: 1e-4,
    8: 1e-4,
    16: 3e-4,
}  # which share may differ so; at 16 bits one in 5,000 lies that near a tie by chance
NETWORKS = {"residual": networks.residual, "mobile": networks.mobile}
MIXED = {
    "conv2d": {"weight_bits": 8, "activation_bits": 8},
    "conv2d_1": {"weight_bits": 4, "activation_bits": 8},
    "conv2d_2": {"weight_bits": 4, "activation_bits": 4},
    "conv2d_3": {"weight_bits": 8, "activation_bits": 16},
    "linear": {"weight_bits": 16, "activation_bits": 8},
}  # fmt: skip


def widths(module) -> list[tuple[int, int]]:
    made = [each for each in module.report["layers"] if each["macs"]]
    names = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    return [(each["weight_bits"], each["activation_bits"]) for each in made if each["op"] in names]


def assert_equal(program, folder: Path, shape, bits: int, count: int = 4, batch: int = 1) -> qaccel.Module:
    """The module of a converted program, after every rounded tensor of it was compared."""
    whole = layers.every_tensor(program)
    inputs = networks.samples((batch, *shape[1:]), count, seed=2)
    torch.export.save(torch.export.export(whole, (inputs[0],)), str(folder / "every.pt2"))
    module = qaccel.compile(folder / "every.pt2")
    assert module.report["fallback"] == []
    for each in layers.beside(program, module, inputs):
        assert each.most <= 1 and each.from_tie <= NEAR_A_TIE[bits], str(each)
        assert each.off <= 1 + EQUAL[bits] * each.size, str(each)
    return module


@pytest.mark.parametrize("plan", ["W8A8", "W4A8", "W4A4", "W8A16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_integers_of_the_simulator(name: str, plan: str, tmp_path: Path) -> None:
    program = networks.converted(networks.warmed(NETWORKS[name]()), plan)
    bits = int(plan.partition("A")[2])
    module = assert_equal(program, tmp_path, networks.SHAPE, bits)
    assert set(widths(module)) == {(int(plan[1]), bits)}


def test_a_mixed_plan_by_the_names_of_the_program(tmp_path: Path) -> None:
    net = networks.warmed(networks.residual())
    assert set(MIXED) <= set(qaccel.quantize(networks.exported(net)).plan)
    program = networks.converted(net, MIXED)
    assert_equal(program, tmp_path, networks.SHAPE, 16)
    plan = qaccel.quantize(torch.export.export(program, (torch.randn(networks.SHAPE),))).plan
    assert {name: plan[name] for name in MIXED} == MIXED


@pytest.mark.parametrize(("name", "plan"), [("residual", "W4A8"), ("mobile", "W8A8")])
def test_training_gives_the_integers_of_the_simulator(name: str, plan: str, tmp_path: Path) -> None:
    program = networks.converted(networks.warmed(NETWORKS[name]()), plan, training=True)
    assert_equal(program, tmp_path, networks.SHAPE, 8, batch=2)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_families_give_the_integers_of_the_simulator(name: str, tmp_path: Path) -> None:
    net, shape = families.built(name)
    assert_equal(networks.converted(net, "W4A8", shape), tmp_path, shape, 8)


@pytest.mark.parametrize(("plan", "opset"), [("W4A4", 18), ("W4A8", 21), ("W8A16", 21)])
def test_through_onnx_with_the_same_bits_and_integers(plan: str, opset: int, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("the package onnxscript, which torch.onnx needs, is not installed")
    program = networks.converted(networks.warmed(networks.mobile()), plan)
    (x,) = networks.samples(networks.SHAPE, 1, seed=3)
    torch.onnx.export(program, (x,), str(tmp_path / "m.onnx"), opset_version=opset, dynamo=True, verbose=False)
    modules = [qaccel.compile(tmp_path / "m.onnx"), qaccel.compile(torch.export.export(program, (x,)))]
    assert [macs_on_the_cpu(each) for each in modules] == [{}, {}]
    assert widths(modules[0]) == widths(modules[1])
    assert set(widths(modules[0])) == {(int(plan[1]), int(plan.partition("A")[2]))}
    first, second = (next(iter(each.run(x.numpy()).values())) for each in modules)
    np.testing.assert_array_equal(first, second)


def test_a_name_that_no_node_has() -> None:
    with pytest.raises(UserError, match=r"'conv2d_l'.*no such node; did you mean 'conv2d"):
        networks.converted(networks.residual(), {"conv2d_l": {"weight_bits": 4, "activation_bits": 8}})


def _no_least_integer_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations that stop one integer short of the machine's."""
    from qaccel.train import quantizer

    limits = quantizer.activation_limits
    monkeypatch.setattr(quantizer, "activation_limits", lambda bits: (limits(bits)[0] // 2, limits(bits)[1]))


def _no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases that are not brought to the machine's unit."""
    from qaccel.train import weights

    monkeypatch.setattr(weights._Layer, "set_bias", lambda layer, wanted: None)


def _one_rounding_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's result that is not rounded."""
    from qaccel.train import quantizer

    def without(*args):
        found = real(*args)
        return replace(found, tensors={name: bits for name, bits in found.tensors.items() if name != "sigmoid"})

    real = quantizer.grids_of
    monkeypatch.setattr(quantizer, "grids_of", without)


@pytest.mark.parametrize(
    ("fault", "family"),
    [(_no_bias, "relu"), (_one_rounding_less, "multiply")],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_seeded_faults_are_seen(fault, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    net, shape = families.built(family)
    with pytest.raises(AssertionError):
        assert_equal(networks.converted(net, "W4A8", shape), tmp_path, shape, 8)


def test_limits_are_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every activation of 8 bits has all 256 integers, and weights have no least one; a wrong limit is seen."""

    def limits() -> set[tuple[int, int]]:
        program = networks.converted(networks.warmed(networks.mobile()), "W4A8")
        return {
            tuple(node.args[-3:-1])
            for node in program.graph.nodes
            if "dequantize" in getattr(node.target, "__name__", "")
        }

    assert limits() == {(-128, 127), (-7, 7)}
    _no_least_integer_left_out(monkeypatch)
    assert limits() != {(-128, 127), (-7, 7)}
