// LOAD and LOAD_RAW: DRAM to SRAM.
#include <cstring>

#include "timing.h"

namespace qaccel {

namespace {

// One pixel of padding.
std::vector<uint8_t> PaddingPixel(const isa::Load& ins) {
  if (ins.pad_value < LowestOf(ins.pad_bits) || ins.pad_value > HighestOf(ins.pad_bits)) {
    Fail("pad_value is ", ins.pad_value, ", outside its ", ins.pad_bits, " bits");
  }
  std::vector<uint8_t> pixel(static_cast<size_t>(ins.pixel_bytes));
  if (ins.pad_bits == 16) {
    const bool padded = ins.pad_top + ins.pad_bottom + ins.pad_left + ins.pad_right > 0;
    if (padded && ins.pixel_bytes % 2)
      Fail("pixel_bytes is ", ins.pixel_bytes, ", must be even to be padded with 16-bit values");
    for (size_t i = 0; i + 1 < pixel.size(); i += 2) {
      pixel[i] = static_cast<uint8_t>(ins.pad_value);
      pixel[i + 1] = static_cast<uint8_t>(ins.pad_value >> 8);
    }
  } else {
    const int value = static_cast<int>(ins.pad_value);
    std::memset(pixel.data(), ins.pad_bits == 8 ? value & 255 : (value & 15) * 17, pixel.size());
  }
  return pixel;
}

}  // namespace

void Execute(Machine& machine, const isa::Load& ins) {
  CheckPositive("rows", ins.rows);
  CheckPositive("pixels", ins.pixels);
  CheckPositive("pixel_bytes", ins.pixel_bytes);
  const View source{ins.dram_addr, ins.rows, ins.dram_row_stride, ins.pixels, ins.dram_pixel_stride, ins.pixel_bytes};
  const View padded{ins.sram_addr,         ins.pad_top + ins.rows + ins.pad_bottom,
                    ins.sram_row_stride,   ins.pad_left + ins.pixels + ins.pad_right,
                    ins.sram_pixel_stride, ins.pixel_bytes};
  const std::vector<uint8_t> padding = PaddingPixel(ins);
  machine.dram.Read(source, machine.actor);
  machine.sram.CheckInside(padded, "writes");
  CheckDistinct(padded, "output view");
  machine.sram.Write(padded, machine.actor);

  uint8_t* sram = machine.sram.data();
  for (int64_t row = 0; row < padded.rows; ++row) {
    const bool outside = row < ins.pad_top || row >= ins.pad_top + ins.rows;
    for (int64_t pixel = 0; pixel < padded.pixels; ++pixel) {
      if (!outside && pixel == ins.pad_left) pixel += ins.pixels;
      if (pixel < padded.pixels) std::memcpy(sram + padded.Pixel(row, pixel), padding.data(), padding.size());
    }
  }
  const View target{padded.Pixel(ins.pad_top, ins.pad_left),
                    ins.rows,
                    ins.sram_row_stride,
                    ins.pixels,
                    ins.sram_pixel_stride,
                    ins.pixel_bytes};
  CopyPixels(machine.dram.data(), source, sram, target);
}

void Execute(Machine& machine, const isa::LoadRaw& ins) {
  CheckPositive("bytes", ins.bytes);
  machine.dram.Read(Flat(ins.dram_addr, ins.bytes), machine.actor);
  machine.sram.Write(Flat(ins.sram_addr, ins.bytes), machine.actor);
  std::memcpy(machine.sram.data() + ins.sram_addr, machine.dram.data() + ins.dram_addr, static_cast<size_t>(ins.bytes));
}

Duration DurationOf(const Machine& machine, const isa::Load& ins) {
  const Config& hw = machine.hw;
  const int64_t rows = ins.pad_top + ins.rows + ins.pad_bottom, pixels = ins.pad_left + ins.pixels + ins.pad_right;
  return Transferring(
      hw.start_up_cycles_load, CeilDivWide(Wide{rows} * pixels * ins.pixel_bytes, hw.dram_bytes_per_cycle),
      {ins.dram_addr, ins.rows, ins.dram_row_stride, ins.pixels, ins.dram_pixel_stride, ins.pixel_bytes});
}

Work WorkOf(const isa::Load& ins) { return {0, 0, ins.rows * ins.pixels * ins.pixel_bytes, 0}; }

Duration DurationOf(const Machine& machine, const isa::LoadRaw& ins) {
  return Transferring(machine.hw.start_up_cycles_load, CeilDivWide(ins.bytes, machine.hw.dram_bytes_per_cycle),
                      Flat(ins.dram_addr, ins.bytes));
}

Work WorkOf(const isa::LoadRaw& ins) { return {0, ins.bytes, 0, 0}; }

}  // namespace qaccel
