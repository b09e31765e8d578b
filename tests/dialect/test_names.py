"""Names of steps, and that they are read as they are written."""

from qaccel.dialect import names


def test_phases_come_back() -> None:
    node, _, which = names.phase("up", 1, 12).rpartition(".")
    assert (node, names.phase_of(which)) == ("up", (1, 12))
    assert names.phase_of(names.PRODUCT) is None


def test_copies() -> None:
    assert names.copy_of_width("conv", 4) == "conv.to4"
