"""SUPPORTED_OPS.md is what the constraints say, and what it promises is what quantization has rules for."""

import re
from pathlib import Path

from qaccel.frontend.graph import ROUNDED
from qaccel.frontend.passes.contrib import SPELLINGS
from qaccel.frontend.passes.definitions import SPELLED_BY_ONNX
from qaccel.frontend.passes.expand.functions import EXPANSIONS
from qaccel.frontend.to_relax.operators import CONVERTERS
from qaccel.npu.partition.constraints import RULES
from qaccel.npu.partition.supported import ROWS, page

FILE = Path(__file__).parents[3] / "SUPPORTED_OPS.md"


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "run python -m qaccel.npu.partition.supported > SUPPORTED_OPS.md"


def test_every_limit_is_on_the_page_in_one_line() -> None:
    for rule, _ in RULES:
        assert rule.__doc__ is not None and "\n" not in rule.__doc__.strip(), rule.__name__
        assert rule.__doc__ in page()


def test_no_operator_is_promised_twice() -> None:
    names = [name for row in ROWS for name in row.onnx]
    assert len(names) == len(set(names))


def test_every_operator_that_is_read_is_on_the_page() -> None:
    """Also what others spell before quantization looks: the page is of what a file may hold."""
    read = {*CONVERTERS, *EXPANSIONS, *SPELLINGS, *SPELLED_BY_ONNX} - {ROUNDED}  # that one is ours
    assert read - set(re.findall(r"\w+", page())) == set()
