// Cycles of the units that several instructions use (ISA manual, "How long ... takes").
#pragma once

#include <algorithm>
#include <cstdint>

#include "machine.h"

namespace qaccel {

// Products of sizes of a config can exceed 64 bits; a duration may not.
using Wide = __int128;

// Throws Fault if it takes more than 2^60 cycles.
inline int64_t Cycles(Wide value) {
  if (value > (Wide{1} << 60)) Fail("takes more than 2^60 cycles");
  return static_cast<int64_t>(value);
}

inline Wide CeilDivWide(Wide value, Wide divisor) { return (value + divisor - 1) / divisor; }

inline Wide SramRead(const Config& hw, Wide bytes) { return CeilDivWide(bytes, hw.sram_read_bytes_per_cycle); }

inline Wide SramWrite(const Config& hw, int64_t pixels, int64_t channels, int64_t bits) {
  return CeilDivWide(Wide{pixels} * ChannelBytes(channels, bits), hw.sram_write_bytes_per_cycle);
}

inline Wide Requantizer(const Config& hw, int64_t pixels, int64_t channels) {
  return CeilDivWide(Wide{pixels} * channels, hw.requantize_outputs_per_cycle);
}

// What units that a CONV or DEPTHWISE shares with the instruction that it forwards to need for it: `array` with the read of weights.
struct UnitTimes {
  Wide array = 0, sram_read = 0, requantizer = 0;
};
UnitTimes UnitsOf(const Config& hw, const isa::Conv& ins);
UnitTimes UnitsOf(const Config& hw, const isa::Depthwise& ins);
// Of the instruction that forwards, for the one that takes it; nothing for one that takes nothing.
template <typename Ins>
UnitTimes ForwardedUnits(const Machine& machine, const Ins& ins) {
  if (!ins.forwarded) return {};
  return std::visit([&](const auto& by) { return UnitsOf(machine.hw, by); }, machine.forwarded.by);
}

// SRAM write and requantizer, if the instruction finishes.
template <typename Ins>
Wide Finishing(const Config& hw, const Ins& ins, int64_t channels) {
  if (!ins.finish) return 0;
  const int64_t pixels = ins.out_h * ins.out_w;
  return std::max(SramWrite(hw, pixels, channels, ins.out_bits), Requantizer(hw, pixels, channels));
}

// One that forwards is only taken note of.
inline Duration Noting() {
  Duration duration;
  duration.units = 1;
  return duration;
}

// An instruction of COMPUTE whose slowest unit takes that long.
inline Duration Computing(const Config& hw, Wide units) {
  Duration duration;
  duration.start_up = hw.start_up_cycles_compute;
  duration.units = Cycles(units);
  return duration;
}

// An instruction that transfers `dram`, while its side to SRAM takes `units`.
inline Duration Transferring(int64_t start_up, Wide units, const View& dram) {
  Duration duration;
  duration.start_up = start_up;
  duration.units = Cycles(units);
  duration.transfers = true;
  duration.dram = dram;
  return duration;
}

}  // namespace qaccel
