"""What a schedule says of records, stocks and holds, as the plan has them. They take SRAM that the rest of the plan leaves free."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ....machine.hw import HwConfig
from ....options.schedule import LAST_MAP, PieceChoice, RecordsChoice
from ...extents import ALIGN_BYTES, align
from ...layers import LayerGraph
from ..ahead import OWN, Records, Unit, record_bytes
from ..holds import Hold
from ..place import Block, Places, Taken, gaps
from ..stock import Stock
from ..stripes import map_name
from ..tiles.tiling import Tiling, weight_tile_count
from .wishes import Wishes

Steps = Mapping[str, int]


def given_records(
    wishes: Wishes, given: Sequence[RecordsChoice], graph: LayerGraph, units: Sequence[Unit], taken: Taken, hw: HwConfig
) -> tuple[tuple[Records, ...], Taken]:  # fmt: skip
    """The records that are fetched ahead, and what has a place then, as `merge_records`. Raises UserError for what cannot be."""
    found, left, merged = list[Records](), list(taken), set[int]()
    unit_of = {step: unit for unit in units for step in range(unit.first, unit.last + 1)}
    for choice in given:
        if not choice.layers:
            raise wishes.refused(choice.behind, "records of no layer come behind it; name some, or take the entry out")
        steps = [_step(wishes, name, "records") for name in choice.layers]
        behind = _begin(wishes, choice.behind, units, "records come behind it")
        offsets, size = dict[int, int](), 0
        for name, step in zip(choice.layers, steps, strict=True):
            own = record_bytes(graph.layers[step])
            if not own or step in merged or (offsets and step <= max(offsets)):
                why = (
                    "it has none"
                    if not own
                    else "they are named twice"
                    if step in merged
                    else "layers must be in order"
                )
                raise wishes.refused(name, f"its records cannot come with others: {why}; take it out of records")
            offsets[step], size = size, size + own
            merged.add(step)
        if behind >= unit_of[steps[0]].first:
            raise wishes.refused(choice.layers[0], f"its records come behind {choice.behind}, which must be before it")
        last = unit_of[steps[-1]].last
        left = [each for each in left if not (each[0].key[0] in OWN and each[0].key[1] in offsets)]
        block = Block(("records", steps[0]), align(size), behind, last)
        addr = _address(wishes, choice.layers[0], "its records", block, choice.address, left, hw)
        found.append(Records(behind, addr, size, offsets))
        left.append((block, addr))
    return tuple(found), left


def given_stocks(
    wishes: Wishes, graph: LayerGraph, tilings: Sequence[Tiling], units: Sequence[Unit], taken: Taken, hw: HwConfig
) -> tuple[Stock, ...]:
    """The stocks in the order of their layers. Raises UserError for one that cannot be."""
    found, left = list[Stock](), list(taken)
    for choice in wishes.stocks or ():
        step = _begin(wishes, choice.layer, units, "a stock is of it")
        unit = next(each for each in units if each.first == step)
        count = weight_tile_count(graph.layers[step], tilings[step])
        if unit.last != step or not 0 < unit.work.weight_loads == count:
            raise wishes.refused(
                choice.layer,
                "its weights are not fetched once and in order, so they cannot wait in SRAM; take it out of stocks",
            )
        if any(step == each.layer for each in found) or not choice.pieces:
            why = "has no piece" if not choice.pieces else "is there twice"
            raise wishes.refused(choice.layer, f"its stock {why}; take one entry out of stocks")
        pieces = []
        for piece in choice.pieces:
            begin = _begin(wishes, piece.at, units, "a stock begins at it")
            if begin >= step:
                raise wishes.refused(piece.at, f"a stock of {choice.layer} begins at it, which must be before that")
            block = Block(("stock", step), _stock_bytes(wishes, choice.layer, piece), begin, step)
            addr = _address(wishes, choice.layer, "its stock", block, piece.address, left, hw)
            left.append((block, addr))
            pieces.append((begin, addr, block.size_bytes))
        found.append(Stock(step, tuple(pieces), choice.refilled))
    return tuple(sorted(found, key=lambda stock: stock.layer))


def check_given_places(wishes: Wishes, blocks: Sequence[Block], places: Places, graph: LayerGraph) -> None:
    """Raises UserError where two blocks whose places are given lie in each other's way; those of a cascade live as long as it."""
    pinned = [block for block in blocks if block.key in places]
    for number, a in enumerate(pinned):
        for b in pinned[:number]:
            at, other = places[a.key], places[b.key]
            apart = at + a.size_bytes <= other or other + b.size_bytes <= at
            if not apart and a.first <= b.last and b.first <= a.last:
                names = (map_name(graph, int(each.key[1])) for each in (b, a))
                raise wishes.refused(
                    next(names),
                    f"its output and that of {next(names)} lie at one time and place; change an output_address",
                )


def given_holds(wishes: Wishes, units: Sequence[Unit], fed: Collection[int]) -> tuple[Hold, ...]:
    """``fed``: which units, by number, load maps from DRAM. Raises UserError for a hold that cannot be."""
    found = list[Hold]()
    for choice in wishes.holds or ():
        step = _begin(wishes, choice.layer, units, "LOADW holds back for it")
        if not any(units[position].first == step for position in fed) or any(step == each.step for each in found):
            raise wishes.refused(
                choice.layer,
                "LOADW can hold back once for what loads maps from DRAM, and no more; take it out of holds",
            )
        found.append(Hold(step, choice.behind == LAST_MAP))
    return tuple(sorted(found, key=lambda hold: hold.step))


def _step(wishes: Wishes, name: str, what: str) -> int:
    if name not in wishes.steps:
        raise wishes.refused(name, f"there is no such layer, and {what} name it; take it out, or name another")
    return wishes.steps[name]


def _begin(wishes: Wishes, name: str, units: Sequence[Unit], what: str) -> int:
    step = _step(wishes, name, "it is where something begins, and others")
    if not any(unit.first == step for unit in units):
        first = next(unit.first for unit in units if unit.first <= step <= unit.last)
        head = next(each for each, number in wishes.steps.items() if number == first)
        raise wishes.refused(name, f"{what}, and it is in the cascade of {head}; name that one")
    return step


def _stock_bytes(wishes: Wishes, layer: str, piece: PieceChoice) -> int:
    if piece.bytes < 1 or piece.bytes % ALIGN_BYTES:
        raise wishes.refused(layer, f"a piece of its stock has {piece.bytes} B; give a multiple of {ALIGN_BYTES}")
    return piece.bytes


def _address(wishes: Wishes, layer: str, what: str, block: Block, given: int | None, taken: Taken, hw: HwConfig) -> int:
    """Where a block lies: where that is given, if it is free, else in the largest room."""
    free = gaps(block.first, block.last, taken, hw.sram_bytes)
    if given is None:
        addr, size = max(free, key=lambda each: each[1], default=(0, 0))
        if size < block.size_bytes:
            raise wishes.refused(
                layer,
                f"{what}: {block.size_bytes} B, and the plan leaves {size} of SRAM in one piece; give less, or leave it out",
            )
        return addr
    if given % ALIGN_BYTES:
        raise wishes.refused(layer, f"{what}: address {given} must be a multiple of {ALIGN_BYTES}")
    if not any(addr <= given and given + block.size_bytes <= addr + size for addr, size in free):
        raise wishes.refused(
            layer,
            f"{what}: {block.size_bytes} B at {given} are not free while it waits; leave out the address, or what it is of",
        )
    return given
