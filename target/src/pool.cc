// POOL: largest value or sum over a window.
#include <algorithm>
#include <limits>

#include "machine.h"
#include "requantize.h"
#include "window.h"

namespace qaccel {

namespace {

constexpr int kBlock = kLanes;
constexpr int64_t kNoTap = std::numeric_limits<int64_t>::min();  // a maximum over nothing yet

// acc[c] += sum over taps of a[tap][c]: 255 * 255 taps of 16 bits fit 32 bits.
QACCEL_CLONES void AddTaps(const int16_t* const* a, int64_t taps, int64_t channels, int64_t* acc) {
  for (int64_t c = 0; c < channels; c += kBlock) {
    int32_t sums[kBlock] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int i = 0; i < kBlock; ++i) sums[i] += a[tap][c + i];
    }
    const int64_t count = std::min<int64_t>(kBlock, channels - c);
    for (int64_t i = 0; i < count; ++i) acc[c + i] += sums[i];
  }
}

// acc[c] = largest of acc[c] and a[tap][c]; taps >= 1.
QACCEL_CLONES void MaxTaps(const int16_t* const* a, int64_t taps, int64_t channels, int64_t* acc) {
  for (int64_t c = 0; c < channels; c += kBlock) {
    int16_t most[kBlock];
    std::copy_n(a[0] + c, kBlock, most);
    for (int64_t tap = 1; tap < taps; ++tap) {
      for (int i = 0; i < kBlock; ++i) most[i] = most[i] < a[tap][c + i] ? a[tap][c + i] : most[i];
    }
    const int64_t count = std::min<int64_t>(kBlock, channels - c);
    for (int64_t i = 0; i < count; ++i) acc[c + i] = std::max<int64_t>(acc[c + i], most[i]);
  }
}

}  // namespace

void Execute(Machine& machine, const isa::Pool& ins) {
  CheckWindow(ins);
  CheckPositive("channels", ins.channels);
  CheckLineBuffer(machine.hw, ins, machine.hw.cols);
  const bool sum = ins.kind == isa::PoolKind::Sum;
  const OutputRange range = OutputRangeOf(ins);
  const AccumulatorShape shape{ins.kOpcode, ins.out_h,   ins.out_w,    ins.channels,
                               0,           ins.in_bits, ins.out_bits, static_cast<int64_t>(ins.kind)};
  CheckAccumulate(machine.accumulators, shape, ins.accumulate, ins.finish, machine.hw);
  ReadFootprint(machine, ins, ins.channels);
  const View output = OutputView(ins, ins.channels);
  ChannelScales scales;
  if (ins.finish) {
    scales = ChannelScales::Uniform(ins.channels, ins.multiplier, ins.shift);
    ClaimOutput(machine, output);
  }

  const bool keep = ins.accumulate || !ins.finish;  // else one row's accumulators are enough
  const int64_t start = sum ? 0 : kNoTap;
  if (keep && !ins.accumulate) machine.accumulators.values.assign(static_cast<size_t>(shape.count()), start);
  const int64_t row_size = ins.out_w * ins.channels, bits = shape.Bits(machine.hw);
  RowCache cache(machine.sram.data(), ins, ins.channels, 1, machine.unpacked);
  std::vector<int16_t> outputs(static_cast<size_t>(ins.finish ? row_size + kLanes : 0));
  std::vector<const int16_t*> taps;
  for (int64_t y = 0; y < ins.out_h; ++y) {
    if (!keep) machine.sums.assign(static_cast<size_t>(row_size), start);
    int64_t* acc = keep ? machine.accumulators.values.data() + y * row_size : machine.sums.data();
    const Taps rows = ExistingTaps(y, ins.stride_h, ins.dilation_h, ins.pad_top, ins.kernel_h, ins.in_h);
    for (int64_t x = 0; x < ins.out_w; ++x) {
      const Taps pixels = ExistingTaps(x, ins.stride_w, ins.dilation_w, ins.pad_left, ins.kernel_w, ins.in_w);
      taps.clear();
      for (int64_t ky = rows.begin; ky < rows.end && pixels.begin < pixels.end; ++ky) {
        const int16_t* row = cache.Row(y * ins.stride_h + ky * ins.dilation_h - ins.pad_top);
        for (int64_t kx = pixels.begin; kx < pixels.end; ++kx) {
          taps.push_back(row + cache.Offset(x * ins.stride_w + kx * ins.dilation_w - ins.pad_left));
        }
      }
      if (taps.empty()) continue;
      (sum ? AddTaps : MaxTaps)(taps.data(), static_cast<int64_t>(taps.size()), ins.channels, acc + x * ins.channels);
    }
    if (sum) CheckAccumulators(acc, row_size, bits);
    if (!ins.finish) continue;
    const int64_t* nothing = std::find(acc, acc + row_size, kNoTap);
    if (!sum && nothing != acc + row_size) {
      Fail("maximum over no tap at all at output row ", y, ", pixel ", (nothing - acc) / ins.channels);
    }
    Requantize(scales, range, bits, ins.out_w, acc, outputs.data());
    WritePixels(machine.sram.data(), output, ins.channels, ins.out_bits, y * ins.out_w, ins.out_w, outputs.data());
  }
  machine.accumulators.open = !ins.finish;
  machine.accumulators.shape = shape;
}

Duration DurationOf(const Machine& machine, const isa::Pool& ins) {
  const Config& hw = machine.hw;
  return Computing(hw, std::max({WindowTaps(hw, ins, hw.cols), SramRead(hw, FootprintBytes(ins)),
                                 Finishing(hw, ins, ins.channels)}));
}

Work WorkOf(const isa::Pool&) { return {}; }

}  // namespace qaccel
