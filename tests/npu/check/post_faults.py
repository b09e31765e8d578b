"""A small network with post stages, and seeded faults in what one instruction forwards to the next."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from npu.check.faults import SEED, Case, case_of, random_records
from npu.harness import equally_quick
from qaccel.machine.hw import load_config
from qaccel.npu.access import with_forwarding
from qaccel.npu.layers import (
    ConvLayer,
    ConvPart,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    TableLayer,
    Window,
)
from qaccel.npu.plan.post import with_posts


def posted_network() -> tuple[LayerGraph, list[np.ndarray]]:
    """A convolution, a sum of it and the input, a depthwise convolution and a table behind it, 8 bits; and an input."""
    rng = np.random.default_rng(SEED)
    names = ("x", "conv", "sum", "depthwise", "y")
    maps = tuple(FeatureMap(name, 10, 12, 8, 8, zero) for name, zero in zip(names, (-3, 4, -9, 2, 0), strict=True))
    same = Window(kernel_h=3, kernel_w=3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    weights = rng.integers(-127, 128, (8, 1, 1, 8)).astype(np.int32)
    kernel = rng.integers(-127, 128, (3, 3, 8)).astype(np.int32)
    part = ConvPart(0, 0, weights.transpose(1, 2, 3, 0))
    table = rng.integers(-128, 128, 256).astype(np.int8).tobytes()
    layers = (
        ConvLayer("conv", "conv", (0,), 1, -100, 100, Window(), 8, (part,), random_records(rng, 8, 40), weights, 0),
        EltwiseLayer("sum", "add", (0, 1), 2, -128, 127, "add", False, 1 << 29, 3 << 27, 30),
        DepthwiseLayer("depthwise", "depthwise", (2,), 3, -128, 120, same, 8, random_records(rng, 8, 39), kernel, 0),
        TableLayer("y", "table", (3,), 4, -128, 127, table, "even", 0),
    )
    return LayerGraph("posted", maps, layers, (0,), (4,)), [rng.integers(-128, 128, (10, 12, 8))]


def posted_case() -> Case:
    """The network on a machine so small that each post stage has several tiles, and the sum's other operand comes with them."""
    graph, inputs = posted_network()
    hw = replace(load_config("qaccel-64"), name="tiny", sram_bytes=1536, weight_buffer_bytes=512)
    together = with_posts(graph, hw, equally_quick)
    assert [layer.post.name for layer in together.layers] == ["sum", "y"]
    case = case_of(together, inputs, hw)
    assert case.expected == case_of(graph, inputs, hw).expected
    return case


def _pair(case: Case, op: str) -> tuple[int, int]:
    """Indices of the first instruction of an op that takes what another forwards, and of that other one."""
    index, before = next(
        (i, before) for i, (ins, before) in enumerate(with_forwarding(case.instructions)) if ins.op == op and before
    )
    return index, next(i for i, ins in enumerate(case.instructions) if ins is before)


def _taker(op: str, **deltas: int) -> Callable[[Case], None]:
    return lambda case: case.add(_pair(case, op)[0], **deltas)


def _forwarder(op: str, **values: int | str) -> Callable[[Case], None]:
    return lambda case: case.set(_pair(case, op)[1], **values)


def _unordered_operand(case: Case) -> None:
    """The load of a later tile's second operand and the sum that reads it: neither gives nor takes a token any more."""
    takers = [i for i, ins in enumerate(case.instructions) if ins.op == "ELTWISE" and ins["wait0"]]
    number = case.instructions[takers[-1]]["wait0"]
    giver = max(i for i in range(takers[-1]) if number in case.instructions[i].signals)
    case.set(takers[-1], wait0=0)
    slot = next(f"signal{k}" for k in range(3) if case.instructions[giver][f"signal{k}"] == number)
    case.set(giver, **{slot: 0})


def _over_its_input(case: Case) -> None:
    """The output of the post stage onto what the convolution before it reads."""
    taker, forwarder = _pair(case, "TABLE")
    case.set(taker, out_addr=case.instructions[forwarder]["in_addr"])


def _apart(case: Case) -> None:
    """Another instruction of COMPUTE between the two."""
    taker, forwarder = _pair(case, "ELTWISE")
    case.instructions.insert(taker, case.instructions[taker])


def _signalled_early(case: Case) -> None:
    """The instruction that forwards gives the token that the one behind it should give."""
    taker, forwarder = next(
        (i, i - 1) for i, ins in enumerate(case.instructions) if ins.values.get("forwarded", 0) and ins["signal0"]
    )
    case.set(forwarder, signal0=case.instructions[taker]["signal0"])
    case.set(taker, signal0=0)


# Faults that the checker, the simulator and the interpreter must all refuse.
REFUSED: dict[str, Callable[[Case], None]] = {
    "nobody takes what is forwarded": _taker("ELTWISE", forwarded=-1),
    "nothing is forwarded": _forwarder("ELTWISE", forward=0),
    "forwards without finish": _forwarder("TABLE", finish=0),
    "one row less": _taker("TABLE", h=-1),
    "one channel less": _taker("ELTWISE", channels=-1),
    "another width": lambda case: case.set(_pair(case, "TABLE")[0], in_bits=4),
    "an input beside what is forwarded": _taker("TABLE", in_addr=16),
    "an output beside what is forwarded": _forwarder("ELTWISE", out_addr=16),
    "an instruction between the two": _apart,
    "a token before the end": _signalled_early,
    "over what the convolution reads": _over_its_input,
    "operand outside SRAM": lambda case: case.set(_pair(case, "ELTWISE")[0], b_addr=(1 << 24) - 1),
    "operand that nothing wrote": lambda case: case.set(_pair(case, "ELTWISE")[0], b_addr=case.artefact.hw.sram_bytes - 100),
}  # fmt: skip

# Races: the interpreter cannot see them, its order is one of those that are right.
RACES: dict[str, Callable[[Case], None]] = {"no token for the second operand": _unordered_operand}

# Legal programs that compute something else.
WRONG_RESULT: dict[str, Callable[[Case], None]] = {
    "byte of the table": lambda case: case.flip(_table(case) + 130, 3),
    "zero point of what is forwarded": _taker("ELTWISE", in_zero_point=9),
    "clamp before the post stage": _forwarder("TABLE", clamp_hi=-100),
    "scale of the second operand": _taker("ELTWISE", b_multiplier=-(1 << 27)),
}


def _table(case: Case) -> int:
    """DRAM address of the table."""
    addr = case.instructions[case.find("TABLE")]["table_addr"]
    return next(
        ins["dram_addr"] + addr - ins["sram_addr"]
        for ins in case.instructions
        if ins.op == "LOAD_RAW" and ins["sram_addr"] <= addr < ins["sram_addr"] + ins["bytes"]
    )
