// DEPTHWISE: the taps of each output pixel, a block of channels at a time.
#include <algorithm>

#include "machine.h"
#include "requantize.h"
#include "window.h"

namespace qaccel {

namespace {

// sums[i] = sum over taps of a[tap][i] * w[tap][i], for `count` values and up to kLanes - 1 more. Sum holds the sum of
// all taps.
template <typename Sum>
inline __attribute__((always_inline)) void SumTapsAs(const int16_t* const* a, const int16_t* const* w, int64_t taps,
                                                     int64_t count, Sum* sums) {
  for (int64_t begin = 0; begin < count; begin += kLanes) {
    Sum part[kLanes] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int16_t* values = a[tap] + begin;
      const int16_t* weights = w[tap] + begin;
      for (int i = 0; i < kLanes; ++i) part[i] += static_cast<Sum>(int32_t{values[i]} * int32_t{weights[i]});
    }
    for (int i = 0; i < kLanes; ++i) sums[begin + i] = part[i];
  }
}

QACCEL_CLONES void SumTaps(const int16_t* const* a, const int16_t* const* w, int64_t taps, int64_t count,
                           int32_t* sums) {
  SumTapsAs(a, w, taps, count, sums);
}

QACCEL_CLONES void SumTaps(const int16_t* const* a, const int16_t* const* w, int64_t taps, int64_t count,
                           int64_t* sums) {
  SumTapsAs(a, w, taps, count, sums);
}

constexpr int64_t kFewChannels = 2 * kLanes;  // below, several pixels are handled at once

// Sums of output rows, several pixels at once where all of them have all taps of a row.
class Rows {
 public:
  Rows(Machine& machine, const isa::Depthwise& ins)
      : ins_(ins),
        step_(ins.channels < kFewChannels ? std::min(ins.stride_w, std::max<int64_t>(1, FootprintOf(ins).pixels)) : 1),
        cache_(machine.sram.data(), ins, ins.channels, step_, machine.unpacked) {
    // Outputs with every tap of a row: the first, and the first beyond.
    const int64_t reach = (ins.kernel_w - 1) * ins.dilation_w;
    inner_begin_ = std::min(ins.out_w, CeilDiv(ins.pad_left, ins.stride_w));
    inner_end_ = ins.in_w - 1 + ins.pad_left < reach
                     ? inner_begin_
                     : std::min(ins.out_w, (ins.in_w - 1 + ins.pad_left - reach) / ins.stride_w + 1);
    inner_end_ = std::max(inner_begin_, inner_end_);
    const bool adjacent = ins.stride_w == step_;  // neighbouring outputs read neighbouring values
    const int64_t inner = std::max<int64_t>(1, inner_end_ - inner_begin_);
    together_ = adjacent ? std::min(inner, std::max<int64_t>(1, kValuesTogether / ins.channels)) : 1;
    UnpackWeights(machine);
  }

  // sums[out_w, channels] of output row y; kLanes values follow.
  template <typename Value>
  void Sum(int64_t y, Value* sums) {
    const Taps rows = ExistingTaps(y, ins_.stride_h, ins_.dilation_h, ins_.pad_top, ins_.kernel_h, ins_.in_h);
    for (int64_t x = 0; x < ins_.out_w;) {
      const bool inner = x >= inner_begin_ && x < inner_end_;
      const int64_t pixels = inner ? std::min(together_, inner_end_ - x) : 1;
      const Taps columns = ExistingTaps(x, ins_.stride_w, ins_.dilation_w, ins_.pad_left, ins_.kernel_w, ins_.in_w);
      tap_values_.clear();
      tap_weights_.clear();
      for (int64_t ky = rows.begin; ky < rows.end && !columns.Empty(); ++ky) {
        const int16_t* row = cache_.Row(y * ins_.stride_h + ky * ins_.dilation_h - ins_.pad_top);
        for (int64_t kx = columns.begin; kx < columns.end; ++kx) {
          tap_values_.push_back(row + cache_.Offset(x * ins_.stride_w + kx * ins_.dilation_w - ins_.pad_left));
          tap_weights_.push_back(weights_.data() + (ky * ins_.kernel_w + kx) * weights_stride_);
        }
      }
      SumTaps(tap_values_.data(), tap_weights_.data(), static_cast<int64_t>(tap_values_.size()), pixels * ins_.channels,
              sums + x * ins_.channels);
      x += pixels;
    }
  }

 private:
  static constexpr int64_t kValuesTogether = 256;

  // As [kernel_h * kernel_w, pixels together, channels], each tap padded to whole lanes.
  void UnpackWeights(const Machine& machine) {
    const int64_t taps = ins_.kernel_h * ins_.kernel_w, row_bytes = ChannelBytes(ins_.channels, ins_.weight_bits);
    weights_stride_ = CeilDiv(together_ * ins_.channels, kLanes) * kLanes;
    weights_.assign(static_cast<size_t>(taps * weights_stride_), 0);
    for (int64_t tap = 0; tap < taps; ++tap) {
      int16_t* values = weights_.data() + tap * weights_stride_;
      Unpack(machine.weights.data() + ins_.weight_addr + tap * row_bytes, ins_.channels, ins_.weight_bits, 0, values);
      for (int64_t pixel = 1; pixel < together_; ++pixel)
        std::copy_n(values, ins_.channels, values + pixel * ins_.channels);
    }
  }

  const isa::Depthwise& ins_;
  int64_t step_;
  RowCache cache_;
  int64_t inner_begin_, inner_end_, together_, weights_stride_;
  std::vector<int16_t> weights_;
  std::vector<const int16_t*> tap_values_, tap_weights_;
};

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
    ClaimOrForward(machine, ins, output, ins.channels, ins.channels);
  }

  const bool keep = ins.accumulate || !ins.finish;  // else one row's sums are enough
  if (keep && !ins.accumulate) machine.accumulators.values.assign(static_cast<size_t>(shape.count()), 0);
  const int64_t row_size = ins.out_w * ins.channels, bits = shape.Bits(machine.hw);
  const int64_t largest = LargestDifference(ins.in_bits, ins.in_zero_point) * -LowestOf(ins.weight_bits);
  const bool narrow = !keep && ins.kernel_h * ins.kernel_w <= INT32_MAX / largest;
  Rows rows(machine, ins);
  Grow(machine.outputs, row_size + kLanes);
  Grow(machine.products, row_size + kLanes);
  Grow(machine.sums, row_size + kLanes);
  for (int64_t y = 0; y < ins.out_h; ++y) {
    if (narrow) {
      rows.Sum(y, machine.products.data());
      Requantize(scales, range, bits, ins.out_w, machine.products.data(), ins.channels, machine.outputs.data());
    } else {
      rows.Sum(y, machine.sums.data());
      int64_t* acc = machine.sums.data();
      if (keep) {
        acc = machine.accumulators.values.data() + y * row_size;
        for (int64_t i = 0; i < row_size; ++i) acc[i] += machine.sums[i];
      }
      CheckAccumulators(acc, row_size, bits);
      if (!ins.finish) continue;
      Requantize(scales, range, bits, ins.out_w, acc, machine.outputs.data());
    }
    WriteOrForward(machine, ins, output, ins.channels, y * ins.out_w, ins.out_w);
  }
  machine.accumulators.open = !ins.finish;
  machine.accumulators.shape = shape;
}

UnitTimes UnitsOf(const Config& hw, const isa::Depthwise& ins) {
  const Wide weight_bytes = Wide{ins.kernel_h * ins.kernel_w} * ChannelBytes(ins.channels, ins.weight_bits);
  const Wide read_bytes = FootprintBytes(ins) + (ins.finish ? isa::kParamsBytes * ins.channels : 0);
  return {std::max(WindowTaps(hw, ins, hw.ArrayColumns(ins.weight_bits)),
                   CeilDivWide(weight_bytes, hw.weight_read_bytes_per_cycle)),
          SramRead(hw, read_bytes), Requantizer(hw, ins.out_h * ins.out_w, ins.channels)};
}

Duration DurationOf(const Machine& machine, const isa::Depthwise& ins) {
  if (ins.forward) return Noting();
  const UnitTimes units = UnitsOf(machine.hw, ins);
  return Computing(machine.hw, std::max({units.array, units.sram_read, Finishing(machine.hw, ins, ins.channels)}));
}

Work WorkOf(const isa::Depthwise& ins) {
  return {ins.out_h * ins.out_w * ins.channels * ins.kernel_h * ins.kernel_w, 0, 0, 0};
}

}  // namespace qaccel
