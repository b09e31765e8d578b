"""What a schedule asks of the plan of one subgraph, by the numbers of its layers and maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ....errors import UserError
from ....options.schedule import HoldChoice, RecordsChoice, StockChoice, TileChoice
from ..tiles.tiling import AS_USUAL


@dataclass(frozen=True)
class CascadeWish:
    """``last``: its last layer. What is None is planned as usual: ``rows`` of a stripe, the first layer's ``opening``, whether
    weights ``stay``, rows of ``rings`` by map."""

    last: int
    rows: int | None = None
    opening: int | None = None
    stay: bool | None = None
    rings: Mapping[int, int] | None = None


_NO_CASCADE = CascadeWish(-1)


@dataclass(frozen=True)
class Wishes:
    """``tiles`` by layer; ``kept`` maps lie in SRAM as a whole, ``sent`` ones do not; ``addresses`` of kept maps; ``cascades`` by
    first layer. ``records``, ``stocks`` and ``holds`` as they are given, for layers that have numbers in ``steps``. None: as usual.

    ``origin`` names the schedule in errors.
    """

    tiles: Mapping[int, TileChoice] = field(default_factory=dict)
    kept: frozenset[int] = frozenset()
    sent: frozenset[int] = frozenset()
    addresses: Mapping[int, int] = field(default_factory=dict)
    cascades: Mapping[int, CascadeWish] | None = None
    records: tuple[RecordsChoice, ...] | None = None
    stocks: tuple[StockChoice, ...] | None = None
    holds: tuple[HoldChoice, ...] | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    origin: str = ""

    def tile(self, step: int) -> TileChoice:
        """What is given of a layer's tiling."""
        return self.tiles.get(step, AS_USUAL)

    def cascade(self, first: int) -> CascadeWish:
        """What is given of the cascade that begins with a layer."""
        return (self.cascades or {}).get(first, _NO_CASCADE)

    def refused(self, name: str, why: str) -> UserError:
        """The error that says why what is given of a layer cannot be."""
        return UserError(f"{self.origin}: {name}: {why}")


NOTHING = Wishes()
