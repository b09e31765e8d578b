"""Random cascades, compiled and simulated, against exact integers; and faults in a cascade's plan and program."""

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from npu.cascade_cases import random_chain
from npu.check.faults import small_network
from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, values
from npu.oracle import run_graph
from qaccel.errors import CompilerFault
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.isa import decode, encode
from qaccel.machine.isa import replace as with_fields
from qaccel.npu.check.program import check_program
from qaccel.npu.emit import cascades
from qaccel.npu.emit.builder import Program
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.emit.instructions import emit_program
from qaccel.npu.emit.weights import compress, weight_tiles
from qaccel.npu.layers import LayerGraph
from qaccel.npu.plan import allocate as planned
from qaccel.npu.plan.allocate import Allocation
from qaccel.npu.plan.choose import Choice
from qaccel.npu.plan.stripes import Cascade
from qaccel.run.tensors import _inside

SEED = 20261129
FEW, MANY = 60, 2000


def case(index: int) -> tuple[LayerGraph, HwConfig, list[np.ndarray]]:
    rng = np.random.default_rng([SEED, index])
    graph, hw = random_chain(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3])
    return graph, hw, [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]


def any_choice(rng: np.random.Generator, hw: HwConfig) -> Callable[..., Choice]:
    """In the place of `choose`: the chain cut into cascades anywhere, with any of the maps between them in SRAM."""

    def choice(chain: LayerGraph, *_: object) -> Choice:
        cuts = sorted({0, len(chain.layers), *rng.integers(0, len(chain.layers), int(rng.integers(0, 3))).tolist()})
        ends = [chain.layers[cut - 1].output for cut in cuts[1:-1]]
        kept = frozenset(m for m in ends if rng.random() < 0.5 and chain.maps[m].total_bytes < hw.sram_bytes)
        return Choice(tuple((begin, end - 1) for begin, end in zip(cuts, cuts[1:], strict=False)), kept)

    return choice


def allocate(index: int, graph: LayerGraph, hw: HwConfig) -> Allocation:
    """The plan of the chain cut into cascades anywhere, with any of the maps between them in SRAM; of every sixth as it is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        if index % 6:
            patch.setattr(planned, "choose", any_choice(np.random.default_rng([SEED, index, 1]), hw))
        return planned.allocate(graph, hw)


def emitted(graph: LayerGraph, allocation: Allocation, hw: HwConfig) -> Program:
    return emit_program(graph, allocation, compress(weight_tiles(graph, allocation), hw), hw)


def check_case(index: int) -> Allocation:
    graph, hw, inputs = case(index)
    allocation = allocate(index, graph, hw)
    program = emitted(graph, allocation, hw)
    artefact = build_artefact(graph, allocation, program, hw)
    check_program(artefact, program.intent)
    expected = run_graph(graph, inputs)
    for mode in ("functional", "cycle"):
        outputs, _ = run_artefact(artefact, inputs, mode)
        for got, index_of in zip(outputs, graph.outputs, strict=True):
            np.testing.assert_array_equal(got, expected[index_of])
    return allocation


def check_cases(indices: range) -> None:
    """Most of the cases must be what they are meant to be: several layers in one cascade, some with copies of halos."""
    joined = shifted = refetched = opened = 0
    for index in indices:
        try:
            allocation = check_case(index)
        except Exception as error:
            raise AssertionError(f"case {index}") from error
        joined += any(len(c.tilings) > 1 for c in allocation.cascades)
        shifted += any(rows for c in allocation.cascades for ring in c.rings for _, _, rows in ring.shifts())
        opened += any(c.opening < c.stripes[0][0][1] for c in allocation.cascades)
        refetched += any(not c.weight_bytes and c.work.weight_loads for c in allocation.cascades)
    assert joined > len(indices) / 2 and shifted > len(indices) / 4 and refetched > len(indices) / 50
    assert opened > len(indices) / 20


def test_random_cascades() -> None:
    check_cases(range(FEW))


def test_maps_that_are_never_whole_can_be_seen() -> None:
    """What a look inside gives of each layer, of maps in rings too, put together from the stripes."""
    seen = 0
    for index in range(1, 8):
        graph, hw, inputs = case(index)
        allocation = allocate(index, graph, hw)
        artefact = build_artefact(graph, allocation, emitted(graph, allocation, hw), hw)
        expected = run_graph(graph, inputs)
        found = _inside(artefact, [value[None].astype(np.int16) for value in inputs])
        for layer, (_, got) in zip(graph.layers, found, strict=True):
            np.testing.assert_array_equal(got[0], expected[layer.output])
        seen += sum(len(slot.pieces) > 1 for slot in artefact.maps)
    assert seen > 5


@pytest.mark.slow
def test_many_random_cascades() -> None:
    check_cases(range(FEW, FEW + int(os.environ.get("QACCEL_CASCADE_CASES", str(MANY)))))


@pytest.fixture(scope="module")
def cascading() -> tuple[LayerGraph, HwConfig, Allocation]:
    """Four layers, the last three of them in one cascade that copies halos: one of a map that it makes, and one from DRAM."""
    graph, _ = small_network()
    hw = replace(load_config("qaccel-64"), name="tiny", sram_bytes=1280, weight_buffer_bytes=512)
    allocation = planned.allocate(graph, hw)
    cascade = allocation.cascades[-1]
    assert len(cascade.tilings) == 3 and _shifting(graph, cascade) >= 0
    return graph, hw, allocation


def _shifting(graph: LayerGraph, cascade: Cascade) -> int:
    """Which ring is of a map that the cascade makes, and copies rows."""
    inside = cascade.inside(graph)
    return next(i for i, r in enumerate(cascade.rings) if r.map in inside and any(rows for _, _, rows in r.shifts()))


def _ring(graph: LayerGraph, cascade: Cascade, **change: Callable) -> Cascade:
    which = _shifting(graph, cascade)
    rings = list(cascade.rings)
    rings[which] = replace(rings[which], **{name: make(rings[which]) for name, make in change.items()})
    return replace(cascade, rings=tuple(rings))


def _short_stripe(graph: LayerGraph, cascade: Cascade) -> Cascade:
    """The first layer makes one row less in the first stripe than the one after it reads."""
    stripes = [list(stripe) for stripe in cascade.stripes]
    begin, rows = stripes[0][0]
    stripes[0][0] = begin, rows - 1
    return replace(cascade, stripes=tuple(tuple(stripe) for stripe in stripes))


PLANS: dict[str, Callable[[LayerGraph, Cascade], Cascade]] = {
    "a stripe one row short": _short_stripe,
    "a row of the halo is not kept": lambda g, c: _ring(g, c, keeps=lambda r: tuple(k + (k > 0) for k in r.keeps)),
    "rows overwritten a stripe too early": lambda g, c: _ring(g, c, keeps=lambda r: (0, *r.ends[:-1])),
}


@pytest.mark.parametrize("name", PLANS)
def test_checker_finds_a_wrong_plan(cascading: tuple, name: str) -> None:
    graph, hw, allocation = cascading
    wrong = replace(allocation, cascades=(*allocation.cascades[:-1], PLANS[name](graph, allocation.cascades[-1])))
    with pytest.raises(CompilerFault):
        program = emitted(graph, wrong, hw)
        check_program(build_artefact(graph, wrong, program, hw), program.intent)


def test_an_opening_without_its_last_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows are made before all that they read is loaded."""
    for index in range(FEW):
        graph, hw, _ = case(index)
        allocation = allocate(index, graph, hw)
        if any(c.opening < c.stripes[0][0][1] for c in allocation.cascades):
            break
    else:
        raise AssertionError("no cascade opens in parts")
    program = emitted(graph, allocation, hw)
    check_program(build_artefact(graph, allocation, program, hw), program.intent)
    rows_read = cascades.rows_read
    monkeypatch.setattr(cascades, "rows_read", lambda *args: (rows_read(*args)[0], rows_read(*args)[1] - 1))
    program = emitted(graph, allocation, hw)
    with pytest.raises(CompilerFault, match="program check"):
        check_program(build_artefact(graph, allocation, program, hw), program.intent)


@pytest.mark.parametrize("name", ["one row less", "backwards"])
def test_a_stale_halo_is_found(cascading: tuple, name: str) -> None:
    graph, hw, allocation = cascading
    program = emitted(graph, allocation, hw)
    artefact = build_artefact(graph, allocation, program, hw)
    check_program(artefact, program.intent)
    instructions = decode(artefact.program)
    for copy, ins in enumerate(instructions):
        if ins.op == "COPY" and ins["h"] > 1:
            backwards = {"out_addr": ins["in_addr"], "in_addr": ins["out_addr"]}
            instructions[copy] = with_fields(ins, **({"h": ins["h"] - 1} if name == "one row less" else backwards))
    with pytest.raises(CompilerFault, match="program check"):
        check_program(replace(artefact, program=encode(instructions)), program.intent)
