"""Blocks that learn, beside the interpreter of integers and the float network; and what there is where PyTorch is missing."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from tvm.ir import assert_structural_equal

import qaccel
from networks import data
from qaccel.dialect.check import check_quantized
from qaccel.emulate.executor import execute
from qaccel.emulate.integers import run_model, run_quantized, run_stretch
from qaccel.errors import UserError
from qaccel.frontend.import_onnx import import_onnx
from qaccel.options import BitWidths
from qaccel.quant.calibrate.calibration import Calibration
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.passes import chosen_passes, run_passes
from qaccel.quant.passes.reconstruct import reconstruction
from qaccel.quant.passes.reconstruct.blocks import attrs_of, blocks_of
from qaccel.quant.passes.reconstruct.grids import learnable, with_grids
from qaccel.quant.passes.reconstruct.reconstruction import MISSING_TORCH, has_torch, reconstruct_blocks
from qaccel.quant.passes.rounding import round_to_outputs
from qaccel.quant.quantize import quantize
from qaccel.relax_tools import bindings
from quant.layers import model, node, prepared

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the package torch is not installed")


def residual(seed: int, samples: int = 48):
    """A convolution, then an inverted residual and one without; imported, its ranges, and its samples."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {"lo": np.float32(0), "hi": np.float32(2)}
    nodes = []

    def conv(name: str, source: str, shape: tuple[int, ...], clip: bool, **how: object) -> str:
        constants[f"{name}_w"], constants[f"{name}_b"] = weights(*shape), 0.1 * weights(shape[0])
        nodes.append(node("Conv", name, [source, f"{name}_w", f"{name}_b"], kernel_shape=list(shape[2:]), **how))
        if clip:
            nodes.append(node("Clip", f"{name}_clip", [name, "lo", "hi"]))
        return f"{name}_clip" if clip else name

    stem = conv("stem", "x", (8, 4, 1, 1), False)
    wide = conv("expand", stem, (24, 8, 1, 1), True)
    deep = conv("depth", wide, (24, 1, 3, 3), True, pads=[1] * 4, group=24)
    nodes.append(node("Add", "sum", [conv("project", deep, (8, 24, 1, 1), False), stem]))
    last = conv("last", conv("again", "sum", (16, 8, 3, 3), True, pads=[0, 1, 1, 1]), (8, 16, 1, 1), False)
    return prepared(model(nodes, {"x": (1, 4, 8, 8)}, [last], constants), seed, samples)


def closed_form(imported, ranges, samples, bits: BitWidths):
    calibration = Calibration(ranges, samples, measured=True)
    return round_to_outputs(quantize(imported, ranges, bits), calibration), calibration


def error(q, samples) -> float:
    """Mean squared error of all outputs against the float model."""
    wanted = execute(q.model, samples)
    return float(np.mean([np.square(v - wanted[k]).mean() for k, v in run_model(q, samples).items()]))


def observed(q, samples) -> dict[str, np.ndarray]:
    """Every integer tensor by the interpreter, by the name of its call."""
    found: dict[str, list[np.ndarray]] = {}
    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, lambda name, value: found.setdefault(name, []).append(value.copy()))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def test_residuals_are_whole_and_few_layers_are_a_block(mobilenet_path) -> None:
    imported, ranges, _ = residual(0, 4)
    blocks = blocks_of(quantize(imported, ranges, BitWidths(4, 4)))
    assert [block.layers for block in blocks] == [(), ("stem",), ("expand", "depth", "project"), ("again", "last")]
    assert [block.name for block in blocks] == ["x", "stem", "sum", "last"]
    assert [block.regular for block in blocks] == [False, True, True, True]
    network = import_onnx(mobilenet_path)
    values = {network.inputs[0].name: data.load("calibration", 4)["images"]}
    quantized = quantize(network, calibrate(network, values), BitWidths(4, 8))
    blocks = blocks_of(quantized)
    assert [name for block in blocks for name in block.layers] == list(quantized.plan)
    assert max(len(block.layers) for block in blocks) == 3


@pytest.mark.parametrize("bits", [BitWidths(4, 8), BitWidths(4, 4), BitWidths(8, 16)])
def test_blocks_one_after_the_other_are_the_network(bits: BitWidths) -> None:
    imported, ranges, samples = residual(1, 6)
    quantized = quantize(imported, ranges, bits)
    expected = observed(quantized, samples)
    given = {quantized.mod["main"].params[0]: samples["x"]}
    for block in blocks_of(quantized):
        given = {block.output: run_stretch(quantized.mod, block.steps, given, block.output)}
        np.testing.assert_array_equal(given[block.output], expected[block.name])


def test_a_step_changes_where_it_is_made_and_where_it_is_read() -> None:
    imported, ranges, samples = residual(2, 4)
    quantized = quantize(imported, ranges, BitWidths(4, 4))
    steps = [step for block in blocks_of(quantized) if block.regular for step in block.steps]
    names = learnable(quantized.mod["main"], {step.var for step in steps})
    assert set(names.values()) == {"stem", "expand", "depth", "project", "sum", "again"}
    assert_structural_equal(with_grids(quantized.mod, {}), quantized.mod)
    old = {attrs.name: attrs for step in steps if (attrs := attrs_of(step)) is not None}
    new = replace(old["stem"].result, scale=old["stem"].result.scale * 0.5)
    changed = with_grids(quantized.mod, {"stem": new})
    check_quantized(changed)
    found = {attrs.name: attrs for attrs in map(attrs_of, bindings(changed["main"])[:-2]) if attrs is not None}
    assert found["stem"].result == found["expand"].source == found["sum"].b == new
    same = ("depth", "project", "again", "last")
    assert [found[name] for name in same] == [old[name] for name in same]
    # Whoever computes with the wrong scale is twice off.
    inputs = {quantized.mod["main"].params[0].name: samples["x"]}
    made = {}
    run_quantized(changed, inputs, lambda name, value: made.setdefault(name, value))
    q = found["stem"].result
    inside = np.abs(made["stem"].astype(int) - q.zero_point) < 7
    before = observed(quantized, samples)["stem"].astype(int) - old["stem"].result.zero_point
    off = (made["stem"].astype(int) - q.zero_point) * q.scale - before * old["stem"].result.scale
    assert np.abs(off[inside]).max() < 0.76 * old["stem"].result.scale


def test_steps_that_are_handed_on_stay() -> None:
    """A maximum hands its operand's step on, a table has it in its entries, and what the user reads stays at 8 bits."""
    rng = np.random.default_rng(3)
    constants = {name: rng.normal(size=(8, 8, 1, 1)).astype(np.float32) for name in ("v", "w", "u")}
    nodes = [
        node("Conv", "first", ["x", "v"]),
        node("MaxPool", "most", ["first"], kernel_shape=[2, 2]),
        node("Conv", "second", ["most", "w"]),
        node("Sigmoid", "curved", ["second"]),
        node("Conv", "third", ["curved", "u"]),
    ]
    imported, ranges, _ = prepared(model(nodes, {"x": (1, 8, 8, 8)}, ["third"], constants))
    quantized = quantize(imported, ranges, BitWidths(4, 4))
    steps = [step for block in blocks_of(quantized) for step in block.steps]
    assert not learnable(quantized.mod["main"], {step.var for step in steps})


@pytest.mark.parametrize("bits", [BitWidths(4, 8), BitWidths(8, 4), BitWidths(8, 8)])
def test_without_torch_the_network_stays_and_a_note_says_so(monkeypatch, bits: BitWidths) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert not has_torch()
    imported, ranges, samples = residual(4, 4)
    quantized, calibration = closed_form(imported, ranges, samples, bits)
    same = reconstruct_blocks(quantized, calibration)
    assert same.mod.same_as(quantized.mod)
    assert list(same.notes) == ([] if bits == BitWidths(8, 8) else [f"reconstruction is left out: {MISSING_TORCH}"])
    monkeypatch.setattr("qaccel.quant.passes.has_torch", has_torch)
    with pytest.raises(UserError, match="^--passes reconstruction: PyTorch is not installed; pip install .*, or leave"):
        chosen_passes(["rounding", "reconstruction"])


def test_while_bits_are_searched_it_is_left_out_and_a_note_says_so() -> None:
    imported, ranges, samples = residual(5, 4)
    quantized, calibration = closed_form(imported, ranges, samples, BitWidths(4, 8))
    made = run_passes(quantized, calibration, ["reconstruction"], searching=True) if has_torch() else None
    made = made or run_passes(quantized, calibration, effort="best", searching=True)
    assert any(note.startswith("reconstruction: it takes minutes and is left out") for note in made.notes)


@needs_torch
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [BitWidths(4, 8), BitWidths(4, 4), BitWidths(8, 8), BitWidths(8, 16)])
def test_what_is_simulated_is_what_the_interpreter_computes(seed: int, bits: BitWidths) -> None:
    """But next to ties, where float32 may fall on the other side."""
    from qaccel.quant.passes.reconstruct.learning import delivered
    from qaccel.quant.passes.reconstruct.simulated import Simulated

    imported, ranges, samples = residual(seed, 8)
    quantized, _ = closed_form(imported, ranges, samples, bits)
    expected = observed(quantized, samples)
    blocks = blocks_of(quantized)
    for before, block in zip(blocks, blocks[1:], strict=False):
        own = Simulated(block, quantized.real, [step.var for step in block.steps])
        made = delivered(own, expected[before.name], before.result, block.result)
        off = np.abs(made.astype(int) - expected[block.name])
        assert made.dtype == expected[block.name].dtype and off.max() <= 1 and (off > 0).mean() < 2e-3


@needs_torch
def test_calls_without_weights_are_simulated_too() -> None:
    """Each kind beside the interpreter: products, differences, both pools, tables, an operand that is repeated."""
    from qaccel.quant.passes.reconstruct.learning import delivered
    from qaccel.quant.passes.reconstruct.simulated import Simulated

    rng = np.random.default_rng(6)
    constants = {name: rng.normal(size=(8, 8, 1, 1)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        node("Conv", "first", ["x", "v"]),
        node("Sigmoid", "curved", ["first"]),
        node("Mul", "product", ["first", "curved"]),
        node("GlobalAveragePool", "squeezed", ["product"]),
        node("Mul", "excited", ["product", "squeezed"]),
        node("Sub", "less", ["excited", "first"]),
        node("Max", "greater", ["less", "product"]),
        node("Min", "lesser", ["greater", "excited"]),
        node("MaxPool", "most", ["lesser"], kernel_shape=[3, 3], pads=[1] * 4),
        node("AveragePool", "mean", ["most"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", "last", ["mean", "w"]),
    ]
    imported, ranges, samples = prepared(model(nodes, {"x": (1, 8, 8, 8)}, ["last"], constants), 6, 8)
    quantized = quantize(imported, ranges, BitWidths(8, 8))
    expected, blocks = observed(quantized, samples), blocks_of(quantized)
    seen: set[object] = set()
    for before, block in zip(blocks, blocks[1:], strict=False):
        assert block.regular
        made = delivered(Simulated(block, {}, ()), expected[before.name], before.result, block.result)
        off = np.abs(made.astype(int) - expected[block.name])
        assert off.max() <= 1 and (off > 0).mean() < 2e-3
        seen |= {getattr(attrs, "kind", type(attrs).__name__) for attrs in block.attrs}
    assert seen == {"ConvAttrs", "TableAttrs", "mul", "sub", "max", "min", "avg"}


def gain(seed: int, bits: BitWidths) -> float:
    """The error on samples that nothing was learned from, over that of rounding in closed form."""
    imported, ranges, samples = residual(seed)
    quantized, calibration = closed_form(imported, ranges, samples, bits)
    unseen = {"x": np.random.default_rng(seed + 100).normal(0.2, 1, (64, 4, 8, 8)).astype(np.float32)}
    return error(reconstruct_blocks(quantized, calibration), unseen) / error(quantized, unseen)


@needs_torch
@pytest.mark.parametrize(("bits", "most"), [(BitWidths(4, 8), 1.0), (BitWidths(4, 4), 0.9), (BitWidths(8, 4), 0.9)])
def test_held_out_error_is_less_than_that_of_the_closed_form(bits: BitWidths, most: float) -> None:
    """With activations of 8 bits there is little left to gain; then the network may stay as it is."""
    gains = [gain(seed, bits) for seed in (7, 8)]
    assert max(gains) <= most, gains


@needs_torch
def test_a_network_that_got_worse_stays_as_it_was(monkeypatch) -> None:
    """Samples that are held out judge the whole of it: here blocks end with other values than those that did best."""
    from qaccel.quant.passes.reconstruct import learning

    imported, ranges, samples = residual(10)
    quantized, calibration = closed_form(imported, ranges, samples, BitWidths(4, 4))
    right = learning._state
    monkeypatch.setattr(learning, "_state", lambda block: {name: x + 0.3 for name, x in right(block).items()})
    same = reconstruct_blocks(quantized, calibration)
    assert same.mod.same_as(quantized.mod) and "changes nothing" in same.notes[0]


@needs_torch
def test_a_wrong_target_is_found(monkeypatch) -> None:
    """What the quantized network itself gives, in the place of the float network's, teaches nothing: the test above would fail."""
    right = reconstruction._float_tensors

    def wrong(q, calibration, blocks):
        samples, _ = right(q, calibration, blocks)
        found = observed(q, samples)
        results = {block.name: block.result for block in blocks}
        return samples, {
            name: ((found[name].astype(np.float32) - each.zero_point) * each.scale).astype(np.float32)
            for name, each in results.items()
        }

    monkeypatch.setattr(reconstruction, "_float_tensors", wrong)
    assert gain(7, BitWidths(4, 4)) > 0.9


@needs_torch
@pytest.mark.parametrize("bits", ["W4A4", "W8A4"])
def test_compiled_it_gives_the_interpreters_integers(bits: str) -> None:
    """On the simulated machine, to the last one; and the same each time."""
    rng = np.random.default_rng(9)
    constants = {name: rng.normal(size=(8, 8, 1, 1)).astype(np.float32) for name in ("v", "w")}
    nodes = [node("Conv", "first", ["x", "v"]), node("Relu", "relu", ["first"]), node("Conv", "second", ["relu", "w"])]
    made = model(nodes, {"x": (1, 8, 6, 6)}, ["second"], constants)
    samples = {"x": rng.normal(size=(24, 8, 6, 6)).astype(np.float32)}
    plain, best, again = (
        qaccel.quantize(made, calibration_data=samples, bits=bits, effort=effort)
        for effort in ("default", "best", "best")
    )
    assert_structural_equal(best.quantized.mod, again.quantized.mod)
    with pytest.raises(ValueError):
        assert_structural_equal(best.quantized.mod, plain.quantized.mod)
    module = qaccel.compile(best)
    one = {"x": samples["x"][:1]}
    for name, value in run_model(best.quantized, one).items():
        np.testing.assert_array_equal(module.run(one)[name], value)


def test_what_one_sample_gains_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 samples that lose a little and one that gains more: the mean is lower, as it is by chance. Where all gain, it counts."""
    imported, ranges, samples = residual(0, 16)
    before, after = (quantize(imported, ranges, BitWidths(4, bits)) for bits in (4, 8))
    wanted = execute(imported, samples)

    def better(*errors: float) -> bool:
        """``errors`` of the first sample and of the others, where before all have 1."""

        def made(q, held):
            first, rest = errors if q is after else (1.0, 1.0)
            off = np.where(np.arange(16) == 0, first, rest)
            return {k: v + off.reshape(-1, *[1] * (v.ndim - 1)) for k, v in wanted.items()}

        monkeypatch.setattr(reconstruction, "run_model", made)
        return reconstruction._better(before, after, samples).mod.same_as(after.mod)

    assert better(0.9, 0.9) and not better(1.1, 1.1)
    assert (0.1**2 + 15 * 1.01**2) / 16 < 1 and not better(0.1, 1.01)
