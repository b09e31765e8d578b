// What the instructions without a window share: ELTWISE, TABLE, COPY.
#pragma once

#include "machine.h"
#include "requantize.h"
#include "window.h"

namespace qaccel {

template <typename Ins>
View InputTile(const Ins& ins) {
  return {ins.in_addr, ins.h, ins.in_row_stride, ins.w, ins.in_pixel_stride, ChannelBytes(ins.channels, ins.in_bits)};
}

template <typename Ins>
View OutputTile(const Ins& ins) {
  return {
      ins.out_addr, ins.h, ins.out_row_stride, ins.w, ins.out_pixel_stride, ChannelBytes(ins.channels, ins.out_bits)};
}

template <typename Ins>
void CheckTile(const Ins& ins) {
  CheckPositive("h", ins.h);
  CheckPositive("w", ins.w);
  CheckPositive("channels", ins.channels);
}

// Pixels that can be handled as one: neither gaps nor half bytes between them.
inline bool Joined(const View& view, int64_t channels, int64_t bits) {
  return view.pixel_stride * 8 == channels * bits;
}

// A part of a pixel, or several whole pixels, so that a part's values stay in the first-level cache.
constexpr int64_t kPartValues = 2048;  // even, so that parts begin on bytes

}  // namespace qaccel
