// STORE: SRAM to DRAM.
#include "timing.h"

namespace qaccel {

void Execute(Machine& machine, const isa::Store& ins) {
  CheckPositive("rows", ins.rows);
  CheckPositive("pixels", ins.pixels);
  CheckPositive("pixel_bytes", ins.pixel_bytes);
  const View source{ins.sram_addr, ins.rows, ins.sram_row_stride, ins.pixels, ins.sram_pixel_stride, ins.pixel_bytes};
  const View target{ins.dram_addr, ins.rows, ins.dram_row_stride, ins.pixels, ins.dram_pixel_stride, ins.pixel_bytes};
  machine.sram.Read(source, machine.actor);
  machine.dram.CheckInside(target, "writes");
  CheckDistinct(target, "output view");
  machine.dram.Write(target, machine.actor);
  CopyPixels(machine.sram.data(), source, machine.dram.data(), target);
}

Duration DurationOf(const Machine& machine, const isa::Store& ins) {
  const Config& hw = machine.hw;
  return Transferring(
      hw.start_up_cycles_store, CeilDivWide(Wide{ins.rows} * ins.pixels * ins.pixel_bytes, hw.dram_bytes_per_cycle),
      {ins.dram_addr, ins.rows, ins.dram_row_stride, ins.pixels, ins.dram_pixel_stride, ins.pixel_bytes});
}

Work WorkOf(const isa::Store& ins) { return {0, 0, 0, ins.rows * ins.pixels * ins.pixel_bytes}; }

}  // namespace qaccel
