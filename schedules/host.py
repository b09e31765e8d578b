"""What the schedules need to know of a CPU: vector width, registers, cores, from a TVM target."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from .threads import physical_cores

# A buffer of up to this many bytes lies on the stack, where LLVM turns it into registers (TVM's kMaxStackAlloca).
STACK_BYTES = 1024


@dataclass(frozen=True)
class Host:
    """``lanes``: float32 values in a vector register; ``registers``: of them; ``cores``: threads to share work among."""

    lanes: int
    registers: int
    cores: int

    @property
    def accumulators(self) -> int:
        """Vectors that a register tile may hold: some registers are left for operands, and the tile stays on the stack."""
        spare = 3 if self.registers <= 16 else 8
        return min(self.registers - spare, (STACK_BYTES - 1) // (4 * self.lanes))


def host_of(target: tvm.target.Target) -> Host:
    """By the target's features: AVX-512, AVX, NEON; anything else counts as 16 registers of 4 lanes."""
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
