// COPY: requantizing copy.
#include <algorithm>

#include "elements.h"
#include "pointwise.h"

namespace qaccel {

namespace {

QACCEL_CLONES void ScaleAll(const int16_t* values, int64_t count, int64_t multiplier, int64_t* t) {
  for (int64_t i = 0; i < count; ++i) t[i] = values[i] * multiplier;
}

}  // namespace

void Execute(Machine& machine, const isa::Copy& ins) {
  CheckTile(ins);
  CheckZeroPoint("in_zero_point", ins.in_bits, ins.in_zero_point);
  const OutputRange range = OutputRangeOf(ins);
  const View input = InputTile(ins), output = OutputTile(ins);
  machine.sram.Read(input, machine.actor);
  ClaimOutput(machine, output);

  const bool joined = Joined(input, ins.channels, ins.in_bits) && Joined(output, ins.channels, ins.out_bits);
  const int64_t pixels = joined ? 1 : ins.w, values = joined ? ins.w * ins.channels : ins.channels;
  uint8_t* sram = machine.sram.data();
  int16_t part[kPartValues];
  int64_t products[kPartValues];
  for (int64_t row = 0; row < ins.h; ++row) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (int64_t begin = 0; begin < values; begin += kPartValues) {
        const int64_t count = std::min(kPartValues, values - begin);
        Unpack(sram + input.Pixel(row, pixel) + begin * ins.in_bits / 8, count, ins.in_bits, ins.in_zero_point, part);
        ScaleAll(part, count, ins.multiplier, products);
        RoundAll(products, count, ins.shift, range, part);
        Pack(part, count, ins.out_bits, sram + output.Pixel(row, pixel) + begin * ins.out_bits / 8);
      }
    }
  }
}

Duration DurationOf(const Machine& machine, const isa::Copy& ins) {
  const Config& hw = machine.hw;
  const int64_t pixels = ins.h * ins.w;
  return Computing(
      hw, std::max({SramRead(hw, Wide{pixels} * ChannelBytes(ins.channels, ins.in_bits)),
                    SramWrite(hw, pixels, ins.channels, ins.out_bits), Requantizer(hw, pixels, ins.channels)}));
}

Work WorkOf(const isa::Copy&) { return {}; }

}  // namespace qaccel
