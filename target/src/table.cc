// TABLE: look-up of every element; 16-bit inputs interpolate.
#include <algorithm>

#include "elements.h"
#include "pointwise.h"
#include "timing.h"

namespace qaccel {

namespace {

int64_t TableBytes(int64_t in_bits, int64_t out_bits) {
  if (in_bits == 16) return 2 * ((int64_t{1} << (16 - isa::kTableInterpolationBits)) + 1);
  return (int64_t{1} << in_bits) * (out_bits == 16 ? 2 : 1);
}

// The table's entries as integers. Throws Fault if one does not fit the output.
std::vector<int16_t> ReadTable(const Machine& machine, const isa::Table& ins) {
  const int64_t entry_bits = ins.in_bits == 16 || ins.out_bits == 16 ? 16 : 8;
  std::vector<int16_t> table(static_cast<size_t>(TableBytes(ins.in_bits, ins.out_bits) * 8 / entry_bits));
  Unpack(machine.sram.data() + ins.table_addr, static_cast<int64_t>(table.size()), entry_bits, 0, table.data());
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i] < LowestOf(ins.out_bits) || table[i] > HighestOf(ins.out_bits)) {
      Fail("table entry ", i, " is ", table[i], ", outside the output's ", ins.out_bits, " bits");
    }
  }
  return table;
}

void LookUp(const std::vector<int16_t>& table, int64_t in_bits, int64_t count, int16_t* values) {
  const int64_t half = -LowestOf(in_bits);
  if (in_bits < 16) {
    for (int64_t i = 0; i < count; ++i) values[i] = table[static_cast<size_t>(values[i] + half)];
    return;
  }
  constexpr int64_t kBits = isa::kTableInterpolationBits, kOne = int64_t{1} << kBits;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = values[i] + half, rest = index & (kOne - 1);
    const size_t entry = static_cast<size_t>(index >> kBits);
    const int64_t sum = table[entry] * (kOne - rest) + table[entry + 1] * rest;
    // rhe(sum * 2^-kBits)
    values[i] = static_cast<int16_t>((sum + kOne / 2 - 1 + (sum >> kBits & 1)) >> kBits);
  }
}

}  // namespace

void Execute(Machine& machine, const isa::Table& ins) {
  CheckTile(ins);
  const View input = InputTile(ins), output = OutputTile(ins);
  machine.sram.Read(Flat(ins.table_addr, TableBytes(ins.in_bits, ins.out_bits)), machine.actor);
  const std::vector<int16_t> table = ReadTable(machine, ins);
  machine.sram.Read(input, machine.actor);
  ClaimOutput(machine, output);

  const bool joined = Joined(input, ins.channels, ins.in_bits) && Joined(output, ins.channels, ins.out_bits);
  const int64_t pixels = joined ? 1 : ins.w, values = joined ? ins.w * ins.channels : ins.channels;
  uint8_t* sram = machine.sram.data();
  int16_t part[kPartValues];
  for (int64_t row = 0; row < ins.h; ++row) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (int64_t begin = 0; begin < values; begin += kPartValues) {
        const int64_t count = std::min(kPartValues, values - begin);
        Unpack(sram + input.Pixel(row, pixel) + begin * ins.in_bits / 8, count, ins.in_bits, 0, part);
        LookUp(table, ins.in_bits, count, part);
        Pack(part, count, ins.out_bits, sram + output.Pixel(row, pixel) + begin * ins.out_bits / 8);
      }
    }
  }
}

Duration DurationOf(const Machine& machine, const isa::Table& ins) {
  const Config& hw = machine.hw;
  const int64_t pixels = ins.h * ins.w;
  const Wide read_bytes =
      Wide{pixels} * ChannelBytes(ins.channels, ins.in_bits) + TableBytes(ins.in_bits, ins.out_bits);
  return Computing(hw, std::max({CeilDivWide(Wide{pixels} * ins.channels, hw.table_lookups_per_cycle),
                                 SramRead(hw, read_bytes), SramWrite(hw, pixels, ins.channels, ins.out_bits)}));
}

Work WorkOf(const isa::Table&) { return {}; }

}  // namespace qaccel
