// ELTWISE: two operands, element by element, rounded once.
#include <algorithm>

#include "elements.h"
#include "pointwise.h"

namespace qaccel {

namespace {

struct Combine {
  isa::EltwiseKind kind;
  int64_t ma, mb;
};

// t of the manual: below 2^62, since operands have 16 bits and multipliers 31.
template <typename Function>
inline __attribute__((always_inline)) void Each(const int16_t* a, const int16_t* b, int64_t count, int64_t* t,
                                                Function function) {
  for (int64_t i = 0; i < count; ++i) t[i] = function(int64_t{a[i]}, int64_t{b[i]});
}

QACCEL_CLONES void CombineAll(const Combine& how, const int16_t* a, const int16_t* b, int64_t count, int64_t* t) {
  const int64_t ma = how.ma, mb = how.mb;
  switch (how.kind) {
    case isa::EltwiseKind::Add: return Each(a, b, count, t, [=](int64_t x, int64_t y) { return x * ma + y * mb; });
    case isa::EltwiseKind::Sub: return Each(a, b, count, t, [=](int64_t x, int64_t y) { return x * ma - y * mb; });
    case isa::EltwiseKind::Mul: return Each(a, b, count, t, [=](int64_t x, int64_t y) { return x * y * ma; });
    case isa::EltwiseKind::Min:
      return Each(a, b, count, t, [=](int64_t x, int64_t y) { return std::min(x * ma, y * mb); });
    case isa::EltwiseKind::Max:
      return Each(a, b, count, t, [=](int64_t x, int64_t y) { return std::max(x * ma, y * mb); });
  }
}

// Reads the operands and claims the output, which may overwrite operands of its own view and width but no others.
void ReadOperandsClaimOutput(Machine& machine, const isa::Eltwise& ins, const View& a, const View& b,
                             const View& output) {
  const bool a_in_place = !ins.forwarded && ins.in_bits == ins.out_bits && SameView(a, output);
  const bool b_in_place = ins.b_bits == ins.out_bits && SameView(b, output);
  if (ins.forwarded) ReadForwardedOperands(machine);
  if (!ins.forwarded && !a_in_place) machine.sram.Read(a, machine.actor);
  if (!b_in_place) machine.sram.Read(b, machine.actor);
  CheckOutput(machine, output);
  if (a_in_place) machine.sram.Read(a, machine.actor);
  if (b_in_place) machine.sram.Read(b, machine.actor);
  machine.sram.Write(output, machine.actor);
}

}  // namespace

void Execute(Machine& machine, const isa::Eltwise& ins) {
  CheckTile(ins);
  CheckZeroPoint("in_zero_point", ins.in_bits, ins.in_zero_point);
  CheckZeroPoint("b_zero_point", ins.b_bits, ins.b_zero_point);
  const OutputRange range = OutputRangeOf(ins);
  if (ins.kind == isa::EltwiseKind::Mul && ins.b_multiplier != 0)
    Fail("b_multiplier is ", ins.b_multiplier, ", must be 0 for mul");
  const int64_t b_channels = ins.b_scalar ? 1 : ins.channels;
  const View a{InputTile(ins)}, output{OutputTile(ins)};
  const View b{ins.b_addr, ins.h, ins.b_row_stride, ins.w, ins.b_pixel_stride, ChannelBytes(b_channels, ins.b_bits)};
  ReadOperandsClaimOutput(machine, ins, a, b, output);

  const bool joined = !ins.b_scalar && (ins.forwarded || Joined(a, ins.channels, ins.in_bits)) &&
                      Joined(b, ins.channels, ins.b_bits) && Joined(output, ins.channels, ins.out_bits);
  const int64_t pixels = joined ? 1 : ins.w, values = joined ? ins.w * ins.channels : ins.channels;
  const Combine how{ins.kind, ins.multiplier, ins.b_multiplier};
  uint8_t* sram = machine.sram.data();
  int16_t a_values[kPartValues], b_values[kPartValues];
  int64_t sums[kPartValues];
  for (int64_t row = 0; row < ins.h; ++row) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      if (ins.b_scalar) {
        Unpack(sram + b.Pixel(row, pixel), 1, ins.b_bits, ins.b_zero_point, b_values);
        std::fill_n(b_values + 1, kPartValues - 1, b_values[0]);
      }
      for (int64_t begin = 0; begin < values; begin += kPartValues) {
        const int64_t count = std::min(kPartValues, values - begin);
        if (ins.forwarded) {
          const int16_t* values = machine.forwarded.values.data() + (row * ins.w + pixel) * ins.channels + begin;
          for (int64_t i = 0; i < count; ++i) a_values[i] = static_cast<int16_t>(values[i] - ins.in_zero_point);
        } else {
          Unpack(sram + a.Pixel(row, pixel) + begin * ins.in_bits / 8, count, ins.in_bits, ins.in_zero_point, a_values);
        }
        if (!ins.b_scalar)
          Unpack(sram + b.Pixel(row, pixel) + begin * ins.b_bits / 8, count, ins.b_bits, ins.b_zero_point, b_values);
        CombineAll(how, a_values, b_values, count, sums);
        RoundAll(sums, count, ins.shift, range, a_values);
        Pack(a_values, count, ins.out_bits, sram + output.Pixel(row, pixel) + begin * ins.out_bits / 8);
      }
    }
  }
}

Duration DurationOf(const Machine& machine, const isa::Eltwise& ins) {
  const Config& hw = machine.hw;
  const int64_t pixels = ins.h * ins.w;
  const int64_t pixel_bytes = (ins.forwarded ? 0 : ChannelBytes(ins.channels, ins.in_bits)) +
                              ChannelBytes(ins.b_scalar ? 1 : ins.channels, ins.b_bits);
  const UnitTimes before = ForwardedUnits(machine, ins);
  return Computing(hw, std::max({before.array, before.sram_read + SramRead(hw, Wide{pixels} * pixel_bytes),
                                 SramWrite(hw, pixels, ins.channels, ins.out_bits),
                                 before.requantizer + Requantizer(hw, pixels, ins.channels)}));
}

Work WorkOf(const isa::Eltwise&) { return {}; }

}  // namespace qaccel
