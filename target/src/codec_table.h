// Symbol tables of the entropy coded streams, and how a stream describes them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "codec_bits.h"

namespace qaccel {

constexpr uint32_t kFrequencies = uint32_t{1} << isa::kStreamFrequencyBits;  // what a table's add up to
constexpr size_t kSymbolsMax = size_t{1} << isa::kStreamSymbolBits;
constexpr unsigned kExtraMax = (1U << isa::kStreamExtraBits) - 1;

// A symbol stands for the 2^extra_bits values from `first` on.
struct Symbol {
  int32_t first = 0;
  uint32_t extra_bits = 0;
  uint32_t frequency = 0;
  uint32_t begin = 0;  // sum of the frequencies before
};
using Symbols = std::vector<Symbol>;

// Frequency of a code, and the code of the nearest frequency (1 to kFrequencies - 1) that has one.
uint32_t FrequencyOf(uint32_t code);
uint32_t CodeOf(uint32_t frequency);

// Codec parametric.
struct ParametricTable {
  uint32_t extra_bits = 0, sides = 0, first = 0, ratio = 0, bend = 0;
};
// Codecs entropy and zero_run: neighbouring buckets of 2^extra_bits[s] values from `first` on; codes[rest] is not used.
// Codec palette: single values.
struct BucketTable {
  int32_t first = 0;
  uint32_t rest = 0;
  std::vector<uint32_t> extra_bits, codes;
};
struct PaletteTable {
  uint32_t rest = 0;
  std::vector<int32_t> values;
  std::vector<uint32_t> codes;
};

// `value_bits`: width of the first value; 0 for runs, which have none.
void Put(BitWriter& out, const ParametricTable& table);
void Put(BitWriter& out, const BucketTable& table, int64_t value_bits);
void Put(BitWriter& out, const PaletteTable& table, int64_t value_bits);
ParametricTable TakeParametric(BitReader& in);
BucketTable TakeBuckets(BitReader& in, int64_t value_bits);
PaletteTable TakePalette(BitReader& in, int64_t value_bits);

// Frequencies at distances 1 to `sides` from the middle symbol, to out[1] and on; returns the middle one's, which is
// not positive if they leave nothing for it.
constexpr size_t kSidesMax = (size_t{1} << isa::kStreamSidesBits) - 1;
int64_t ParametricFrequencies(const ParametricTable& table, std::array<uint32_t, kSidesMax + 1>& out);

// The symbols of a table. Throws Fault if its frequencies leave nothing for the rest symbol.
Symbols SymbolsOf(const ParametricTable& table);
Symbols SymbolsOf(const BucketTable& table);
Symbols SymbolsOf(const PaletteTable& table);

// What a table's description takes.
int64_t DescriptionBits(const BucketTable& table, int64_t value_bits);

}  // namespace qaccel
