// The accumulators that an instruction leaves open for the next one (ISA manual, "numerics").
#pragma once

#include <cstdint>
#include <vector>

#include "common.h"
#include "config.h"

namespace qaccel {

// What must stay the same from one instruction to the next while accumulators are open.
struct AccumulatorShape {
  isa::Opcode opcode;
  int64_t out_h, out_w, channels, weight_bits, in_bits, out_bits;  // weight_bits 0: no weights
  int64_t kind;                                                    // of pooling

  int64_t count() const { return out_h * out_w * channels; }
  // Width of each accumulator.
  int64_t Bits(const Config& hw) const { return weight_bits <= 8 && in_bits <= 8 ? 32 : hw.accumulator_bits; }
};

struct Accumulators {
  bool open = false;
  AccumulatorShape shape{};
  std::vector<int64_t> values;  // [out_h * out_w, channels]
};

// The rules of open accumulators. Throws Fault where one is broken. The caller has checked that what it finishes fits
// the SRAM.
void CheckAccumulate(const Accumulators& accumulators, const AccumulatorShape& shape, bool accumulate, bool finish,
                     const Config& hw);

}  // namespace qaccel
