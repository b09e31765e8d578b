"""The stages of a compilation as they run: their names, times, and a line of progress on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


class Stages:
    """Times named stages. An exception that leaves a stage carries its name as ``qaccel_stage``.

    ``show``: name the running stage on standard error, if that is a terminal.
    """

    def __init__(self, show: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self.show = show and sys.stderr.isatty()

    @contextmanager
    def __call__(self, name: str, own_progress: bool = False) -> Iterator[None]:
        """Run a block as stage ``name``; times of blocks with one name add up. ``own_progress``: it shows its own."""
        start = time.perf_counter()
        try:
            with nullcontext() if own_progress else self._status(name):
                yield
        except Exception as error:
            if not hasattr(error, "qaccel_stage"):
                error.qaccel_stage = name  # type: ignore[attr-defined]
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _status(self, name: str) -> AbstractContextManager[Any]:
        if not self.show:
            return nullcontext()
        from rich.console import Console

        return Console(stderr=True).status(f"{name} ...")


def stage_of(error: BaseException) -> str | None:
    """The stage that an exception left, if it left one."""
    return getattr(error, "qaccel_stage", None)
