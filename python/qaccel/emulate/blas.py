"""NumPy's products in one thread: the order in which a BLAS adds depends on how many threads it has.

Ranges and biases would otherwise differ in their last digits between machines of the same kind, and programs with them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # it searches all libraries that the process has loaded, so only once


def one_thread() -> AbstractContextManager[object]:
    """While it is entered, the BLAS of the whole process works in one thread."""
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited
