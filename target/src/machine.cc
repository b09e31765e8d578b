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

void CopyPixels(const uint8_t* from, const View& source, uint8_t* to, const View& target) {
  const bool dense = source.Dense() && target.Dense();
  for (int64_t row = 0; row < source.rows; ++row) {
    if (dense) {
      std::memcpy(to + target.Pixel(row, 0), from + source.Pixel(row, 0),
                  static_cast<size_t>(source.pixels * source.bytes));
      continue;
    }
    for (int64_t pixel = 0; pixel < source.pixels; ++pixel) {
      std::memcpy(to + target.Pixel(row, pixel), from + source.Pixel(row, pixel), static_cast<size_t>(source.bytes));
    }
  }
}

}  // namespace qaccel
