"""What schedules assume about the CPU that runs them: vectors, registers and cores by target; caches and latencies for all."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from .features import this_cpu
from .threads import physical_cores

# A buffer with fewer bytes than this lies on the stack (TVM's kMaxStackAlloca). LLVM keeps it in registers, or spills it there.
STACK_BYTES = 1024
# Vector multiply-adds that must be independent of each other to keep the core busy: a latency of 4 cycles, two started in each
# cycle. So on Intel since Skylake and on AMD since Zen 3 (Agner Fog's instruction tables).
FMAS_IN_FLIGHT = 8
# What weights may take of the first-level data cache, which has at least 32 KiB on these cores. Inputs and outputs get the rest.
L1_WEIGHT_BYTES = 24 * 1024
# What a core reads from its second-level cache in a cycle: a cautious estimate. Intel's optimization manual states 64 at peak.
L2_BYTES_PER_CYCLE = 24


@dataclass(frozen=True)
class Host:
    """A CPU: a vector register holds ``lanes`` float32 values, there are ``registers`` of them, ``cores`` threads share work."""

    lanes: int
    registers: int
    cores: int

    @property
    def accumulators(self) -> int:
        """How many vectors of sums a register tile may hold.

        Three registers (eight of 32) stay free for operands, and all sums together stay below STACK_BYTES.
        """
        spare = 3 if self.registers <= 16 else 8
        return min(self.registers - spare, (STACK_BYTES - 1) // (4 * self.lanes))

    @property
    def fmas_in_flight(self) -> int:
        """FMAS_IN_FLIGHT, and one more where registers are few: the cores before those, none of which has many, have a latency of 5
        cycles, and need ten."""
        return FMAS_IN_FLIGHT + (self.registers <= 16)


def this_machine() -> tvm.target.Target:
    """TVM's target for the CPU that this process runs on."""
    return tvm.target.Target({"kind": "llvm", **this_cpu()})


def host_of(target: tvm.target.Target) -> Host:
    """The CPU that a target describes, by its features: AVX-512, AVX or NEON; any other gets 16 registers of 4 lanes.

    Without ``num-cores`` in the target it has as many cores as this machine.
    """
    cores = int(target.attrs.get("num-cores", 0)) or physical_cores()
    triple = str(target.attrs.get("mtriple", ""))
    features = tvm.target.codegen.llvm_get_cpu_features(target)
    if "avx512f" in features:
        return Host(16, 32, cores)
    if "avx" in features or "avx2" in features:
        return Host(8, 16, cores)
    if triple.startswith(("aarch64", "arm64")) or "neon" in features:
        return Host(4, 32, cores)
    return Host(4, 16, cores)
