// How long each instruction takes (ISA manual, "takes").
#pragma once

#include <cstdint>

#include "config.h"
#include "program.h"
#include "view.h"

namespace qaccel {

// Bytes of a TABLE's table.
inline int64_t TableBytes(int64_t in_bits, int64_t out_bits) {
  if (in_bits == 16) return 2 * ((int64_t{1} << (16 - isa::kTableInterpolationBits)) + 1);
  return (int64_t{1} << in_bits) * (out_bits == 16 ? 2 : 1);
}

struct Duration {
  int64_t start_up = 0;
  int64_t units = 0;       // cycles after the start-up of everything but DRAM
  bool transfers = false;  // whether DRAM is used too: the view that follows, beginning after the start-up
  View dram{};
  bool decode_bound = false;  // LOADW from SRAM: whether it decodes longer than it reads
};

// For an instruction that has been executed, so whose sizes are known to be legal; `decode_cycles` of a LOADW as the
// machine found them. Throws Fault if it takes more than 2^60 cycles.
Duration DurationOf(const Config& hw, const isa::Instruction& instruction, int64_t decode_cycles);

// What the instruction does, for the report.
struct Work {
  int64_t macs = 0;
  int64_t weight_bytes = 0, read_bytes = 0, written_bytes = 0;  // DRAM
};
Work WorkOf(const isa::Instruction& instruction);

}  // namespace qaccel
