"""The stages of a compilation as they run: their names, times, and a line of progress on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from .errors import boundary

log = logging.getLogger(__name__)


class OfThisRun(str):
    """A note on how this compilation went, not on what it made: no file has it."""


class Stages:
    """Times named stages. What is wrong inside one leaves it as a QaccelError, a fault of the compiler with its stage.

    ``show``: name the running stage on standard error, if that is a terminal.
    """

    def __init__(self, show: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self.show = show and _is_terminal()

    @contextmanager
    def __call__(self, name: str, own_progress: bool = False) -> Iterator[None]:
        """Run a block as stage ``name``; times of blocks with one name add up. ``own_progress``: it shows its own."""
        log.debug("%s: begins", name)
        start = time.perf_counter()
        try:
            with boundary(name), nullcontext() if own_progress else self._status(name):
                yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            log.info("%s: %.2f s", name, seconds)

    def _status(self, name: str) -> AbstractContextManager[Any]:
        if not self.show:
            return nullcontext()
        from rich.console import Console

        return Console(stderr=True).status(f"{name} ...")


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress_bar(what: str, total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """A bar on standard error, if wanted and if that is a terminal; the block calls what it gets with how many are done."""
    if not (show and _is_terminal()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def progress_lines(what: str, show: bool) -> Iterator[Callable[[str], object]]:
    """A line on standard error, if wanted and if that is a terminal; the block calls what it gets with what is done now."""
    if not (show and _is_terminal()):
        yield lambda step: log.debug("%s: %s", what, step)
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ...") as status:
        yield lambda step: status.update(f"{what}: {step}")
