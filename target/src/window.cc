#include "window.h"

namespace qaccel {

void CheckOutput(Machine& machine, const View& view) {
  machine.sram.CheckInside(view, "writes");
  CheckDistinct(view, "output view");
  machine.sram.CheckUnread(view, machine.actor);
}

void ClaimOutput(Machine& machine, const View& view) {
  CheckOutput(machine, view);
  machine.sram.Write(view, machine.actor);
}

void WritePixels(uint8_t* memory, const View& view, int64_t channels, int64_t bits, int64_t first, int64_t count,
                 const int16_t* values) {
  const bool joined = view.pixel_stride * 8 == channels * bits;  // no gap and no half byte between pixels
  int64_t row = first / view.pixels, pixel = first % view.pixels;
  while (count > 0) {
    const int64_t run = joined ? std::min(count, view.pixels - pixel) : 1;
    Pack(values, run * channels, bits, memory + view.Pixel(row, pixel));
    values += run * channels;
    count -= run;
    pixel += run;
    if (pixel == view.pixels) {
      pixel = 0;
      ++row;
    }
  }
}

void RowCache::Fill(int64_t row, int16_t* values) const {
  for (int64_t first = 0; first < std::min(step_, pixels_); ++first) {
    UnpackPixels(memory_ + row * row_stride_ + first * pixel_stride_, step_ * pixel_stride_,
                 CeilDiv(pixels_ - first, step_), channels_, bits_, zero_point_, values + Offset(first));
  }
}

}  // namespace qaccel
