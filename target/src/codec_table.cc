#include "codec_table.h"

#include <algorithm>

namespace qaccel {

namespace {

constexpr uint32_t kMantissaBits = 3;                 // of frequency codes
constexpr uint32_t kMantissas = 1U << kMantissaBits;  // frequencies below are their own codes
constexpr unsigned kFractionBits = 8;                 // of parametric frequencies
constexpr unsigned kRatioUnits = 16;                  // parametric ratios are kept in units of 2^-kRatioUnits
constexpr unsigned kSameWidth = 0, kOneWider = 1, kOneNarrower = 2, kWidthFollows = 3, kWidthStepBits = 2;

// Gives the symbol `rest` what the others leave, and every symbol its first slot.
void Complete(Symbols& symbols, size_t rest) {
  uint64_t others = 0;
  for (size_t s = 0; s < symbols.size(); ++s) {
    if (s != rest) others += symbols[s].frequency;
  }
  if (others >= kFrequencies) Fail("stream: the frequencies of a table add up to ", others, " without its rest symbol");
  symbols[rest].frequency = static_cast<uint32_t>(kFrequencies - others);
  uint32_t begin = 0;
  for (Symbol& symbol : symbols) {
    symbol.begin = begin;
    begin += symbol.frequency;
  }
}

void PutCodes(BitWriter& out, const std::vector<uint32_t>& codes, uint32_t rest) {
  for (size_t s = 0; s < codes.size(); ++s) {
    if (s != rest) out.Put(codes[s], isa::kStreamFrequencyCodeBits);
  }
}

unsigned WidthStep(uint32_t before, uint32_t now) {
  if (now == before) return kSameWidth;
  if (now == before + 1) return kOneWider;
  return now + 1 == before ? kOneNarrower : kWidthFollows;
}

size_t TakeSymbolCount(BitReader& in) { return in.Take(isa::kStreamSymbolBits) + 1; }

uint32_t TakeRest(BitReader& in, size_t count) {
  const auto rest = static_cast<uint32_t>(in.Take(isa::kStreamSymbolBits));
  if (rest >= count) Fail("stream: the rest symbol of a table is ", rest, " of ", count);
  return rest;
}

uint32_t Take32(BitReader& in, unsigned count) { return static_cast<uint32_t>(in.Take(count)); }

}  // namespace

uint32_t FrequencyOf(uint32_t code) {
  if (code < kMantissas) return code;
  return (kMantissas + code % kMantissas) << (code / kMantissas - 1);
}

uint32_t CodeOf(uint32_t frequency) {
  uint32_t code = 1;
  while (FrequencyOf(code + 1) <= frequency) ++code;
  return FrequencyOf(code + 1) - frequency < frequency - FrequencyOf(code) ? code + 1 : code;
}

void Put(BitWriter& out, const ParametricTable& table) {
  out.Put(table.extra_bits, isa::kStreamExtraBits);
  out.Put(table.sides, isa::kStreamSidesBits);
  if (table.sides == 0) return;
  out.Put(table.first, isa::kStreamFirstBits);
  out.Put(table.ratio, isa::kStreamRatioBits);
  out.Put(table.bend, isa::kStreamBendBits);
}

ParametricTable TakeParametric(BitReader& in) {
  ParametricTable table;
  table.extra_bits = Take32(in, isa::kStreamExtraBits);
  table.sides = Take32(in, isa::kStreamSidesBits);
  if (table.sides == 0) return table;
  table.first = Take32(in, isa::kStreamFirstBits);
  table.ratio = Take32(in, isa::kStreamRatioBits);
  table.bend = Take32(in, isa::kStreamBendBits);
  return table;
}

int64_t ParametricFrequencies(const ParametricTable& table, std::array<uint32_t, kSidesMax + 1>& out) {
  uint64_t fine = uint64_t{table.first} << kFractionBits;
  uint64_t ratio = uint64_t{table.ratio} << (kRatioUnits - isa::kStreamRatioBits);
  int64_t middle = kFrequencies;
  for (size_t distance = 1; distance <= table.sides; ++distance) {
    if (distance > 1) {
      fine = fine * ratio >> kRatioUnits;
      ratio = std::min<uint64_t>((uint64_t{1} << kRatioUnits) - 1, ratio * table.bend >> (isa::kStreamBendBits - 1));
    }
    out[distance] = static_cast<uint32_t>(std::max<uint64_t>(1, fine >> kFractionBits));
    middle -= 2 * static_cast<int64_t>(out[distance]);
  }
  return middle;
}

Symbols SymbolsOf(const ParametricTable& table) {
  const size_t middle = table.sides;
  std::array<uint32_t, kSidesMax + 1> frequencies{};
  ParametricFrequencies(table, frequencies);
  Symbols symbols(2 * middle + 1);
  const int32_t step = int32_t{1} << table.extra_bits;
  for (size_t s = 0; s < symbols.size(); ++s) {
    symbols[s].first = (static_cast<int32_t>(s) - static_cast<int32_t>(middle)) * step - step / 2;
    symbols[s].extra_bits = table.extra_bits;
    symbols[s].frequency = frequencies[s < middle ? middle - s : s - middle];
  }
  Complete(symbols, middle);
  return symbols;
}

void Put(BitWriter& out, const BucketTable& table, int64_t value_bits) {
  out.Put(table.codes.size() - 1, isa::kStreamSymbolBits);
  const auto width = static_cast<unsigned>(value_bits);
  if (width > 0) out.Put(static_cast<uint64_t>(table.first) & ((uint64_t{1} << width) - 1), width);
  out.Put(table.rest, isa::kStreamSymbolBits);
  for (size_t s = 0; s < table.codes.size(); ++s) {
    const unsigned step = s == 0 ? kWidthFollows : WidthStep(table.extra_bits[s - 1], table.extra_bits[s]);
    if (s > 0) out.Put(step, kWidthStepBits);
    if (step == kWidthFollows) out.Put(table.extra_bits[s], isa::kStreamExtraBits);
    if (s != table.rest) out.Put(table.codes[s], isa::kStreamFrequencyCodeBits);
  }
}

BucketTable TakeBuckets(BitReader& in, int64_t value_bits) {
  BucketTable table;
  const size_t count = TakeSymbolCount(in);
  if (value_bits > 0) table.first = static_cast<int32_t>(in.TakeSigned(static_cast<unsigned>(value_bits)));
  table.rest = TakeRest(in, count);
  for (size_t s = 0; s < count; ++s) {
    const unsigned step = s == 0 ? kWidthFollows : Take32(in, kWidthStepBits);
    uint32_t extra_bits = s == 0 ? 0 : table.extra_bits.back();
    if (step == kWidthFollows) extra_bits = Take32(in, isa::kStreamExtraBits);
    if (step == kOneWider) ++extra_bits;
    if (step == kOneNarrower) --extra_bits;
    if (extra_bits > kExtraMax) Fail("stream: symbol ", s, " of a table has extra bits below 0 or above ", kExtraMax);
    table.extra_bits.push_back(extra_bits);
    table.codes.push_back(s == table.rest ? 0 : Take32(in, isa::kStreamFrequencyCodeBits));
  }
  in.CheckEnd();
  return table;
}

Symbols SymbolsOf(const BucketTable& table) {
  Symbols symbols(table.codes.size());
  int32_t first = table.first;
  for (size_t s = 0; s < symbols.size(); ++s) {
    symbols[s].first = first;
    symbols[s].extra_bits = table.extra_bits[s];
    symbols[s].frequency = FrequencyOf(table.codes[s]);
    first += int32_t{1} << table.extra_bits[s];  // at most 2^6 steps of 2^15
  }
  Complete(symbols, table.rest);
  return symbols;
}

void Put(BitWriter& out, const PaletteTable& table, int64_t value_bits) {
  out.Put(table.codes.size() - 1, isa::kStreamSymbolBits);
  const auto width = static_cast<unsigned>(value_bits);
  for (int32_t value : table.values) out.Put(static_cast<uint64_t>(value) & ((uint64_t{1} << width) - 1), width);
  out.Put(table.rest, isa::kStreamSymbolBits);
  PutCodes(out, table.codes, table.rest);
}

PaletteTable TakePalette(BitReader& in, int64_t value_bits) {
  PaletteTable table;
  const size_t count = TakeSymbolCount(in);
  for (size_t s = 0; s < count; ++s)
    table.values.push_back(static_cast<int32_t>(in.TakeSigned(static_cast<unsigned>(value_bits))));
  table.rest = TakeRest(in, count);
  for (size_t s = 0; s < count; ++s)
    table.codes.push_back(s == table.rest ? 0 : Take32(in, isa::kStreamFrequencyCodeBits));
  in.CheckEnd();
  return table;
}

Symbols SymbolsOf(const PaletteTable& table) {
  Symbols symbols(table.codes.size());
  for (size_t s = 0; s < symbols.size(); ++s) {
    symbols[s].first = table.values[s];
    symbols[s].frequency = FrequencyOf(table.codes[s]);
  }
  Complete(symbols, table.rest);
  return symbols;
}

int64_t DescriptionBits(const BucketTable& table, int64_t value_bits) {
  int64_t bits = 2 * isa::kStreamSymbolBits + value_bits + isa::kStreamExtraBits;
  for (size_t s = 1; s < table.codes.size(); ++s) {
    const bool follows = WidthStep(table.extra_bits[s - 1], table.extra_bits[s]) == kWidthFollows;
    bits += kWidthStepBits + (follows ? isa::kStreamExtraBits : 0);
  }
  return bits + static_cast<int64_t>(table.codes.size() - 1) * isa::kStreamFrequencyCodeBits;
}

}  // namespace qaccel
