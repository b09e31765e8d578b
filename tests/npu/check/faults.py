"""A small compiled network, and seeded faults: what a compiler, a bus or a disk could do to its program."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from npu.harness import dram_image
from npu.oracle import run_graph
from qaccel.machine.artefact import Artefact
from qaccel.machine.hw import load_config
from qaccel.machine.interpreter.streams import raw_stream
from qaccel.machine.isa import Instruction, decode, encode, isa
from qaccel.machine.isa import replace as with_fields
from qaccel.machine.streams import codec_of, pack_pixels
from qaccel.npu.check.program import DramMap
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.emit.instructions import emit_program
from qaccel.npu.emit.weights import compress, weight_tiles
from qaccel.npu.layers import (
    ChannelParams,
    ConvLayer,
    ConvPart,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    PoolLayer,
    Window,
)
from qaccel.npu.plan.allocate import allocate

SEED = 20261124


@dataclass
class Case:
    """What a fault changes: instructions and DRAM image before the run. ``slots``: the outputs' byte ranges."""

    artefact: Artefact
    intent: tuple[tuple[int, frozenset[int]], ...]
    instructions: list[Instruction]
    dram: np.ndarray
    defined: list[tuple[int, int]]
    read_only: list[tuple[int, int]]
    expected: bytes

    @property
    def memory(self) -> DramMap:
        return DramMap(self.dram, tuple(self.defined), tuple(self.read_only))

    @property
    def program(self) -> bytes:
        return encode(self.instructions)

    def outputs(self, dram: np.ndarray) -> bytes:
        slots = self.artefact.outputs
        return b"".join(dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes].tobytes() for slot in slots)

    def copy(self) -> "Case":
        return replace(self, instructions=list(self.instructions), dram=self.dram.copy())

    # What the faults are made of

    def find(self, op: str, which: int = 0, **fields: int) -> int:
        """Index of the which-th instruction of that op with those fields."""
        hits = [
            i for i, ins in enumerate(self.instructions) if ins.op == op and all(ins[k] == v for k, v in fields.items())
        ]
        return hits[which]

    def set(self, index: int, **fields: int | str) -> None:
        self.instructions[index] = with_fields(self.instructions[index], **fields)

    def add(self, index: int, **fields: int) -> None:
        self.set(index, **{name: self.instructions[index][name] + value for name, value in fields.items()})

    def flip(self, begin: int, bit: int = 0) -> None:
        self.dram[begin] ^= 1 << bit


def _params(rng: np.random.Generator, channels: int, shift: int) -> ChannelParams:
    multiplier = rng.integers(1 << 30, 1 << 31, channels).astype(np.uint32)
    return ChannelParams(
        rng.integers(-500, 500, channels).astype(np.int32), multiplier, np.full(channels, shift, np.uint8)
    )


def small_network() -> tuple[LayerGraph, list[np.ndarray]]:
    """Convolution 3x3, depthwise with stride, pooling and an addition around them, 8 bits; and an input."""
    rng = np.random.default_rng(SEED)
    maps = (
        FeatureMap("x", 10, 12, 5, 8, -3),
        FeatureMap("conv", 10, 12, 8, 8, 4),
        FeatureMap("pool", 10, 12, 8, 8, 4),
        FeatureMap("sum", 10, 12, 8, 8, -9),
        FeatureMap("y", 5, 6, 8, 8, 1),
    )
    same = Window(kernel_h=3, kernel_w=3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    half = replace(same, stride_h=2, stride_w=2, pad_bottom=0, pad_right=0)
    weights = rng.integers(-127, 128, (8, 3, 3, 5)).astype(np.int32)
    kernel = rng.integers(-127, 128, (3, 3, 8)).astype(np.int32)
    layers = (
        ConvLayer(
            "conv",
            "conv",
            (0,),
            1,
            -100,
            100,
            same,
            8,
            (ConvPart(0, 0, weights.transpose(1, 2, 3, 0)),),
            _params(rng, 8, 41),
            weights,
            0,
        ),
        PoolLayer("pool", "pool", (1,), 2, -128, 127, same, "max", False, {1: (1 << 30, 30)}),
        EltwiseLayer("sum", "add", (1, 2), 3, -128, 127, "add", False, 1 << 29, 3 << 27, 30),
        DepthwiseLayer("y", "depthwise", (3,), 4, -128, 120, half, 8, _params(rng, 8, 39), kernel, 0),
    )
    return LayerGraph("small", maps, layers, (0,), (4,)), [rng.integers(-128, 128, (10, 12, 5))]


def base_case() -> Case:
    """The network on a machine so small that every layer is tiled and the weights are loaded more than once."""
    hw = replace(load_config("qaccel-64"), name="tiny", sram_bytes=1280, weight_buffer_bytes=512)
    graph, inputs = small_network()
    allocation = allocate(graph, hw)
    program = emit_program(graph, allocation, compress(weight_tiles(graph, allocation), hw), hw)
    artefact = build_artefact(graph, allocation, program, hw)
    dram, defined, read_only = dram_image(artefact, inputs)
    expected = pack_pixels(run_graph(graph, inputs)[4], 8)
    return Case(artefact, program.intent, decode(artefact.program), dram, defined, read_only, expected)


def _drop(prefix: str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        index = next(i for i, ins in enumerate(case.instructions) if ins[f"{prefix}0"])
        case.set(index, **{f"{prefix}0": 0})

    return fault


def _swapped_semaphores(case: Case) -> None:
    index = next(i for i, ins in enumerate(case.instructions) if ins["wait0"] and ins["wait1"])
    other = next(
        i for i, ins in enumerate(case.instructions) if ins["wait0"] not in (0, case.instructions[index]["wait0"])
    )
    first, second = case.instructions[index]["wait0"], case.instructions[other]["wait0"]
    case.set(index, wait0=second, wait1=0)
    case.set(other, wait0=first)


def _dropped_pair(case: Case) -> None:
    """A token that is neither given nor taken: no deadlock, only a race."""
    order: dict[int, list[int]] = {}
    for i, ins in enumerate(case.instructions):
        for name in ("signal0", "signal1", "signal2"):
            if ins[name]:
                order.setdefault(ins[name], []).append(i)
    number, givers = next((n, g) for n, g in order.items() if len(g) > 1)
    takers = [i for i, ins in enumerate(case.instructions) if number in ins.waits]
    for index, prefix in ((givers[-1], "signal"), (takers[-1], "wait")):
        slot = next(f"{prefix}{k}" for k in range(3) if case.instructions[index][f"{prefix}{k}"] == number)
        case.set(index, **{slot: 0})


def _reordered(case: Case) -> None:
    i = case.find("CONV")
    j = next(k for k in range(i + 1, len(case.instructions)) if case.instructions[k].engine == "COMPUTE")
    case.instructions[i], case.instructions[j] = case.instructions[j], case.instructions[i]


def _missing(op: str) -> Callable[[Case], None]:
    """The instruction does next to nothing: it is there for its semaphores, but moves other bytes."""

    def fault(case: Case) -> None:
        index = case.find(op, 1)
        end = case.artefact.hw.sram_bytes
        if op == "LOAD":
            case.set(index, rows=1, pixels=1, pixel_bytes=1, pad_top=0, pad_bottom=0, pad_left=0, pad_right=0)
            case.set(index, sram_addr=end - 1)
        else:
            case.set(index, bytes=1, sram_addr=end - 1)

    return fault


def _field(op: str, which: int = 0, /, where: dict[str, int] | None = None, **deltas: int) -> Callable[[Case], None]:
    return lambda case: case.add(case.find(op, which, **(where or {})), **deltas)


def _all(op: str, /, **values: int | str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        for index, ins in enumerate(case.instructions):
            if ins.op == op:
                case.set(index, **values)

    return fault


def _too_low(case: Case) -> None:
    case.add(case.find("POOL"), in_addr=-1)  # in a ring, after another map's rows


def _fixed(op: str, which: int = 0, /, **values: int | str) -> Callable[[Case], None]:
    return lambda case: case.set(case.find(op, which), **values)


def _stream(case: Case) -> int:
    return case.instructions[case.find("LOADW")]["stream_addr"]


def _restreamed(case: Case) -> None:
    """Some weights have the wrong sign, and the checksum is right."""
    ins = case.instructions[case.find("LOADW")]
    begin, end = ins["stream_addr"], ins["stream_addr"] + ins["stream_bytes"]
    assert codec_of(case.dram[begin:end].tobytes()) == "raw"  # the weights are uniform noise
    weights = case.dram[begin + isa().stream["header_bytes"] : end].view(np.int8).astype(np.int32)
    weights[:8] = -weights[:8]
    case.dram[begin:end] = np.frombuffer(raw_stream(weights, 8), np.uint8)


def _record(case: Case) -> int:
    """DRAM address of the first parameter record of the convolution."""
    return case.instructions[case.find("LOAD_RAW")]["dram_addr"]


def _bumped(offset: int, delta: int) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.dram[_record(case) + offset] = (int(case.dram[_record(case) + offset]) + delta) % 256

    return fault


def _huge_bias(case: Case) -> None:
    case.dram[_record(case) : _record(case) + 4] = np.frombuffer((2**31 - 1).to_bytes(4, "little"), np.uint8)


def _swapped_records(case: Case) -> None:
    size, begin = isa().params_bytes, _record(case)
    pair = case.dram[begin : begin + 2 * size].reshape(2, size).copy()
    case.dram[begin : begin + 2 * size] = pair[::-1].reshape(-1)


# Faults that the static checker alone must find, before anything runs.
STATIC: dict[str, Callable[[Case], None]] = {
    "dropped wait": _drop("wait"),
    "dropped signal": _drop("signal"),
    "dropped token": _dropped_pair,
    "swapped semaphores": _swapped_semaphores,
    "one token too many": lambda case: case.set(case.find("STORE", -1), signal2=31),
    "token for the wrong engine": lambda case: case.set(
        case.find("LOADW"), wait2=next(s for ins in case.instructions if ins.engine == "STORE" for s in ins.waits)
    ),
    "reordered": _reordered,
    "missing instruction": lambda case: case.instructions.pop(case.find("LOAD")),
    "missing data": _missing("LOAD"),
    "missing parameters": _missing("LOAD_RAW"),
    "load to SRAM one too high": _field("LOAD", sram_addr=1),
    "load to SRAM one too low": _field("LOAD", 1, sram_addr=-1),
    "input one too high": _field("CONV", in_addr=1),
    "input one too low": _too_low,
    "output one too high": _field("CONV", where={"finish": 1}, out_addr=1),
    "load stride off by one": _field("LOAD", sram_row_stride=1),
    "input row stride off by one": _field("CONV", in_row_stride=1),
    "output outside SRAM": _fixed("ELTWISE", out_addr=(1 << 24) - 1),
    "weights one too high": _field("CONV", weight_addr=1),
    "weights loaded one too high": _field("LOADW", buffer_addr=1),
    "parameters of the next channel": _field("CONV", where={"finish": 1}, param_addr=isa().params_bytes),
    "kernel too high": _field("CONV", kernel_h=1),
    "input too high": _all("CONV", in_h=100),
    "output too high": _field("POOL", -1, where={"finish": 1}, out_h=1),
    "channel too many": _field("CONV", where={"finish": 1}, out_channels=1),
    "weight too few": _field("LOADW", weight_count=-1),
    "width of the weights": _fixed("LOADW", weight_bits=16),
    "width of the convolution's weights": _fixed("CONV", weight_bits=16),
    "width of the input": _fixed("CONV", in_bits=16, in_zero_point=0),
    "width of the output": _fixed("DEPTHWISE", -1, out_bits=16, out_zero_point=0),
    "accumulate flipped": lambda case: case.set(case.find("CONV", accumulate=0), accumulate=1),
    "finish flipped": lambda case: case.set(case.find("CONV", finish=1), finish=0),
    "store over a constant": lambda case: case.set(case.find("STORE"), dram_addr=_stream(case)),
    "load of what nobody stores": lambda case: case.set(
        case.find("LOAD"), dram_addr=case.artefact.outputs[0].dram_addr
    ),
    "load over a live tensor": lambda case: case.set(
        case.find("LOAD", 1), sram_addr=case.instructions[case.find("CONV")]["in_addr"]
    ),
    "flipped stream bit": lambda case: case.flip(_stream(case) + isa().stream["header_bytes"] + 3, 5),
    "flipped header bit": lambda case: case.flip(_stream(case) + 1),
    "truncated stream": _field("LOADW", stream_bytes=-1),
    "stream of another address": _field("LOADW", stream_addr=1),
    "reserved byte of a record": _bumped(9, 1),
    "bias that overflows": _huge_bias,
    "zero point outside its width": _fixed("CONV", in_zero_point=128),
    "clamp upside down": _fixed("CONV", clamp_lo=101),
    "line buffer too small": _fixed("DEPTHWISE", kernel_h=200, dilation_h=255, in_h=60000),
    "size of zero": _fixed("POOL", out_w=0),
}

# Legal programs, as far as a checker can know, that compute something else: the outputs must show it.
WRONG_RESULT: dict[str, Callable[[Case], None]] = {
    "shift off by one": _bumped(8, 1),
    "multiplier changed": _bumped(6, 64),
    "bias changed": _bumped(1, 8),
    "records swapped": _swapped_records,
    "pool multiplier": _field("POOL", where={"finish": 1}, multiplier=-(1 << 29)),
    "second multiplier": _field("ELTWISE", b_multiplier=-(1 << 28)),
    "shared shift": _field("ELTWISE", shift=1),
    "input zero point": _field("CONV", in_zero_point=16),
    "output zero point": _field("ELTWISE", -1, out_zero_point=16),
    "clamp changed": _field("DEPTHWISE", clamp_hi=-100),
    "kind of pooling": _all("POOL", kind="sum"),
    "kind of element-wise": _all("ELTWISE", kind="sub"),
    "padding off by one": _field("CONV", pad_left=1),
    "dilation": lambda case: case.set(case.find("CONV"), dilation_w=2),
    "weight changed": _restreamed,
    "input of another address": _field("LOAD", -1, dram_addr=-8),
    "input too wide": _all("CONV", in_w=100),
    "store to another address": _field("STORE", -1, dram_addr=-8),
    "operand shared by all pixels": _fixed("ELTWISE", b_pixel_stride=0),
}
