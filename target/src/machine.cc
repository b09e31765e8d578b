#include "machine.h"

#include <cstring>

namespace qaccel {

using isa::Engine;

Machine::Machine(const Config& config, uint8_t* dram_data, int64_t dram_bytes)
    : hw(config),
      sram_data(Zeroed<uint8_t>(config.sram_bytes)),
      weight_data(Zeroed<uint8_t>(config.weight_buffer_bytes)),
      dram("DRAM", dram_data, dram_bytes, {Engine::Store}, {Engine::Load, Engine::Loadw}),
      sram("SRAM", sram_data.get(), config.sram_bytes, {Engine::Load, Engine::Compute},
           {Engine::Loadw, Engine::Compute, Engine::Store}),
      weights("the weight buffer", weight_data.get(), config.weight_buffer_bytes, {Engine::Loadw}, {Engine::Compute}) {}

void Machine::Restart() {
  sram.Clear();
  weights.Clear();
  accumulators.open = false;
  // Accesses need not be forgotten while numbers last: they count as older than everything that follows.
  for (const uint32_t first : first_ordinals) {
    if (first < (uint32_t{1} << 31)) continue;
    for (Memory* memory : {&dram, &sram, &weights}) memory->ForgetAccesses();
    first_ordinals = {};
    break;
  }
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
