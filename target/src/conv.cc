// CONV: blocks of output pixels are gathered into rows of the flattened reduction and multiplied with the packed
// weights.
#include <algorithm>

#include "elements.h"
#include "gemm.h"
#include "machine.h"
#include "requantize.h"
#include "window.h"

namespace qaccel {

namespace {

// Taps of one output pixel as [kernel_h, kernel_w, in_channels], zero where they fall outside the input.
void GatherPixel(const uint8_t* memory, const isa::Conv& ins, int64_t y, int64_t x, int16_t* out) {
  const Taps rows = ExistingTaps(y, ins.stride_h, ins.dilation_h, ins.pad_top, ins.kernel_h, ins.in_h);
  const Taps pixels = ExistingTaps(x, ins.stride_w, ins.dilation_w, ins.pad_left, ins.kernel_w, ins.in_w);
  const int64_t row_size = ins.kernel_w * ins.in_channels;
  const bool joined = ins.dilation_w == 1 && ins.in_pixel_stride * 8 == ins.in_channels * ins.in_bits;
  if (rows.end - rows.begin < ins.kernel_h || pixels.end - pixels.begin < ins.kernel_w) {
    std::fill_n(out, ins.kernel_h * row_size, int16_t{0});
  }
  for (int64_t ky = rows.begin; ky < rows.end; ++ky) {
    const uint8_t* row =
        memory + ins.in_addr + (y * ins.stride_h + ky * ins.dilation_h - ins.pad_top) * ins.in_row_stride;
    int16_t* target = out + ky * row_size;
    for (int64_t kx = pixels.begin; kx < pixels.end; ++kx) {
      const int64_t taps = joined ? pixels.end - kx : 1;
      const int64_t pixel = x * ins.stride_w + kx * ins.dilation_w - ins.pad_left;
      Unpack(row + pixel * ins.in_pixel_stride, taps * ins.in_channels, ins.in_bits, ins.in_zero_point,
             target + kx * ins.in_channels);
      kx += taps - 1;
    }
  }
}

// Largest |q - Z|.
int64_t LargestDifference(int64_t bits, int64_t zero_point) {
  return std::max(zero_point - LowestOf(bits), HighestOf(bits) - zero_point);
}

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
    ClaimOutput(machine, output);
  }
  PackOnce(machine, ins, depth);

  const bool keep = ins.accumulate || !ins.finish;  // else one block's sums are enough
  if (keep && !ins.accumulate) machine.accumulators.values.assign(static_cast<size_t>(shape.count()), 0);
  const int64_t pixels = ins.out_h * ins.out_w, padded = machine.packed.padded_depth(), bits = shape.Bits(machine.hw);
  // A block's gathered rows should stay in the second-level cache; the kernels like multiples of 12.
  const int64_t block =
      std::max<int64_t>(1, std::min({int64_t{32}, 65536 / (12 * padded), 262144 / (12 * ins.out_channels)})) * 12;
  machine.rows.assign(static_cast<size_t>(std::min(block, pixels) * padded), 0);
  machine.more_rows.resize(static_cast<size_t>(std::min(block, pixels) * ins.out_channels));
  for (int64_t first = 0; first < pixels; first += block) {
    const int64_t count = std::min(block, pixels - first);
    for (int64_t p = 0; p < count; ++p) {
      GatherPixel(machine.sram.data(), ins, (first + p) / ins.out_w, (first + p) % ins.out_w,
                  machine.rows.data() + p * padded);
    }
    if (!keep) machine.sums.assign(static_cast<size_t>(count * ins.out_channels), 0);
    int64_t* acc = keep ? machine.accumulators.values.data() + first * ins.out_channels : machine.sums.data();
    MatrixProduct(machine.rows.data(), count, LargestDifference(ins.in_bits, ins.in_zero_point), machine.packed,
                  machine.products, acc);
    CheckAccumulators(acc, count * ins.out_channels, bits);
    if (!ins.finish) continue;
    Requantize(scales, range, bits, count, acc, machine.more_rows.data());
    WritePixels(machine.sram.data(), output, ins.out_channels, ins.out_bits, first, count, machine.more_rows.data());
  }
  machine.accumulators.open = !ins.finish;
  machine.accumulators.shape = shape;
}

}  // namespace qaccel
