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
  const uint8_t* source = memory_ + row * row_stride_;
  if (step_ == 1 && pixel_stride_ * 8 == channels_ * bits_) {
    Unpack(source, pixels_ * channels_, bits_, zero_point_, values);
    return;
  }
  for (int64_t x = 0; x < pixels_; ++x)
    Unpack(source + x * pixel_stride_, channels_, bits_, zero_point_, values + Offset(x));
}

}  // namespace qaccel
