"""Last touches against a record of every byte kept in plain Python, on random accesses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaccel.errors import CompilerFault
from qaccel.npu.access import Access
from qaccel.npu.touches import FIRST, INITIAL, MEMORIES, box_of, last_touches

SIZES = {"sram": 397, "weights": 190, "dram": 350}
ENGINES = 3


@st.composite
def access(draw) -> Access:
    memory = draw(st.sampled_from(MEMORIES))
    rows, pixels = (draw(st.integers(1, 4)) for _ in range(2))
    run = draw(st.sampled_from([1, 2, 3, 4, 51]))  # short ones, and one of more marks than are compared at once
    row_stride, pixel_stride = draw(st.integers(0, 7)), draw(st.integers(0, 5))
    reach = (rows - 1) * row_stride + (pixels - 1) * pixel_stride + run
    start = draw(st.integers(0, SIZES[memory] - reach))
    return Access(memory, draw(st.booleans()), start, rows, row_stride, pixels, pixel_stride, run)


def bytes_of(each: Access, granule: int) -> set[int]:
    starts = (
        each.start + r * each.row_stride + p * each.pixel_stride for r in range(each.rows) for p in range(each.pixels)
    )
    return {byte // granule for start in starts for byte in range(start, start + each.run_bytes)}


def merged_bytes(each: Access, granule: int) -> set[int]:
    return bytes_of(each.merged(), granule)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    program=st.lists(st.lists(st.tuples(access(), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=8),
    granule=st.sampled_from([1, 1, 4]),
)
def test_against_every_byte(program, granule) -> None:
    writer: dict[tuple[str, int], int] = {}
    reader: dict[tuple[str, int, int], int] = {}
    boxes, expected = [], []
    for index, listed in enumerate(program):
        mark, engine = FIRST + index, index % ENGINES
        touched = sorted(listed, key=lambda each: each[0].write)
        boxes += [box_of(each, mark, engine, keeps and not each.write) for each, keeps in touched]
        for each, keeps in touched:
            if not each.write and not keeps:
                reader.update({(each.memory, engine, byte): mark for byte in merged_bytes(each, granule)})
        for each, _ in touched:
            own = merged_bytes(each, granule)
            seen = sorted({writer.get((each.memory, byte), 0) for byte in own})
            latest = [max(reader.get((each.memory, e, byte), 0) for byte in own) for e in range(ENGINES)]
            expected.append((seen, latest if each.write else [0] * ENGINES))
        for each, _ in touched:
            for byte in merged_bytes(each, granule):
                if each.write:
                    writer[each.memory, byte] = mark
                else:
                    reader[each.memory, engine, byte] = mark
    found = last_touches(boxes, [SIZES[name] for name in MEMORIES], ENGINES, granule)
    for number, (seen, latest) in enumerate(expected):
        assert found.writers[found.access_of == number].tolist() == seen
        assert found.readers[number].tolist() == latest


@pytest.mark.parametrize("start", [-1, SIZES["sram"] - 7, 1 << 40])
def test_outside_of_the_memory(start) -> None:
    boxes = [box_of(Access("sram", True, start, 2, 4, 1, 0, 4), INITIAL, 0)]
    with pytest.raises(CompilerFault, match="outside of its memory"):
        last_touches(boxes, [SIZES[name] for name in MEMORIES], ENGINES)
    assert np.array_equal(last_touches(boxes[:0], [1, 1, 1], ENGINES).writers, [])


def test_each_byte_of_a_long_run_counts() -> None:
    """All are written, one of them again, and all are read."""
    size, boxes = SIZES["sram"], []
    for byte in range(size):
        mark = FIRST + 3 * byte
        boxes.append(box_of(Access("sram", True, 0, 1, 0, 1, 0, size), mark, 0))
        boxes.append(box_of(Access("sram", True, byte, 1, 0, 1, 0, 1), mark + 1, 0))
        boxes.append(box_of(Access("sram", False, 0, 1, 0, 1, 0, size), mark + 2, 1))
    found = last_touches(boxes, [SIZES[name] for name in MEMORIES], ENGINES)
    for byte in range(size):
        mark = FIRST + 3 * byte
        assert found.writers[found.access_of == 3 * byte + 2].tolist() == [mark, mark + 1]
