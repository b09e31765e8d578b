// ISA manual, "numerics": rhe, and accumulators to outputs.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"

namespace qaccel {

// The output's numbers. Throws Fault if they do not fit its width.
struct OutputRange {
  int64_t bits, zero_point, lo, hi;
};
void CheckOutputRange(const OutputRange& range);
template <typename Ins>
OutputRange OutputRangeOf(const Ins& ins) {
  const OutputRange range{ins.out_bits, ins.out_zero_point, ins.clamp_lo, ins.clamp_hi};
  CheckOutputRange(range);
  return range;
}

// What the vectorised loops handle at once. They may read and write so many values beyond what they are given.
constexpr int kLanes = 16;

// Bias and scale of each channel, repeated so that several pixels are handled at once, and padded to whole lanes.
struct ChannelScales {
  std::vector<int64_t> bias, multiplier, shift;
  std::vector<int64_t> rounding, lifted;  // only if narrow: what ScaleSums adds before its shift, takes off afterwards
  bool narrow = false;                    // whether every shift is one that sums of 32 bits are quick with
  bool long_shifts = false;               // whether every shift is one that longer sums are quick with
  int64_t channels = 0;
  int64_t pixels = 0;                     // repetitions

  // All channels alike, without bias.
  static ChannelScales Uniform(int64_t channels, int64_t multiplier, int64_t shift);
  // Parameter records at `records`. Throws Fault on a damaged one.
  static ChannelScales FromRecords(const uint8_t* records, int64_t channels);

 private:
  void Repeat();
};

// clamp(zero_point + rhe((acc + bias) * M * 2^-s), lo, hi) for `pixels` pixels of accumulators [pixels, channels] into
// `out` [pixels, channels] and kLanes more. Throws Fault if acc + bias leaves `accumulator_bits` bits.
void Requantize(const ChannelScales& scales, const OutputRange& range, int64_t accumulator_bits, int64_t pixels,
                const int64_t* acc, int16_t* out);

// The same for accumulators of 32 bits [pixels, stride], of which the first `channels` of each pixel count; kLanes more
// follow the last.
void Requantize(const ChannelScales& scales, const OutputRange& range, int64_t accumulator_bits, int64_t pixels,
                const int32_t* acc, int64_t stride, int16_t* out);

// clamp(zero_point + rhe(t * 2^-shift), lo, hi) for |t| < 2^62; t is overwritten.
void RoundAll(int64_t* t, int64_t count, int64_t shift, const OutputRange& range, int16_t* out);

// Throws Fault naming the first of the accumulators that does not fit `bits` bits.
void CheckAccumulators(const int64_t* acc, int64_t count, int64_t bits);

}  // namespace qaccel
