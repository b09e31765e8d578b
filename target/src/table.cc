// TABLE: look-up of every element; 16-bit inputs interpolate between even knots, or between knots dense around an origin.
#include <algorithm>

#include "elements.h"
#include "pointwise.h"
#include "timing.h"

namespace qaccel {

namespace {

constexpr int64_t kOctave = int64_t{1} << isa::kTableOctaveBits;      // entries of one
constexpr int64_t kFractionBits = 15 - isa::kTableOctaveBits;         // of the farthest octave
constexpr int64_t kSide = (16 - isa::kTableOctaveBits) * kOctave + kOctave + 1;  // entries on one side of the origin

int64_t TableBytes(const isa::Table& ins) {
  if (ins.in_bits < 16) return (int64_t{1} << ins.in_bits) * (ins.out_bits == 16 ? 2 : 1);
  if (ins.knots == isa::TableKnots::Octaves) return 2 * 2 * kSide;
  return 2 * ((int64_t{1} << (16 - isa::kTableInterpolationBits)) + 1);
}

// The table's entries as integers. Throws Fault if one does not fit the output.
std::vector<int16_t> ReadTable(const Machine& machine, const isa::Table& ins) {
  const int64_t entry_bits = ins.in_bits == 16 || ins.out_bits == 16 ? 16 : 8;
  std::vector<int16_t> table(static_cast<size_t>(TableBytes(ins) * 8 / entry_bits));
  Unpack(machine.sram.data() + ins.table_addr, static_cast<int64_t>(table.size()), entry_bits, 0, table.data());
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i] < LowestOf(ins.out_bits) || table[i] > HighestOf(ins.out_bits)) {
      Fail("table entry ", i, " is ", table[i], ", outside the output's ", ins.out_bits, " bits");
    }
  }
  return table;
}

// Between an entry and the next, `rest` of 2^kBits parts of the way: rhe(sum * 2^-kBits).
template <int64_t kBits>
int16_t Between(const int16_t* entry, int64_t rest) {
  constexpr int64_t kOne = int64_t{1} << kBits;
  const int64_t sum = entry[0] * (kOne - rest) + entry[1] * rest;
  return static_cast<int16_t>((sum + kOne / 2 - 1 + (sum >> kBits & 1)) >> kBits);
}

int16_t InOctaves(const int16_t* table, int64_t distance) {
  const uint32_t m = static_cast<uint32_t>(distance < 0 ? ~distance : distance);
  const int16_t* side = distance < 0 ? table + kSide : table;
  if (m < kOctave) return side[m];
  const int64_t over = 31 - __builtin_clz(m) - isa::kTableOctaveBits;  // bits of m that interpolate
  const int64_t fraction = m << (kFractionBits - over) & ((1 << kFractionBits) - 1);
  return Between<kFractionBits>(side + kOctave * over + (m >> over), fraction);
}

void LookUp(const std::vector<int16_t>& table, const isa::Table& ins, int64_t count, int16_t* values) {
  const int64_t half = -LowestOf(ins.in_bits);
  if (ins.in_bits < 16) {
    for (int64_t i = 0; i < count; ++i) values[i] = table[static_cast<size_t>(values[i] + half)];
  } else if (ins.knots == isa::TableKnots::Octaves) {
    for (int64_t i = 0; i < count; ++i) values[i] = InOctaves(table.data(), values[i] - ins.origin);
  } else {
    constexpr int64_t kBits = isa::kTableInterpolationBits;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = values[i] + half;
      values[i] = Between<kBits>(table.data() + (index >> kBits), index & ((1 << kBits) - 1));
    }
  }
}

void CheckKnots(const isa::Table& ins) {
  if (ins.in_bits < 16 && ins.knots != isa::TableKnots::Even) {
    Fail("knots is ", isa::name(ins.knots), ", must be even for inputs of ", ins.in_bits, " bits");
  }
  if (ins.knots == isa::TableKnots::Even && ins.origin != 0) Fail("origin is ", ins.origin, ", must be 0 for even knots");
}

}  // namespace

void Execute(Machine& machine, const isa::Table& ins) {
  CheckTile(ins);
  CheckKnots(ins);
  const View input = InputTile(ins), output = OutputTile(ins);
  machine.sram.Read(Flat(ins.table_addr, TableBytes(ins)), machine.actor);
  const std::vector<int16_t> table = ReadTable(machine, ins);
  if (ins.forwarded) {
    ReadForwardedOperands(machine);
  } else {
    machine.sram.Read(input, machine.actor);
  }
  ClaimOutput(machine, output);

  const bool joined = (ins.forwarded || Joined(input, ins.channels, ins.in_bits)) && Joined(output, ins.channels, ins.out_bits);
  const int64_t pixels = joined ? 1 : ins.w, values = joined ? ins.w * ins.channels : ins.channels;
  uint8_t* sram = machine.sram.data();
  int16_t part[kPartValues];
  for (int64_t row = 0; row < ins.h; ++row) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (int64_t begin = 0; begin < values; begin += kPartValues) {
        const int64_t count = std::min(kPartValues, values - begin);
        if (ins.forwarded) {
          std::copy_n(machine.forwarded.values.data() + (row * ins.w + pixel) * ins.channels + begin, count, part);
        } else {
          Unpack(sram + input.Pixel(row, pixel) + begin * ins.in_bits / 8, count, ins.in_bits, 0, part);
        }
        LookUp(table, ins, count, part);
        Pack(part, count, ins.out_bits, sram + output.Pixel(row, pixel) + begin * ins.out_bits / 8);
      }
    }
  }
}

Duration DurationOf(const Machine& machine, const isa::Table& ins) {
  const Config& hw = machine.hw;
  const int64_t pixels = ins.h * ins.w;
  const int64_t pixel_bytes = ins.forwarded ? 0 : ChannelBytes(ins.channels, ins.in_bits);
  const Wide read_bytes = Wide{pixels} * pixel_bytes + TableBytes(ins);
  const UnitTimes before = ForwardedUnits(machine, ins);
  return Computing(hw, std::max({before.array, before.requantizer,
                                 CeilDivWide(Wide{pixels} * ins.channels, hw.table_lookups_per_cycle),
                                 before.sram_read + SramRead(hw, read_bytes), SramWrite(hw, pixels, ins.channels, ins.out_bits)}));
}

Work WorkOf(const isa::Table&) { return {}; }

}  // namespace qaccel
