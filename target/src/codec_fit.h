// Tables that suit what is to be coded: the encoder's half that a decoder does not need.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "codec_table.h"

namespace qaccel {

// Distinct values, ascending, and how often each occurs.
struct Histogram {
  std::vector<int32_t> values;
  std::vector<int64_t> counts;
  int64_t total = 0;
};
Histogram HistogramOf(const std::vector<int32_t>& values);

// Values lie in `low` to low + 2^range_bits - 1. Nothing if they need more than `symbols_max` symbols.
std::optional<BucketTable> FitBuckets(const Histogram& histogram, int32_t low, int64_t range_bits, size_t symbols_max);
// The same of lengths of runs: the first symbol begins with 0, whether or not that occurs.
std::optional<BucketTable> FitRuns(const Histogram& histogram, size_t symbols_max);
// Nothing if there are too many values.
std::optional<PaletteTable> FitPalette(const Histogram& histogram, size_t symbols_max);
// Nothing if no width of symbols takes values in.
std::optional<ParametricTable> FitParametric(const Histogram& histogram, size_t symbols_max);

// What coding takes, description aside: 12 - log2(frequency) + extra bits for each value. No symbol overlaps another.
double CodedBits(const Symbols& symbols, const Histogram& histogram);

}  // namespace qaccel
