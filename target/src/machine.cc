#include "machine.h"

#include <cstring>

namespace qaccel {

Machine::Machine(const Config& config, uint8_t* dram_data, int64_t dram_bytes)
    : hw(config),
      sram_data(Zeroed<uint8_t>(config.sram_bytes)),
      weight_data(Zeroed<uint8_t>(config.weight_buffer_bytes)),
      dram("DRAM", dram_data, dram_bytes),
      sram("SRAM", sram_data.get(), config.sram_bytes),
      weights("the weight buffer", weight_data.get(), config.weight_buffer_bytes) {}

void Machine::Restart() {
  for (Memory* memory : {&dram, &sram, &weights}) memory->Clear();
  accumulators.open = false;
}

namespace {

// One row of pixels of a size that is known beforehand.
template <int kBytes>
void CopyFew(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride, int64_t pixels) {
  for (; pixels > 0; --pixels, from += from_stride, to += to_stride) std::memcpy(to, from, kBytes);
}

}  // namespace

void CopyPixels(const uint8_t* from, const View& source, uint8_t* to, const View& target) {
  const int64_t bytes = source.bytes, pixels = source.pixels;
  const bool dense = source.Dense() && target.Dense();
  for (int64_t row = 0; row < source.rows; ++row) {
    const uint8_t* read = from + source.Pixel(row, 0);
    uint8_t* write = to + target.Pixel(row, 0);
    if (dense) {
      std::memcpy(write, read, static_cast<size_t>(pixels * bytes));
    } else if (bytes == 4) {
      CopyFew<4>(read, source.pixel_stride, write, target.pixel_stride, pixels);
    } else if (bytes == 8) {
      CopyFew<8>(read, source.pixel_stride, write, target.pixel_stride, pixels);
    } else if (bytes == 16) {
      CopyFew<16>(read, source.pixel_stride, write, target.pixel_stride, pixels);
    } else {
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        std::memcpy(write + pixel * target.pixel_stride, read + pixel * source.pixel_stride,
                    static_cast<size_t>(bytes));
      }
    }
  }
}

}  // namespace qaccel
