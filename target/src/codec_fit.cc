#include "codec_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

namespace qaccel {

namespace {

// What a bucket costs beside its values: a frequency code and most often the shortest width step.
constexpr double kBucketBits = isa::kStreamFrequencyCodeBits + 2;

// 12 - log2(frequency), by frequency.
const std::array<float, kFrequencies + 1>& SlotBits() {
  static const std::array<float, kFrequencies + 1> bits = [] {
    std::array<float, kFrequencies + 1> values{};
    for (uint32_t f = 1; f <= kFrequencies; ++f) values[f] = std::log2(static_cast<float>(kFrequencies) / f);
    return values;
  }();
  return bits;
}

struct Bucket {
  int32_t first;
  uint32_t extra_bits;
  int64_t count;
};

// The cheapest cut of a range into buckets of powers of two, each aligned to its size within the range.
class DyadicCut {
 public:
  DyadicCut(const Histogram& histogram, double bucket_bits) : histogram_(histogram), bucket_bits_(bucket_bits) {}

  std::vector<Bucket> Cut(int32_t low, int64_t range_bits, bool from_low) {
    Visit(0, histogram_.values.size(), low, static_cast<uint32_t>(range_bits));
    auto used = [](const Bucket& bucket) { return bucket.count > 0; };
    if (!from_low) buckets_.erase(buckets_.begin(), std::find_if(buckets_.begin(), buckets_.end(), used));
    while (!used(buckets_.back())) buckets_.pop_back();
    return std::move(buckets_);
  }

 private:
  // Appends the best cut of values [begin, end), which lie in [first, first + 2^extra_bits); gives its cost in bits.
  double Visit(size_t begin, size_t end, int32_t first, uint32_t extra_bits) {
    int64_t count = 0;
    for (size_t i = begin; i < end; ++i) count += histogram_.counts[i];
    const bool too_wide = extra_bits > kExtraMax;
    const double whole = Cost(count, extra_bits);
    const size_t before = buckets_.size();
    // Fewer values than a bucket has bits gain nothing from a finer cut.
    if (too_wide || (extra_bits > 0 && count * extra_bits > bucket_bits_)) {
      const int32_t middle = first + (int32_t{1} << (extra_bits - 1));
      const auto& values = histogram_.values;
      const auto cut = static_cast<size_t>(std::lower_bound(values.begin() + static_cast<ptrdiff_t>(begin),
                                                            values.begin() + static_cast<ptrdiff_t>(end), middle) -
                                           values.begin());
      double parts = Visit(begin, cut, first, extra_bits - 1);
      parts += Visit(cut, end, middle, extra_bits - 1);
      if (too_wide || parts < whole) return parts;
    }
    buckets_.resize(before);
    buckets_.push_back({first, extra_bits, count});
    return whole;
  }

  double Cost(int64_t count, uint32_t extra_bits) const {
    if (count == 0) return bucket_bits_;
    const double slots = std::log2(static_cast<double>(histogram_.total) / static_cast<double>(count));
    return bucket_bits_ +
           static_cast<double>(count) * (extra_bits + std::min<double>(slots, isa::kStreamFrequencyBits));
  }

  const Histogram& histogram_;
  const double bucket_bits_;
  std::vector<Bucket> buckets_;
};

// Codes whose frequencies suit the counts; errors of rounding are carried on to the next symbol.
void Assign(const std::vector<int64_t>& counts, int64_t total, std::vector<uint32_t>& codes, uint32_t& rest) {
  rest = static_cast<uint32_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  codes.assign(counts.size(), 0);
  double carry = 0;
  int64_t others = 0;
  for (size_t s = 0; s < counts.size(); ++s) {
    if (s == rest || counts[s] == 0) continue;
    const double wanted = carry + static_cast<double>(counts[s]) * kFrequencies / static_cast<double>(total);
    codes[s] = CodeOf(static_cast<uint32_t>(std::clamp<double>(std::round(wanted), 1, kFrequencies - 1)));
    carry = wanted - FrequencyOf(codes[s]);
    others += FrequencyOf(codes[s]);
  }
  while (others >= kFrequencies) {  // rare symbols that were rounded up to 1
    uint32_t& largest = *std::max_element(codes.begin(), codes.end());
    others += static_cast<int64_t>(FrequencyOf(largest - 1)) - FrequencyOf(largest);
    --largest;
  }
}

// Counts of a parametric table's symbols by their distance from the middle.
struct Sides {
  uint32_t extra_bits;
  std::vector<double> counts;
};

std::optional<Sides> SidesOf(const Histogram& histogram, uint32_t extra_bits, size_t symbols_max) {
  const int32_t half = (int32_t{1} << extra_bits) / 2;
  Sides sides{extra_bits, {0}};
  const size_t most = std::min(kSidesMax, (symbols_max - 1) / 2);
  for (size_t i = 0; i < histogram.values.size(); ++i) {
    const auto distance = static_cast<size_t>(std::abs((histogram.values[i] + half) >> extra_bits));
    if (distance > most) return std::nullopt;
    if (distance >= sides.counts.size()) sides.counts.resize(distance + 1);
    sides.counts[distance] += static_cast<double>(histogram.counts[i]);
  }
  return sides;
}

// What the sides cost with a table's frequencies; as good as never if those leave nothing for the middle.
double Cost(const ParametricTable& table, const Sides& sides) {
  std::array<uint32_t, kSidesMax + 1> frequencies;
  const int64_t middle = ParametricFrequencies(table, frequencies);
  if (middle < 1) return 1e300;
  double bits = sides.counts[0] * SlotBits()[static_cast<size_t>(middle)];
  for (size_t d = 1; d < sides.counts.size(); ++d) bits += sides.counts[d] * SlotBits()[frequencies[d]];
  return bits;
}

// Walks to a better table while one of its parameters, a step up or down, gives one.
void Improve(ParametricTable& table, const Sides& sides) {
  constexpr uint32_t kRatioMax = (1U << isa::kStreamRatioBits) - 1, kBendMax = (1U << isa::kStreamBendBits) - 1,
                     kFirstMax = (1U << isa::kStreamFirstBits) - 1;
  double best = Cost(table, sides);
  for (int step = 64; step >= 1; step /= 2) {
    bool better = true;
    for (int round = 0; better && round < 8; ++round) {
      better = false;
      for (auto [member, most] : {std::pair{&ParametricTable::first, kFirstMax},
                                  {&ParametricTable::ratio, kRatioMax},
                                  {&ParametricTable::bend, kBendMax}}) {
        for (int sign : {1, -1}) {
          ParametricTable tried = table;
          const int64_t moved = int64_t{tried.*member} + sign * step;
          if (moved < 1 || moved > most) continue;
          tried.*member = static_cast<uint32_t>(moved);
          const double cost = Cost(tried, sides);
          if (cost >= best) continue;
          best = cost;
          table = tried;
          better = true;
        }
      }
    }
  }
}

uint32_t Units(double value, unsigned bits, unsigned fraction_bits) {
  const double most = std::ldexp(1.0, static_cast<int>(bits)) - 1;
  return static_cast<uint32_t>(std::clamp(std::round(std::ldexp(value, static_cast<int>(fraction_bits))), 1.0, most));
}

// The better of a flat (Gaussian) and a pointed (Laplace) table with the data's spread, and its cost.
std::pair<ParametricTable, double> Guess(const Sides& sides) {
  ParametricTable table;
  table.extra_bits = sides.extra_bits;
  table.sides = static_cast<uint32_t>(sides.counts.size() - 1);
  if (table.sides == 0) return {table, 0.0};
  double total = 0, squares = 0, distances = 0;
  for (size_t d = 0; d < sides.counts.size(); ++d) {
    total += sides.counts[d];
    squares += sides.counts[d] * static_cast<double>(d * d);
    distances += sides.counts[d] * static_cast<double>(d);
  }
  const double variance = std::max(0.1, squares / total), mean = std::max(0.1, distances / total);
  table.first = Units(sides.counts[1] / (2 * total), isa::kStreamFirstBits, isa::kStreamFrequencyBits);
  ParametricTable pointed = table;
  table.ratio = Units(std::exp(-1.5 / variance), isa::kStreamRatioBits, isa::kStreamRatioBits);
  table.bend = Units(std::exp(-1 / variance), isa::kStreamBendBits, isa::kStreamBendBits - 1);
  pointed.ratio = Units(std::exp(-1 / mean), isa::kStreamRatioBits, isa::kStreamRatioBits);
  pointed.bend = Units(1, isa::kStreamBendBits, isa::kStreamBendBits - 1);
  const double flat_cost = Cost(table, sides), pointed_cost = Cost(pointed, sides);
  return pointed_cost < flat_cost ? std::pair{pointed, pointed_cost} : std::pair{table, flat_cost};
}

}  // namespace

Histogram HistogramOf(const std::vector<int32_t>& values) {
  Histogram histogram;
  histogram.total = static_cast<int64_t>(values.size());
  if (values.empty()) return histogram;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  std::vector<int64_t> counts(static_cast<size_t>(*high - *low) + 1);
  for (int32_t value : values) ++counts[static_cast<size_t>(value - *low)];
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    histogram.values.push_back(*low + static_cast<int32_t>(i));
    histogram.counts.push_back(counts[i]);
  }
  return histogram;
}

namespace {

std::optional<BucketTable> Fit(const Histogram& histogram, int32_t low, int64_t range_bits, size_t symbols_max,
                               bool from_low) {
  // Where a bucket costs more than all values together, only cuts that its extra bits ask for are left.
  const double most = static_cast<double>(histogram.total) * (kExtraMax + isa::kStreamFrequencyBits);
  double bucket_bits = kBucketBits;
  std::vector<Bucket> buckets = DyadicCut(histogram, bucket_bits).Cut(low, range_bits, from_low);
  while (buckets.size() > symbols_max) {
    if (bucket_bits > most) return std::nullopt;
    buckets = DyadicCut(histogram, bucket_bits *= 2).Cut(low, range_bits, from_low);
  }
  BucketTable table;
  table.first = buckets.front().first;
  std::vector<int64_t> counts;
  for (const Bucket& bucket : buckets) {
    table.extra_bits.push_back(bucket.extra_bits);
    counts.push_back(bucket.count);
  }
  Assign(counts, histogram.total, table.codes, table.rest);
  return table;
}

}  // namespace

std::optional<BucketTable> FitBuckets(const Histogram& histogram, int32_t low, int64_t range_bits, size_t symbols_max) {
  return Fit(histogram, low, range_bits, symbols_max, false);
}

std::optional<BucketTable> FitRuns(const Histogram& histogram, size_t symbols_max) {
  int64_t range_bits = 0;
  while (histogram.values.back() >> range_bits) ++range_bits;
  return Fit(histogram, 0, range_bits, symbols_max, true);
}

std::optional<PaletteTable> FitPalette(const Histogram& histogram, size_t symbols_max) {
  if (histogram.values.size() > symbols_max) return std::nullopt;
  PaletteTable table;
  table.values = histogram.values;
  Assign(histogram.counts, histogram.total, table.codes, table.rest);
  return table;
}

std::optional<ParametricTable> FitParametric(const Histogram& histogram, size_t symbols_max) {
  std::optional<ParametricTable> best;
  Sides of_best;
  double best_bits = 1e300;
  int worse = 0;
  for (uint32_t extra_bits = 0; extra_bits <= kExtraMax && worse < 2; ++extra_bits) {
    std::optional<Sides> sides = SidesOf(histogram, extra_bits, symbols_max);
    if (!sides) continue;
    const auto [table, bits] = Guess(*sides);
    const double all = bits + static_cast<double>(histogram.total) * extra_bits;
    if (all < best_bits) {
      best_bits = all;
      best = table;
      of_best = std::move(*sides);
    } else {
      ++worse;
    }
  }
  if (best && best->sides > 0) Improve(*best, of_best);
  return best;
}

double CodedBits(const Symbols& symbols, const Histogram& histogram) {
  double bits = 0;
  size_t i = 0;
  for (const Symbol& symbol : symbols) {
    const int64_t end = int64_t{symbol.first} + (int64_t{1} << symbol.extra_bits);
    for (; i < histogram.values.size() && histogram.values[i] < end; ++i)
      bits += static_cast<double>(histogram.counts[i]) * (SlotBits()[symbol.frequency] + symbol.extra_bits);
  }
  return bits;
}

}  // namespace qaccel
