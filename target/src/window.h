// What instructions with a window over the input share: CONV, DEPTHWISE, POOL.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "elements.h"
#include "forward.h"
#include "machine.h"
#include "requantize.h"
#include "timing.h"

namespace qaccel {

// Rows and pixels that the outputs of a windowed instruction read, from row 0 and pixel 0 on (padding is never
// negative).
struct Footprint {
  int64_t rows = 0, pixels = 0;  // both 0 if no tap can exist
};
template <typename Window>
Footprint FootprintOf(const Window& w) {
  const int64_t rows = std::min(w.in_h, (w.out_h - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1 - w.pad_top);
  const int64_t pixels =
      std::min(w.in_w, (w.out_w - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1 - w.pad_left);
  return rows <= 0 || pixels <= 0 ? Footprint{} : Footprint{rows, pixels};
}

// Taps [begin, end) of one axis that fall on existing input.
struct Taps {
  int64_t begin, end;

  bool Empty() const { return begin == end; }
};
inline Taps ExistingTaps(int64_t out, int64_t stride, int64_t dilation, int64_t pad, int64_t kernel, int64_t size) {
  const int64_t first = out * stride - pad;  // input coordinate of tap 0
  const int64_t begin = first >= 0 ? 0 : std::min(kernel, CeilDiv(-first, dilation));
  const int64_t end = first >= size ? 0 : std::min(kernel, (size - 1 - first) / dilation + 1);
  return {begin, std::max(begin, end)};
}

template <typename Window>
void CheckWindow(const Window& w) {
  CheckPositive("in_h", w.in_h);
  CheckPositive("in_w", w.in_w);
  CheckPositive("kernel_h", w.kernel_h);
  CheckPositive("kernel_w", w.kernel_w);
  CheckPositive("stride_h", w.stride_h);
  CheckPositive("stride_w", w.stride_w);
  CheckPositive("dilation_h", w.dilation_h);
  CheckPositive("dilation_w", w.dilation_w);
  CheckPositive("out_h", w.out_h);
  CheckPositive("out_w", w.out_w);
  CheckZeroPoint("in_zero_point", w.in_bits, w.in_zero_point);
}

// The footprint, which is not empty, in SRAM.
template <typename Window>
View FootprintView(const Window& w, int64_t channels) {
  const Footprint footprint = FootprintOf(w);
  return {w.in_addr,        footprint.rows,    w.in_row_stride,
          footprint.pixels, w.in_pixel_stride, ChannelBytes(channels, w.in_bits)};
}

template <typename Window>
void ReadFootprint(Machine& machine, const Window& w, int64_t channels) {
  if (FootprintOf(w).rows != 0) machine.sram.Read(FootprintView(w, channels), machine.actor);
}

// `columns`: channels that the array handles at once.
template <typename Window>
void CheckLineBuffer(const Config& hw, const Window& w, int64_t columns) {
  const int64_t spanned = std::min(w.out_h, CeilDiv(hw.ArrayRows(w.in_bits) - 1, w.out_w) + 1);
  const int64_t lines = std::min(w.in_h, (spanned - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
  const int64_t pixels = std::min(w.in_w, (w.out_w - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1);
  const int64_t bytes = lines * pixels * ChannelBytes(std::min(w.channels, columns), w.in_bits);
  if (bytes > hw.line_buffer_bytes) {
    Fail("needs ", bytes, " bytes of line buffer (", lines, " lines of ", pixels, " pixels), the machine has ",
         hw.line_buffer_bytes);
  }
}

// Bytes that a DEPTHWISE or POOL reads of its input.
template <typename Window>
Wide FootprintBytes(const Window& w) {
  const Footprint footprint = FootprintOf(w);
  return Wide{footprint.rows} * footprint.pixels * ChannelBytes(w.channels, w.in_bits);
}

// Cycles of the array for their taps. `columns`: channels that it handles at once.
template <typename Window>
Wide WindowTaps(const Config& hw, const Window& w, int64_t columns) {
  return CeilDivWide(w.channels, columns) * CeilDivWide(w.out_h * w.out_w, hw.ArrayRows(w.in_bits)) * w.kernel_h *
         w.kernel_w;
}

// Whether the output lies inside, does not overlap itself, nor anything that the instruction has read so far.
void CheckOutput(Machine& machine, const View& view);
// The same, and writes it; everything that the instruction reads has been read before.
void ClaimOutput(Machine& machine, const View& view);

// Writes `count` pixels [count, channels] of an output view from pixel `first` on, counted row by row.
void WritePixels(uint8_t* memory, const View& view, int64_t channels, int64_t bits, int64_t first, int64_t count,
                 const int16_t* values);

// The same for an instruction that finishes, or the begin of what it forwards. `in_channels`, `channels`: of input and output.
template <typename Ins>
void ClaimOrForward(Machine& machine, const Ins& ins, const View& output, int64_t in_channels, int64_t channels) {
  if (!ins.forward) return ClaimOutput(machine, output);
  // It is written by an instruction of as many values, of 4 bits at the least.
  const Wide count = Wide{ins.out_h} * ins.out_w * channels;
  if (count > Wide{2} * machine.sram.size()) Fail("forwards more values than SRAM has room for");
  Forwarded& forwarded = machine.forwarded;
  forwarded.by = ins;
  forwarded.values.clear();
  forwarded.values.reserve(static_cast<size_t>(count));
  forwarded.operands = {Flat(ins.param_addr, channels * isa::kParamsBytes)};
  if (FootprintOf(ins).rows != 0) forwarded.operands.push_back(FootprintView(ins, in_channels));
}

// Of such an instruction: `count` pixels of machine.outputs, from pixel `first` on.
template <typename Ins>
void WriteOrForward(Machine& machine, const Ins& ins, const View& output, int64_t channels, int64_t first,
                    int64_t count) {
  const int16_t* values = machine.outputs.data();
  if (ins.forward) return Forward(machine, values, count * channels);
  WritePixels(machine.sram.data(), output, channels, ins.out_bits, first, count, values);
}

template <typename Window>
View OutputView(const Window& w, int64_t channels) {
  return {w.out_addr, w.out_h, w.out_row_stride, w.out_w, w.out_pixel_stride, ChannelBytes(channels, w.out_bits)};
}

// Largest |q - Z| of an input.
inline int64_t LargestDifference(int64_t bits, int64_t zero_point) {
  return std::max(zero_point - LowestOf(bits), HighestOf(bits) - zero_point);
}

// Input rows as 16-bit differences to the zero point, unpacked when first asked for; kLanes values more than the last
// may be read. With a step of n, a row holds every nth pixel from 0 on, then every nth from 1 on, and so forth. Rows
// must be asked for within a window that moves down.
class RowCache {
 public:
  template <typename Window>
  RowCache(const uint8_t* memory, const Window& w, int64_t channels, int64_t step, std::vector<int16_t>& storage)
      : memory_(memory + w.in_addr),
        storage_(storage),
        row_stride_(w.in_row_stride),
        pixel_stride_(w.in_pixel_stride),
        bits_(w.in_bits),
        zero_point_(w.in_zero_point),
        channels_(channels),
        pixels_(FootprintOf(w).pixels),
        step_(step),
        held_(static_cast<size_t>(
                  std::max<int64_t>(1, std::min(FootprintOf(w).rows, (w.kernel_h - 1) * w.dilation_h + 1))),
              -1) {
    Grow(storage_, RowValues() * static_cast<int64_t>(held_.size()) + kLanes);
  }

  const int16_t* Row(int64_t row) {
    const size_t slot = static_cast<size_t>(row) % held_.size();
    int16_t* values = storage_.data() + slot * static_cast<size_t>(RowValues());
    if (held_[slot] != row) Fill(row, values);
    held_[slot] = row;
    return values;
  }

  // Where a pixel begins in a row.
  int64_t Offset(int64_t pixel) const {
    return step_ == 1 ? pixel * channels_ : (pixel % step_ * CeilDiv(pixels_, step_) + pixel / step_) * channels_;
  }

 private:
  int64_t RowValues() const { return CeilDiv(pixels_, step_) * step_ * channels_; }
  void Fill(int64_t row, int16_t* values) const;

  const uint8_t* memory_;
  std::vector<int16_t>& storage_;
  int64_t row_stride_, pixel_stride_, bits_, zero_point_, channels_, pixels_, step_;
  std::vector<int64_t> held_;
};

}  // namespace qaccel
