"""Runs that are compared, each in a process of its own, taking turns.

In one process the thread pools of two runtimes disturb each other: a worker that TVM has bound, or one that still spins, takes the core that the
other side's worker is on, and either side can lose half its speed by it.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

TURNS = 10  # of one side before the other's
WARM_UP = 5  # turns before those that count
PAUSE_SECONDS = 0.02  # until the other side's threads sleep


class Side:
    """``make(*arguments)`` gives, in a new process, what is run and what there is to know of it (``facts``)."""

    def __init__(self, make: Callable[..., tuple[Callable[..., object], Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.facts = self._pipe.recv()

    def turns(self, *what: Any) -> list[float]:
        """Seconds of each of TURNS runs, of ``what`` where a side can run several things.

        The other sides' threads sleep by then, and this one's are awake.
        """
        self._pipe.send(what)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def measured(sides: Sequence[Side], rounds: int) -> list[list[float]]:
    """Seconds of each side's runs, turn about; the sides are closed then."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, seconds in zip(sides, taken, strict=True):
            seconds += side.turns()
    for side in sides:
        side.close()
    return taken


def measured_each(sides: Sequence[Side], rounds: int, names: Sequence[str]) -> Iterator[list[list[float]]]:
    """For each of the things that all sides can run, in order, what `measured` gives; the sides are closed at the end."""
    for name in names:
        taken: list[list[float]] = [[] for _ in sides]
        for _ in range(rounds):
            for side, seconds in zip(sides, taken, strict=True):
                seconds += side.turns(name)
        yield taken
    for side in sides:
        side.close()


def _serve(pipe: Any, make: Callable[..., tuple[Callable[..., object], Any]], arguments: tuple[Any, ...]) -> None:
    run, facts = make(*arguments)
    pipe.send(facts)
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        time.sleep(PAUSE_SECONDS)
        for _ in range(WARM_UP):
            run(*what)
        seconds = []
        for _ in range(TURNS):
            start = time.perf_counter()
            run(*what)
            seconds.append(time.perf_counter() - start)
        pipe.send(seconds)
