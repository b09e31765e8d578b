"""Passes over samples on all cores, with the result of one pass after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Any, TypeVar

from ..schedules.threads import physical_cores

Given = TypeVar("Given")
Made = TypeVar("Made")


def side_by_side(run: Callable[[Given], Made], each: Iterable[Given]) -> list[Made]:
    """``run`` of each, in their order, in as many threads as there are cores."""
    each = list(each)
    threads = min(len(each), physical_cores())
    if threads < 2:
        return [run(one) for one in each]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, each))


class Turns:
    """Lets passes that run side by side do what is not theirs alone in their order: pass k its n-th turn after pass k - 1.

    So what comes of it does not depend on how many threads there are.
    """

    def __init__(self, passes: int) -> None:
        self._done: list[float] = [math.inf, *([0] * passes)]
        self._changed = Condition()

    def take(self, number: int, action: Callable[..., Any], *arguments: Any) -> None:
        """The next turn of a pass, once the pass before has had its own; one at a time."""
        with self._changed:
            self._changed.wait_for(lambda: self._done[number] > self._done[number + 1])
            action(*arguments)
            self._done[number + 1] += 1
            self._changed.notify_all()

    def end(self, number: int) -> None:
        """A pass takes no more turns: it has ended, or failed."""
        with self._changed:
            self._done[number + 1] = math.inf
            self._changed.notify_all()
