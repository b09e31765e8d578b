// The machine's state, and what each instruction does with it.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "accumulators.h"
#include "common.h"
#include "config.h"
#include "gemm.h"
#include "memory.h"

namespace qaccel {

struct Duration {
  int64_t start_up = 0;
  int64_t units = 0;       // cycles after the start-up of everything but DRAM
  bool transfers = false;  // whether DRAM is used too: the view that follows, beginning after the start-up
  View dram{};
  bool decode_bound = false;  // LOADW from SRAM: whether it decodes longer than it reads
};

struct Work {
  int64_t macs = 0;
  int64_t weight_bytes = 0, read_bytes = 0, written_bytes = 0;  // DRAM
};

// What the last CONV or DEPTHWISE that forwards has left for the instruction behind it.
struct Forwarded {
  std::variant<isa::Conv, isa::Depthwise> by;
  std::vector<View> operands;   // of SRAM
  std::vector<int16_t> values;  // [h, w, channels]
};

struct Machine {
  // `dram_bytes` bytes at `dram_data` outlive this.
  Machine(const Config& config, uint8_t* dram_data, int64_t dram_bytes);

  // Everything as at power-on, except what is in DRAM and which parts of it are read-only.
  void Restart();

  const Config hw;
  Pages<uint8_t> sram_data, weight_data;
  Memory dram, sram, weights;
  Accumulators accumulators;
  Forwarded forwarded;
  Actor actor;                // the instruction that executes
  int64_t decode_cycles = 0;  // that the decoder is busy with the LOADW that was executed last

  // Scratch that outlives an instruction only to save allocations.
  PackedWeights packed;
  std::vector<int16_t> unpacked, rows, outputs;
  std::vector<int32_t> products;
  std::vector<int64_t> sums;
};

// At least so large; what it holds is anything.
template <typename T>
void Grow(std::vector<T>& scratch, int64_t count) {
  if (scratch.size() < static_cast<size_t>(count)) scratch.resize(static_cast<size_t>(count));
}

// What every instruction has, in the file of its name:
// - Execute: its semantics. Throws Fault where the manual says that it is an error.
// - DurationOf: how long it takes, once it has been executed, so that its sizes are known to be legal. Throws Fault if
// that is
//   more than 2^60 cycles.
// - WorkOf: what it does, for the report.
#define QACCEL_DECLARE(Name)                                         \
  void Execute(Machine& machine, const isa::Name& ins);              \
  Duration DurationOf(const Machine& machine, const isa::Name& ins); \
  Work WorkOf(const isa::Name& ins);
QACCEL_INSTRUCTIONS(QACCEL_DECLARE)
#undef QACCEL_DECLARE

// Checks that several instructions share.
inline void CheckPositive(const char* name, int64_t value) {
  if (value < 1) Fail(name, " is ", value, ", must be at least 1");
}

inline void CheckZeroPoint(const char* name, int64_t bits, int64_t value) {
  const int64_t low = bits == 16 ? 0 : LowestOf(bits), high = bits == 16 ? 0 : HighestOf(bits);
  if (value < low || value > high) Fail(name, " is ", value, ", at ", bits, " bits it must be ", low, " to ", high);
}

inline void CheckDistinct(const View& view, const char* what) {
  if (OverlapsItself(view)) {
    Fail(what, ": its pixels overlap: ", view.bytes, " bytes, pixel stride ", view.pixel_stride, ", row stride ",
         view.row_stride);
  }
}

// Strided copy of pixels between memories; both views have the same counts and are inside their memories.
void CopyPixels(const uint8_t* from, const View& source, uint8_t* to, const View& target);

}  // namespace qaccel
