"""Which cases of a large family run in `make test-fast`: the first few. The others are marked wide."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def wide_after(count: int, cases: Iterable[Any]) -> list[Any]:
    """The cases of a parametrization, all but the first ``count`` marked wide. A tuple is one case of several values."""
    return [
        case if k < count else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.wide)
        for k, case in enumerate(cases)
    ]
