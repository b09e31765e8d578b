"""Wide pixels: whatever is made as one, outputs are the same integers; a layer takes them where the machine is then quicker."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest

from npu.harness import equally_quick, run_artefact
from npu.layer_cases import WIDTHS, output_size, random_layer, random_pair, random_params, values, zero_point
from npu.oracle import run_graph
from npu.test_cascades import allocate, case, emitted
from qaccel.machine.hw import HwConfig, config_names, load_config
from qaccel.machine.isa import decode
from qaccel.machine.numerics import activation_limits, multiplier_and_shift
from qaccel.npu import codegen
from qaccel.npu.check.program import check_program
from qaccel.npu.codegen import CompiledSubgraph, compile_layers
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.layers import ConvLayer, ConvPart, CopyLayer, EltwiseLayer, FeatureMap, LayerGraph, TableLayer, Window
from qaccel.npu.lower import wide_pixels
from qaccel.npu.plan.post import with_posts

SEED = 20261130
HW = load_config("qaccel-256")
Pass = Callable[..., LayerGraph]


def plain(graph: LayerGraph, *_: object) -> LayerGraph:
    """No wide pixels."""
    return graph


def forced(rng: np.random.Generator) -> Pass:
    """Any number of pixels in one, whether it pays or not."""

    def widen(graph: LayerGraph, *_: object) -> LayerGraph:
        layers = list(graph.layers)
        for step, layer in enumerate(layers):
            y = graph.maps[layer.output]
            if not isinstance(layer, ConvLayer) or len(layer.parts) > 1 or y.c * y.bits % 8:
                continue
            if not wide_pixels._post_widens(layer, graph):
                continue
            counts = [n for n in range(2, min(y.w, 5) + 1) if len(layer.inputs) == 1 or y.w % n == 0]
            if counts:
                layers[step] = wide_pixels.widened(layer, int(rng.choice(counts)))
        return replace(graph, layers=tuple(layers))

    return widen


def compiled(graph: LayerGraph, hw: HwConfig, widen: Pass) -> CompiledSubgraph:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codegen, "with_wide_pixels", widen)
        return compile_layers(graph, hw)


def widths_of(graph: LayerGraph, hw: HwConfig) -> list[int]:
    """Pixels in one of each layer, as they are chosen."""
    graph = codegen._with_estimates(graph, hw)
    made = wide_pixels.with_wide_pixels(graph, hw, partial(codegen._turn_alone, graph, hw))
    return [layer.wide for layer in made.layers if isinstance(layer, ConvLayer)]


def convolution(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    channels: int,
    window: Window,
    bits: tuple[int, int, int] = (4, 8, 8),
) -> LayerGraph:
    """One convolution of a map [h, w, c], at the bits of weights, input and output."""
    weight_bits, in_bits, out_bits = bits
    half = (1 << (weight_bits - 1)) - 1
    x = FeatureMap("x", *size, in_bits, zero_point(rng, in_bits))
    y = FeatureMap("y", *output_size(window, *size[:2]), channels, out_bits, zero_point(rng, out_bits))
    weights = rng.integers(-half, half + 1, (channels, window.kernel_h, window.kernel_w, size[2])).astype(np.int32)
    params = random_params(rng, channels, in_bits + weight_bits - out_bits - 1 + np.log2(weights[0].size) / 2)
    limits = -(1 << (out_bits - 1)), (1 << (out_bits - 1)) - 1
    part = ConvPart(0, 0, weights.transpose(1, 2, 3, 0))
    layer = ConvLayer(
        "layer", "Conv", (0,), 1, *limits, window, weight_bits, (part,), params, weights, y.h * y.w * weights.size
    )
    return LayerGraph("main", (x, y), (layer,), (0,), (1,))


def between_copies(graph: LayerGraph) -> LayerGraph:
    """The same with a copy before it and one behind it, so that its own maps stay in SRAM."""
    x, y = graph.maps
    same = multiplier_and_shift(1.0)
    before = CopyLayer("before", "Copy", (2,), 0, *activation_limits(x.bits), *same)
    after = CopyLayer("after", "Copy", (1,), 3, *activation_limits(y.bits), *same)
    return LayerGraph(
        "main", (x, y, replace(x, name="in"), replace(y, name="out")), (before, *graph.layers, after), (2,), (3,)
    )


def layer_cycles(graph: LayerGraph, widen: Pass) -> int:
    """What the simulator counts for the middle one of three layers."""
    inputs = inputs_of(graph, np.random.default_rng(SEED))
    return run_artefact(compiled(graph, HW, widen).artefact, inputs, "cycle")[1]["layers"][1]["cycles"]


def inputs_of(graph: LayerGraph, rng: np.random.Generator) -> list[np.ndarray]:
    return [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]


def check(graph: LayerGraph, hw: HwConfig, rng: np.random.Generator, widen: Pass) -> None:
    inputs = inputs_of(graph, rng)
    expected = run_graph(graph, inputs)
    artefact = compiled(graph, hw, widen).artefact
    for mode in ("functional", "cycle"):
        for got, index in zip(run_artefact(artefact, inputs, mode)[0], graph.outputs, strict=True):
            np.testing.assert_array_equal(got, expected[index])


@pytest.mark.wide
@pytest.mark.parametrize("config", config_names())
def test_random_layers_give_the_same_integers(config: str) -> None:
    """Layers of every width, large ones that are cut too, with any number of pixels in one."""
    hw, done = load_config(config), 0
    for index in range(250):
        rng = np.random.default_rng([SEED, index, config_names().index(config)])
        graph = random_layer(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3], index % 5 == 0, hw)
        if not any(layer.wide > 1 for layer in forced(rng)(graph, hw).layers if isinstance(layer, ConvLayer)):
            continue
        done += 1
        try:
            check(graph, hw, rng, forced(rng))
        except Exception as error:
            raise AssertionError(f"case {config, index}") from error
    assert done > 50


def test_cascades_give_the_same_integers() -> None:
    """Stripes of wide pixels, cut into cascades anywhere, on machines with little SRAM."""
    cascades = 0
    for index in range(60):
        graph, hw, inputs = case(index)
        expected = run_graph(graph, inputs)
        wide = forced(np.random.default_rng([SEED, index]))(graph, hw)
        try:
            allocation = allocate(index, wide, hw)
            program = emitted(wide, allocation, hw)
            artefact = build_artefact(wide, allocation, program, hw)
            check_program(artefact, program.intent)
            for got, of in zip(run_artefact(artefact, inputs, "cycle")[0], graph.outputs, strict=True):
                np.testing.assert_array_equal(got, expected[of])
        except Exception as error:
            raise AssertionError(f"case {index}") from error
        within = [
            wide.layers[step] for c in allocation.cascades for step in range(c.first, c.last + 1) if c.last > c.first
        ]
        cascades += any(isinstance(layer, ConvLayer) and layer.wide > 1 for layer in within)
    assert cascades > 20


def test_a_tap_beside_its_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded fault: weights of the second pixel lie one tap too far to the left."""
    widened = wide_pixels.widened

    def shifted(layer: ConvLayer, pixels: int) -> ConvLayer:
        made = widened(layer, pixels)
        weight, channels = made.parts[0].weight.copy(), layer.parts[0].out_channels
        weight[..., channels : 2 * channels] = np.roll(weight[..., channels : 2 * channels], -1, axis=1)
        return replace(made, parts=(replace(made.parts[0], weight=weight),))

    rng = np.random.default_rng(SEED)
    graph = convolution(rng, (8, 9, 4), 6, Window(3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1))
    check(graph, HW, rng, lambda graph, *_: replace(graph, layers=(widened(graph.layers[0], 2),)))
    with pytest.raises(AssertionError, match="not equal"):
        check(graph, HW, rng, lambda graph, *_: replace(graph, layers=(shifted(graph.layers[0], 2),)))


SAME = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}


@pytest.mark.parametrize(
    ("size", "channels", "window", "bits", "wide"),
    [
        (
            (32, 32, 16),
            16,
            Window(3, 3, **SAME),
            (4, 8, 8),
            2,
        ),  # 9 x 16 of reduction become 12 x 16, 16 of 32 columns all
        ((32, 32, 16), 16, Window(3, 3, **SAME), (8, 8, 8), 1),  # all columns are taken
        ((32, 32, 16), 32, Window(3, 3, **SAME), (4, 8, 8), 1),
        ((48, 48, 8), 16, Window(), (4, 8, 8), 2),  # half of the rows are idle as well
        ((48, 48, 16), 16, Window(), (4, 8, 8), 1),  # the reduction grows by as much as there are more columns
        ((33, 33, 16), 16, Window(3, 3, **SAME), (4, 8, 8), 2),  # the last wide pixel makes one pixel again
        ((32, 32, 16), 5, Window(3, 3, **SAME), (4, 8, 4), 1),  # a pixel ends within a byte
    ],
)
def test_it_is_done_where_the_machine_is_quicker(
    size: tuple[int, int, int], channels: int, window: Window, bits: tuple[int, int, int], wide: int
) -> None:
    rng = np.random.default_rng(SEED)
    graph = between_copies(convolution(rng, size, channels, window, bits))
    assert widths_of(graph, HW) == [wide]
    before, after = (layer_cycles(graph, widen) for widen in (plain, wide_pixels.with_wide_pixels))
    assert (after < 0.75 * before) if wide > 1 else (after == before)


def test_what_is_chosen_is_never_slower() -> None:
    """On the simulator, networks with a layer whose columns are idle: beside the same without wide pixels."""
    chosen = gained = 0
    for index in range(120):
        rng = np.random.default_rng([SEED, index, 7])
        hw = load_config(config_names()[index % 3])
        kernel, stride = (int(rng.integers(1, 6)) for _ in range(2)), int(rng.integers(1, 3))
        window = Window(*kernel, stride, stride)
        size = int(rng.integers(12, 40)), int(rng.integers(12, 40)), int(rng.integers(1, 40))
        graph = between_copies(convolution(rng, size, 2 * int(rng.integers(1, 13)), window, (WIDTHS[index % 2], 8, 8)))
        if widths_of(graph, hw) == [1]:
            continue
        chosen += 1
        inputs = inputs_of(graph, rng)
        before, after = (
            run_artefact(compiled(graph, hw, widen).artefact, inputs, "cycle")[1]["cycles"]
            for widen in (plain, wide_pixels.with_wide_pixels)
        )
        # A latency of DRAM is less than the estimate can tell.
        assert after <= 1.01 * before + hw.dram_latency_cycles, f"case {index}: {before} -> {after}"
        gained += after < 0.9 * before
    assert chosen > 15 and gained > chosen / 3


def test_the_layer_stays_itself() -> None:
    """Multiply-accumulates, weights and their entropy are the network's; the stream is what LOADW fetches, zeros and all."""
    rng = np.random.default_rng(SEED)
    graph = convolution(rng, (32, 32, 16), 16, Window(3, 3, **SAME))
    before, after = (compiled(graph, HW, widen) for widen in (plain, wide_pixels.with_wide_pixels))
    for name in ("macs", "weight_count", "entropy_bits", "quantized_bytes", "output_shape", "input_shapes"):
        assert getattr(after.layers[0], name) == getattr(before.layers[0], name), name
    assert after.layers[0].macs == 32 * 32 * 9 * 16 * 16
    instructions = decode(after.artefact.program)
    assert after.layers[0].stream_bytes == sum(ins["stream_bytes"] for ins in instructions if ins.op == "LOADW")
    assert {
        (ins["kernel_w"], ins["stride_w"], ins["out_w"], ins["out_channels"])
        for ins in instructions
        if ins.op == "CONV"
    } == {(4, 2, 16, 32)}


@pytest.mark.parametrize("config", config_names())
def test_a_post_stage_behind_wide_pixels(config: str) -> None:
    """Element-wise layers and tables take wide pixels as they are forwarded: exact integers, at every pair of widths."""
    hw, both = load_config(config), {"ELTWISE": 0, "TABLE": 0}
    for weight_bits, activation_bits in product(WIDTHS, WIDTHS):
        for index in range(5):
            rng = np.random.default_rng([SEED, index, weight_bits, activation_bits])
            graph = random_pair(rng, weight_bits, activation_bits, False, hw)
            made = forced(np.random.default_rng(index))(with_posts(graph, hw, equally_quick))
            for layer in made.layers:
                if isinstance(layer, ConvLayer) and layer.wide > 1 and layer.post is not None:
                    both["TABLE" if isinstance(layer.post, TableLayer) else "ELTWISE"] += 1
            check(graph, hw, rng, forced(np.random.default_rng(index)))
    assert min(both.values()) >= 3, both


def test_a_residual_of_any_width_is_added_once() -> None:
    """Pixels that are made again would be added to what was added already, where the sum takes the operand's place."""
    rng, hw = np.random.default_rng(SEED), load_config("qaccel-256")
    for width in (6, 7, 9, 12):
        graph = convolution(rng, (5, width, 4), 4, Window(3, 3, 1, 1, 1, 1, 1, 1, 1, 1), (4, 8, 8))
        x, y = graph.maps
        copy = CopyLayer("before", "Copy", (2,), 0, *activation_limits(8), *multiplier_and_shift(1.0))
        other = CopyLayer("other", "Copy", (2,), 3, *activation_limits(8), *multiplier_and_shift(1.0))
        limits = activation_limits(8)
        add = EltwiseLayer("add", "Add", (1, 3), 4, *limits, "add", False, 1 << 29, 1 << 29, 30)
        maps = (x, y, replace(x, name="in"), FeatureMap("other", y.h, y.w, y.c, 8, 0), replace(y, name="sum"))
        whole = LayerGraph("main", maps, (copy, other, *graph.layers, add), (2,), (4,))
        check(whole, hw, rng, forced(np.random.default_rng(width)))
