// CONV: blocks of output pixels are gathered into rows of the flattened reduction and multiplied with the packed
// weights.
#include <algorithm>
#include <cstring>
#include <optional>

#include "elements.h"
#include "forward.h"
#include "gemm.h"
#include "machine.h"
#include "requantize.h"
#include "window.h"

namespace qaccel {

namespace {

// Copies in whole lanes: up to kLanes - 1 values more.
inline void CopyLanes(const int16_t* from, int64_t count, int16_t* to) {
  for (int64_t i = 0; i < count; i += kLanes) std::memcpy(to + i, from + i, kLanes * sizeof(int16_t));
}

// Fills rows of the flattened reduction, [kernel_h, kernel_w, in_channels] of one output pixel each, zero where a tap
// falls outside the input.
class Gatherer {
 public:
  Gatherer(Machine& machine, const isa::Conv& ins)
      : memory_(machine.sram.data()),
        ins_(ins),
        pointwise_(ins.kernel_h == 1 && ins.kernel_w == 1),
        dense_(ins.in_pixel_stride * 8 == ins.in_channels * ins.in_bits),
        columns_(static_cast<size_t>(ins.out_w)),
        lines_(static_cast<size_t>(ins.kernel_h)) {
    for (int64_t x = 0; x < ins.out_w; ++x)
      columns_[x] = ExistingTaps(x, ins.stride_w, ins.dilation_w, ins.pad_left, ins.kernel_w, ins.in_w);
    // Inputs that many taps share are unpacked once. Views that repeat their bytes can be larger than any memory.
    constexpr int64_t kCacheValuesMax = int64_t{1} << 23;
    const Footprint footprint = FootprintOf(ins);
    const int64_t lines = std::min(footprint.rows, (ins.kernel_h - 1) * ins.dilation_h + 1);
    if (!pointwise_ && lines > 0 && ins.in_channels <= kCacheValuesMax / lines / footprint.pixels)
      cache_.emplace(memory_, ins, ins.in_channels, 1, machine.unpacked);
  }

  // Output pixels [first, first + count), counted row by row, into rows `stride` apart; kLanes values follow the last
  // row.
  void Gather(int64_t first, int64_t count, int64_t stride, int16_t* out) {
    int64_t y = first / ins_.out_w, x = first % ins_.out_w;
    while (count > 0) {
      const int64_t run = std::min(count, ins_.out_w - x);
      const Taps rows = ExistingTaps(y, ins_.stride_h, ins_.dilation_h, ins_.pad_top, ins_.kernel_h, ins_.in_h);
      if (!GatherDense(y, rows, x, run, stride, out)) {
        for (int64_t ky = rows.begin; cache_ && ky < rows.end; ++ky) lines_[ky] = cache_->Row(InputRow(y, ky));
        for (int64_t i = 0; i < run; ++i) GatherPixel(y, rows, x + i, out + i * stride);
      }
      out += run * stride;
      count -= run;
      x = 0;
      ++y;
    }
  }

 private:
  int64_t InputRow(int64_t y, int64_t ky) const { return y * ins_.stride_h + ky * ins_.dilation_h - ins_.pad_top; }
  int64_t InputPixel(int64_t x, int64_t kx) const { return x * ins_.stride_w + kx * ins_.dilation_w - ins_.pad_left; }

  // Neighbouring pixels without a gap, if they are the reduction as it is.
  bool GatherDense(int64_t y, const Taps& rows, int64_t x, int64_t run, int64_t stride, int16_t* out) const {
    if (!pointwise_ || !dense_ || ins_.stride_w != 1 || stride != ins_.in_channels || rows.Empty() ||
        columns_[x].Empty() || columns_[x + run - 1].Empty()) {
      return false;
    }
    const uint8_t* source = memory_ + ins_.in_addr + InputRow(y, 0) * ins_.in_row_stride;
    Unpack(source + InputPixel(x, 0) * ins_.in_pixel_stride, run * ins_.in_channels, ins_.in_bits, ins_.in_zero_point,
           out);
    return true;
  }

  void GatherPixel(int64_t y, const Taps& rows, int64_t x, int16_t* out) {
    const Taps pixels = columns_[x];
    const int64_t channels = ins_.in_channels, row_size = ins_.kernel_w * channels;
    const bool whole = rows.end - rows.begin == ins_.kernel_h && pixels.end - pixels.begin == ins_.kernel_w;
    if (!whole) std::fill_n(out, ins_.kernel_h * row_size, int16_t{0});
    const int64_t taps = ins_.dilation_w == 1 ? pixels.end - pixels.begin : 1;  // that lie side by side
    for (int64_t ky = rows.begin; ky < rows.end; ++ky) {
      for (int64_t kx = pixels.begin; kx < pixels.end; kx += taps) {
        int16_t* target = out + ky * row_size + kx * channels;
        const int64_t pixel = InputPixel(x, kx);
        if (!cache_) {
          const uint8_t* source = memory_ + ins_.in_addr + InputRow(y, ky) * ins_.in_row_stride;
          for (int64_t tap = 0; tap < taps; ++tap) {
            Unpack(source + (pixel + tap) * ins_.in_pixel_stride, channels, ins_.in_bits, ins_.in_zero_point,
                   target + tap * channels);
          }
        } else if (whole) {  // what is beyond comes after it
          CopyLanes(lines_[ky] + cache_->Offset(pixel), taps * channels, target);
        } else {
          std::copy_n(lines_[ky] + cache_->Offset(pixel), taps * channels, target);
        }
      }
    }
  }

  const uint8_t* memory_;
  const isa::Conv& ins_;
  bool pointwise_, dense_;
  std::vector<Taps> columns_;           // by output pixel of a row
  std::vector<const int16_t*> lines_;  // of the cache, by tap row
  std::optional<RowCache> cache_;
};

void PackOnce(Machine& machine, const isa::Conv& ins, int64_t depth) {
  PackedWeights& packed = machine.packed;
  // Tiles over the output follow each other with the same weights.
  if (packed.addr == ins.weight_addr && packed.version == machine.weights.version() && packed.depth == depth &&
      packed.columns == ins.out_channels && packed.bits == ins.weight_bits) {
    return;
  }
  packed.addr = -1;
  PackWeights(machine.weights.data() + ins.weight_addr, ChannelBytes(ins.out_channels, ins.weight_bits), depth,
              ins.out_channels, ins.weight_bits, packed);
  packed.addr = ins.weight_addr;
  packed.version = machine.weights.version();
}

}  // namespace

void Execute(Machine& machine, const isa::Conv& ins) {
  CheckWindow(ins);
  CheckPositive("in_channels", ins.in_channels);
  CheckPositive("out_channels", ins.out_channels);
  const int64_t depth = ins.kernel_h * ins.kernel_w * ins.in_channels;
  const OutputRange range = OutputRangeOf(ins);
  const AccumulatorShape shape{ins.kOpcode,     ins.out_h,   ins.out_w,    ins.out_channels,
                               ins.weight_bits, ins.in_bits, ins.out_bits, 0};
  CheckAccumulate(machine.accumulators, shape, ins.accumulate, ins.finish, machine.hw);
  machine.weights.Read(Flat(ins.weight_addr, depth * ChannelBytes(ins.out_channels, ins.weight_bits)), machine.actor);
  ReadFootprint(machine, ins, ins.in_channels);
  const View output = OutputView(ins, ins.out_channels);
  ChannelScales scales;
  if (ins.finish) {
    machine.sram.Read(Flat(ins.param_addr, ins.out_channels * isa::kParamsBytes), machine.actor);
    scales = ChannelScales::FromRecords(machine.sram.data() + ins.param_addr, ins.out_channels);
    ClaimOrForward(machine, ins, output, ins.in_channels, ins.out_channels);
  }
  PackOnce(machine, ins, depth);

  const bool keep = ins.accumulate || !ins.finish;  // else one block's sums are enough
  if (keep && !ins.accumulate) machine.accumulators.values.assign(static_cast<size_t>(shape.count()), 0);
  const PackedWeights& packed = machine.packed;
  const int64_t pixels = ins.out_h * ins.out_w, padded = packed.padded_depth(), bits = shape.Bits(machine.hw);
  const int64_t largest = LargestDifference(ins.in_bits, ins.in_zero_point);
  const bool narrow = !keep && SumsFit(largest, packed);
  // A block's gathered rows should stay in the first-level cache; the kernels like multiples of 12.
  const int64_t block =
      std::max<int64_t>(1, std::min({int64_t{32}, 16384 / (12 * padded), 262144 / (12 * ins.out_channels)})) * 12;
  const int64_t at_once = std::min(block, pixels);
  Grow(machine.rows, at_once * padded + kLanes);
  Grow(machine.outputs, at_once * ins.out_channels + kLanes);
  if (narrow) Grow(machine.products, at_once * packed.padded_columns() + kLanes);
  Gatherer gatherer(machine, ins);
  for (int64_t first = 0; first < pixels; first += block) {
    const int64_t count = std::min(block, pixels - first);
    gatherer.Gather(first, count, padded, machine.rows.data());
    if (narrow) {
      MatrixProduct(machine.rows.data(), count, packed, machine.products.data());
      Requantize(scales, range, bits, count, machine.products.data(), packed.padded_columns(), machine.outputs.data());
    } else {
      if (!keep) machine.sums.assign(static_cast<size_t>(count * ins.out_channels), 0);
      int64_t* acc = keep ? machine.accumulators.values.data() + first * ins.out_channels : machine.sums.data();
      MatrixProduct(machine.rows.data(), count, largest, packed, machine.products, acc);
      CheckAccumulators(acc, count * ins.out_channels, bits);
      if (!ins.finish) continue;
      Requantize(scales, range, bits, count, acc, machine.outputs.data());
    }
    WriteOrForward(machine, ins, output, ins.out_channels, first, count);
  }
  machine.accumulators.open = !ins.finish;
  machine.accumulators.shape = shape;
}

UnitTimes UnitsOf(const Config& hw, const isa::Conv& ins) {
  const int64_t rows = hw.ArrayRows(ins.in_bits), columns = hw.ArrayColumns(ins.weight_bits);
  const int64_t pixels = ins.out_h * ins.out_w, depth = ins.kernel_h * ins.kernel_w * ins.in_channels;
  const Wide groups = CeilDivWide(ins.out_channels, columns), slices = CeilDivWide(depth, rows);
  const int64_t block = std::max<int64_t>(1, hw.accumulator_entries / 2 / columns);
  // Each slice of weights enters the array while the one before computes.
  const Wide fill = CeilDivWide(CeilDivWide(Wide{rows} * columns * ins.weight_bits, 8), hw.weight_read_bytes_per_cycle);
  Wide blocks = Wide{pixels / block} * std::max<Wide>(block, fill);
  if (pixels % block) blocks += std::max<Wide>(pixels % block, fill);
  const Wide read_bytes =
      groups * pixels * ChannelBytes(depth, ins.in_bits) + (ins.finish ? isa::kParamsBytes * ins.out_channels : 0);
  return {groups * slices * blocks, SramRead(hw, read_bytes), Requantizer(hw, pixels, ins.out_channels)};
}

Duration DurationOf(const Machine& machine, const isa::Conv& ins) {
  if (ins.forward) return Noting();
  const UnitTimes units = UnitsOf(machine.hw, ins);
  return Computing(machine.hw,
                   std::max({units.array, units.sram_read, Finishing(machine.hw, ins, ins.out_channels)}));
}

Work WorkOf(const isa::Conv& ins) {
  return {ins.out_h * ins.out_w * ins.out_channels * ins.kernel_h * ins.kernel_w * ins.in_channels, 0, 0, 0};
}

}  // namespace qaccel
