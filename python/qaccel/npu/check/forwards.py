"""What a CONV or DEPTHWISE hands on to the ELTWISE or TABLE behind it (ISA manual, "post stage")."""

from __future__ import annotations

from ...errors import CompilerFault
from ...machine.isa import Instruction
from ..access import out_channels, takes_forwarded


class Forwards:
    """Follows the program; ``open``: the instruction that forwards, until the next of COMPUTE takes it."""

    def __init__(self) -> None:
        self.open: Instruction | None = None

    def step(self, ins: Instruction) -> Instruction | None:
        """Gives the instruction that forwards to this one. Raises CompilerFault where the two do not belong together."""
        if ins.engine != "COMPUTE":
            return None
        before, self.open = self.open, None
        if takes_forwarded(ins) != (before is not None):
            raise CompilerFault(
                f"forwarded is {int(takes_forwarded(ins))} behind an instruction that forwards {'its' if before else 'no'} output"
            )
        if before is not None:
            _nowhere(ins, "in")
            given = before["out_h"], before["out_w"], out_channels(before), before["out_bits"]
            taken = ins["h"], ins["w"], ins["channels"], ins["in_bits"]
            if taken != given:
                raise CompilerFault(f"takes {taken} (rows, pixels, channels, bits), forwarded are {given}")
        if ins.values.get("forward", 0):
            if not ins["finish"]:
                raise CompilerFault("forwards an output without finish")
            if ins.signals:
                raise CompilerFault(
                    f"forwards and signals semaphore {ins.signals[0]}: only the instruction behind it may"
                )
            _nowhere(ins, "out")
            self.open = ins
        return before


def _nowhere(ins: Instruction, prefix: str) -> None:
    """Raises CompilerFault unless the view's address and strides are 0."""
    place = tuple(ins[f"{prefix}_{name}"] for name in ("addr", "row_stride", "pixel_stride"))
    if any(place):
        raise CompilerFault(f"{prefix}_addr and strides are {place}, must be 0 for what is forwarded")
