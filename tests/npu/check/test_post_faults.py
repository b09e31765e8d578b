"""Seeded faults in post stages: the checker and the machine must refuse them, or the outputs must show them."""

import pytest

from npu.check.faults import Case
from npu.check.post_faults import RACES, REFUSED, WRONG_RESULT, posted_case
from npu.check.test_program import checked, interpreted, simulated
from qaccel.errors import CompilerFault, QaccelError
from qaccel.machine.interpreter.memory import MachineError


@pytest.fixture(scope="module")
def base() -> Case:
    return posted_case()


def test_base_program_is_right(base: Case) -> None:
    """Each post stage has several tiles, and the sum's second operand is loaded for each."""
    checked(base)
    assert all(sum(ins.op == op and ins["forwarded"] for ins in base.instructions) > 1 for op in ("ELTWISE", "TABLE"))
    assert interpreted(base) == base.expected
    assert simulated(base) == simulated(base, "cycle") == base.expected


@pytest.mark.parametrize("name", [*REFUSED, *RACES])
def test_checker_and_simulator_refuse(base: Case, name: str) -> None:
    case = base.copy()
    (REFUSED | RACES)[name](case)
    with pytest.raises(CompilerFault, match="program check"):
        checked(case)
    for mode in ("functional", "cycle"):
        with pytest.raises(QaccelError):
            simulated(case, mode)


@pytest.mark.parametrize("name", REFUSED)
def test_interpreter_refuses(base: Case, name: str) -> None:
    case = base.copy()
    REFUSED[name](case)
    with pytest.raises(MachineError):
        interpreted(case)


@pytest.mark.parametrize("name", WRONG_RESULT)
def test_outputs_show(base: Case, name: str) -> None:
    case = base.copy()
    WRONG_RESULT[name](case)
    checked(case)
    wrong = interpreted(case)
    assert wrong != base.expected
    assert simulated(case) == simulated(case, "cycle") == wrong
