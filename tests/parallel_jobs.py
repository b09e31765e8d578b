"""Jobs for the tests of `qaccel.parallel`: processes of their own import them."""

import os
import signal
import time
from pathlib import Path

from qaccel.errors import UserError


def prepare(payload: int) -> int:
    return 10 * payload


def square(prepared: int, item: int) -> int:
    time.sleep(0.01 * (item % 3))  # so that they are done in another order
    return prepared + item * item


def dies_once(folder: str, item: int) -> int:
    """At item 3 its process is killed, the first time."""
    mark = Path(folder) / "died"
    if item == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def dies(_: object, item: int) -> int:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def fails(_: object, item: int) -> int:
    if item == 1:
        raise UserError("item 1 is not to be had")
    if item == 40:
        return 1 // 0
    return item


def same(payload: object) -> object:
    return payload


def sleeps(_: object, item: int) -> int:
    time.sleep(60)
    return item
