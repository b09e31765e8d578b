// DEPTHWISE: the taps of each output pixel, a block of channels at a time.
#include <algorithm>

#include "machine.h"
#include "requantize.h"
#include "window.h"

namespace qaccel {

namespace {

constexpr int kBlock = RowCache::kAlign;

// acc[c] += sum over taps of a[tap][c] * w[tap][c]. Sum holds the sum of all taps.
template <typename Sum>
inline __attribute__((always_inline)) void AddTapsAs(const int16_t* const* a, const int16_t* const* w, int64_t taps,
                                                     int64_t channels, int64_t* acc) {
  for (int64_t c = 0; c < channels; c += kBlock) {
    Sum sums[kBlock] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int16_t* values = a[tap] + c;
      const int16_t* weights = w[tap] + c;
      for (int i = 0; i < kBlock; ++i) sums[i] += static_cast<Sum>(int32_t{values[i]} * int32_t{weights[i]});
    }
    const int64_t count = std::min<int64_t>(kBlock, channels - c);
    for (int64_t i = 0; i < count; ++i) acc[c + i] += sums[i];
  }
}

// At most 8 bits both: 255 * 255 taps of 255 * 128 fit 32 bits.
QACCEL_CLONES void AddTapsNarrow(const int16_t* const* a, const int16_t* const* w, int64_t taps, int64_t channels,
                                 int64_t* acc) {
  AddTapsAs<int32_t>(a, w, taps, channels, acc);
}

QACCEL_CLONES void AddTapsWide(const int16_t* const* a, const int16_t* const* w, int64_t taps, int64_t channels,
                               int64_t* acc) {
  AddTapsAs<int64_t>(a, w, taps, channels, acc);
}

// Weights as [kernel_h * kernel_w, padded channels].
void UnpackWeights(const Machine& machine, const isa::Depthwise& ins, int64_t padded, std::vector<int16_t>& out) {
  const int64_t taps = ins.kernel_h * ins.kernel_w, row_bytes = ChannelBytes(ins.channels, ins.weight_bits);
  out.assign(static_cast<size_t>(taps * padded), 0);
  for (int64_t tap = 0; tap < taps; ++tap) {
    Unpack(machine.weights.data() + ins.weight_addr + tap * row_bytes, ins.channels, ins.weight_bits, 0,
           out.data() + tap * padded);
  }
}

}  // namespace

void Execute(Machine& machine, const isa::Depthwise& ins) {
  CheckWindow(ins);
  CheckPositive("channels", ins.channels);
  CheckLineBuffer(machine.hw, ins, machine.hw.ArrayColumns(ins.weight_bits));
  const OutputRange range = OutputRangeOf(ins);
  const AccumulatorShape shape{ins.kOpcode,     ins.out_h,   ins.out_w,    ins.channels,
                               ins.weight_bits, ins.in_bits, ins.out_bits, 0};
  CheckAccumulate(machine.accumulators, shape, ins.accumulate, ins.finish, machine.hw);
  machine.weights.Read(Flat(ins.weight_addr, ins.kernel_h * ins.kernel_w * ChannelBytes(ins.channels, ins.weight_bits)),
                       machine.actor);
  ReadFootprint(machine, ins, ins.channels);
  const View output = OutputView(ins, ins.channels);
  ChannelScales scales;
  if (ins.finish) {
    machine.sram.Read(Flat(ins.param_addr, ins.channels * isa::kParamsBytes), machine.actor);
    scales = ChannelScales::FromRecords(machine.sram.data() + ins.param_addr, ins.channels);
    ClaimOutput(machine, output);
  }

  const bool keep = ins.accumulate || !ins.finish;  // else one row's sums are enough
  if (keep && !ins.accumulate) machine.accumulators.values.assign(static_cast<size_t>(shape.count()), 0);
  const int64_t row_size = ins.out_w * ins.channels, bits = shape.Bits(machine.hw);
  RowCache cache(machine.sram.data(), ins, machine.rows);
  const int64_t padded = cache.padded_channels();
  std::vector<int16_t> weights, outputs(static_cast<size_t>(ins.finish ? row_size : 0));
  UnpackWeights(machine, ins, padded, weights);
  std::vector<const int16_t*> tap_values, tap_weights;
  for (int64_t y = 0; y < ins.out_h; ++y) {
    if (!keep) machine.sums.assign(static_cast<size_t>(row_size), 0);
    int64_t* acc = keep ? machine.accumulators.values.data() + y * row_size : machine.sums.data();
    const Taps rows = ExistingTaps(y, ins.stride_h, ins.dilation_h, ins.pad_top, ins.kernel_h, ins.in_h);
    for (int64_t x = 0; x < ins.out_w; ++x) {
      const Taps pixels = ExistingTaps(x, ins.stride_w, ins.dilation_w, ins.pad_left, ins.kernel_w, ins.in_w);
      tap_values.clear();
      tap_weights.clear();
      for (int64_t ky = rows.begin; ky < rows.end && pixels.begin < pixels.end; ++ky) {
        const int16_t* row = cache.Row(y * ins.stride_h + ky * ins.dilation_h - ins.pad_top);
        for (int64_t kx = pixels.begin; kx < pixels.end; ++kx) {
          tap_values.push_back(row + (x * ins.stride_w + kx * ins.dilation_w - ins.pad_left) * padded);
          tap_weights.push_back(weights.data() + (ky * ins.kernel_w + kx) * padded);
        }
      }
      (bits == 32 ? AddTapsNarrow : AddTapsWide)(tap_values.data(), tap_weights.data(),
                                                 static_cast<int64_t>(tap_values.size()), ins.channels,
                                                 acc + x * ins.channels);
    }
    CheckAccumulators(acc, row_size, bits);
    if (!ins.finish) continue;
    Requantize(scales, range, bits, ins.out_w, acc, outputs.data());
    WritePixels(machine.sram.data(), output, ins.channels, ins.out_bits, y * ins.out_w, ins.out_w, outputs.data());
  }
  machine.accumulators.open = !ins.finish;
  machine.accumulators.shape = shape;
}

}  // namespace qaccel
