// The machine's state, and the semantics: one function per instruction, each in the file of its name.
#pragma once

#include <cstdint>
#include <vector>

#include "accumulators.h"
#include "common.h"
#include "config.h"
#include "gemm.h"
#include "memory.h"

namespace qaccel {

struct Machine {
  // `dram_bytes` bytes at `dram_data` outlive this.
  Machine(const Config& config, uint8_t* dram_data, int64_t dram_bytes);

  // Everything as at power-on, except what is in DRAM and which parts of it are read-only.
  void Restart();

  const Config hw;
  std::unique_ptr<uint8_t[], Free> sram_data, weight_data;
  Memory dram, sram, weights;
  Accumulators accumulators;
  Actor actor;  // the instruction that executes
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

// Executes one instruction. Throws Fault where the manual says that it is an error.
void Execute(Machine& machine, const isa::Load& ins);
void Execute(Machine& machine, const isa::LoadRaw& ins);
void Execute(Machine& machine, const isa::Loadw& ins);
void Execute(Machine& machine, const isa::Conv& ins);
void Execute(Machine& machine, const isa::Depthwise& ins);
void Execute(Machine& machine, const isa::Pool& ins);
void Execute(Machine& machine, const isa::Eltwise& ins);
void Execute(Machine& machine, const isa::Table& ins);
void Execute(Machine& machine, const isa::Copy& ins);
void Execute(Machine& machine, const isa::Store& ins);

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
