// The encoder: fits the tables of every codec to the weights, codes them with the most promising and keeps the
// smallest. A tile of zeros alone is one run in one lane: a symbol, where other codecs decode every weight.
#include <algorithm>
#include <functional>
#include <optional>

#include "codec.h"
#include "codec_fit.h"
#include "codec_lanes.h"
#include "crc32.h"

namespace qaccel {

namespace {

constexpr uint32_t kStateLow = uint32_t{1} << isa::kStreamStateBits;
constexpr int64_t kMostLanes = int64_t{1} << ((1 << isa::kStreamLaneBits) - 1);
// Candidates whose estimate is this much above the best one's are not tried.
constexpr double kTriedRatio = 1.0001, kTriedBits = 24;

// What a lane decodes in one cycle.
struct Item {
  uint32_t frequency, begin, extra, extra_bits;
};

// The weights of a tile, lane by lane.
struct Lanes {
  std::vector<std::vector<int32_t>> coded;
  std::vector<uint32_t> states;  // where encoding starts: with the held weights
};

// The most lanes, not above `most`, for which each has more weights to decode than it holds; 0 if none.
int64_t LaneCount(const TileShape& tile, const DecoderLimits& limits, int64_t most) {
  const int64_t columns = std::min(tile.row_weights, tile.count), held = HeldWeights(tile.bits);
  int64_t lanes = most;
  while (lanes > 0 && (lanes > limits.lanes || lanes > columns || LaneWeights(tile, lanes - 1, lanes) < 2 * held))
    lanes /= 2;
  return lanes;
}

Lanes Share(const int32_t* weights, const TileShape& tile, int64_t lanes) {
  Lanes shared;
  const int64_t held = HeldWeights(tile.bits);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    LaneWalk walk(tile, lane, lanes);
    std::vector<int32_t> coded(static_cast<size_t>(LaneWeights(tile, lane, lanes) - held));
    for (int32_t& weight : coded) {
      weight = weights[walk.index];
      walk.Next();
    }
    uint32_t state = kStateLow;
    for (int64_t k = 0; k < held; ++k, walk.Next()) {
      const uint32_t pattern = static_cast<uint32_t>(weights[walk.index]) & ((uint32_t{1} << tile.bits) - 1);
      state |= pattern << k * tile.bits;
    }
    shared.coded.push_back(std::move(coded));
    shared.states.push_back(state);
  }
  return shared;
}

std::vector<int32_t> All(const std::vector<std::vector<int32_t>>& lanes) {
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& lane : lanes) all.insert(all.end(), lane.begin(), lane.end());
  return all;
}

// The symbol of every value of a table.
class SymbolOf {
 public:
  SymbolOf(const Symbols& symbols, const Histogram& histogram) : symbols_(symbols) {
    if (histogram.values.empty()) return;
    low_ = histogram.values.front();
    numbers_.resize(static_cast<size_t>(histogram.values.back() - low_) + 1);
    for (size_t s = 0; s < symbols.size(); ++s) {
      const int64_t begin = std::max<int64_t>(0, symbols[s].first - low_);
      const int64_t end = std::min<int64_t>(static_cast<int64_t>(numbers_.size()),
                                            int64_t{symbols[s].first} - low_ + (int64_t{1} << symbols[s].extra_bits));
      for (int64_t i = begin; i < end; ++i) numbers_[static_cast<size_t>(i)] = static_cast<uint8_t>(s);
    }
  }
  Item operator()(int32_t value) const {
    const Symbol& symbol = symbols_[numbers_[static_cast<size_t>(value - low_)]];
    return {symbol.frequency, symbol.begin, static_cast<uint32_t>(value - symbol.first), symbol.extra_bits};
  }

 private:
  const Symbols& symbols_;
  int32_t low_ = 0;
  std::vector<uint8_t> numbers_;
};

// Codes items backwards, as the decoder undoes it, and writes states and bits. `item(lane, cycle)` is asked where cycle
// is below counts[lane].
template <typename ItemAt>
void Code(BitWriter& out, std::vector<uint32_t> states, const std::vector<size_t>& counts, const ItemAt& item) {
  struct Piece {
    uint32_t bits;
    uint32_t count;
  };
  std::vector<Piece> pieces;
  const size_t cycles = *std::max_element(counts.begin(), counts.end());
  pieces.reserve(cycles * states.size());
  for (size_t cycle = cycles; cycle-- > 0;) {
    for (size_t lane = states.size(); lane-- > 0;) {
      if (cycle >= counts[lane]) continue;
      const Item coded = item(lane, cycle);
      uint32_t& state = states[lane];
      // Before the symbol is coded, the state has to be below 2 * frequency * 2^(state_bits - frequency_bits).
      const uint32_t limit = coded.frequency << (isa::kStreamStateBits - isa::kStreamFrequencyBits + 1);
      uint32_t shift = 0;
      while (state >> shift >= limit) ++shift;
      const uint32_t low = state & ((uint32_t{1} << shift) - 1);
      state >>= shift;
      state = ((state / coded.frequency) << isa::kStreamFrequencyBits) + coded.begin + state % coded.frequency;
      pieces.push_back({low | coded.extra << shift, shift + coded.extra_bits});
    }
  }
  for (uint32_t state : states) out.Put(state - kStateLow, isa::kStreamStateBits);
  for (size_t i = pieces.size(); i-- > 0;) out.Put(pieces[i].bits, pieces[i].count);
}

std::vector<size_t> Counts(const std::vector<std::vector<int32_t>>& lanes) {
  std::vector<size_t> counts;
  for (const std::vector<int32_t>& lane : lanes) counts.push_back(lane.size());
  return counts;
}

void CodeWithOneTable(BitWriter& out, const Lanes& lanes, const Symbols& symbols, const Histogram& histogram) {
  const SymbolOf symbol_of(symbols, histogram);
  Code(out, lanes.states, Counts(lanes.coded),
       [&](size_t lane, size_t cycle) { return symbol_of(lanes.coded[lane][cycle]); });
}

// Runs of zeros and the weights behind them, lane by lane.
struct ZeroRuns {
  std::vector<std::vector<int32_t>> runs, weights;
};

ZeroRuns RunsOf(const std::vector<std::vector<int32_t>>& lanes) {
  ZeroRuns found;
  for (const std::vector<int32_t>& lane : lanes) {
    std::vector<int32_t> runs, weights;
    int32_t run = 0;
    for (int32_t weight : lane) {
      if (weight == 0) {
        ++run;
        continue;
      }
      runs.push_back(run);
      weights.push_back(weight);
      run = 0;
    }
    if (run > 0) runs.push_back(run);
    found.runs.push_back(std::move(runs));
    found.weights.push_back(std::move(weights));
  }
  return found;
}

struct Candidate {
  isa::Codec codec;
  double bits;  // estimated, states aside
  std::function<void(BitWriter&)> write;
};

std::string Sealed(isa::Codec codec, int64_t bits, const std::string& payload) {
  const auto width_code = static_cast<unsigned>(std::find(std::begin(isa::kWidths), std::end(isa::kWidths), bits) -
                                                std::begin(isa::kWidths));
  std::string stream(1, static_cast<char>(static_cast<unsigned>(codec) | width_code << isa::kStreamCodecBits));
  const uint32_t head = Crc32(0, reinterpret_cast<const uint8_t*>(stream.data()), 1);
  const uint32_t crc = Crc32(head, reinterpret_cast<const uint8_t*>(payload.data()), payload.size());
  for (int byte = 0; byte < isa::kStreamCrcBits / 8; ++byte) stream += static_cast<char>(crc >> 8 * byte & 0xFF);
  return stream + payload;
}

std::string RawPayload(const int32_t* weights, const TileShape& tile) {
  BitWriter out;
  const auto width = static_cast<unsigned>(tile.bits);
  for (int64_t i = 0; i < tile.count; ++i) {
    if (weights[i] < LowestOf(tile.bits) || weights[i] > HighestOf(tile.bits))
      Fail("weight ", i, " of a tile is ", weights[i], ", outside of ", tile.bits, " bits");
    out.Put(static_cast<uint32_t>(weights[i]) & ((uint32_t{1} << width) - 1), width);
  }
  return out.Finish();
}

void Consider(std::vector<Candidate>& candidates, const Lanes& lanes, const Histogram& histogram, int64_t bits,
              const DecoderLimits& limits) {
  const size_t entries = static_cast<size_t>(limits.table_bytes / isa::kStreamTableEntryBytes);
  const size_t symbols_max = std::min(kSymbolsMax, entries);
  if (symbols_max == 0) return;
  if (const auto table = FitParametric(histogram, symbols_max)) {
    const Symbols symbols = SymbolsOf(*table);
    constexpr int kBits = isa::kStreamExtraBits + isa::kStreamSidesBits + isa::kStreamFirstBits +
                          isa::kStreamRatioBits + isa::kStreamBendBits;
    candidates.push_back(
        {isa::Codec::Parametric, kBits + CodedBits(symbols, histogram), [&, table, symbols](BitWriter& out) {
           Put(out, *table);
           CodeWithOneTable(out, lanes, symbols, histogram);
         }});
  }
  const auto low = static_cast<int32_t>(LowestOf(bits));
  if (const auto table = FitBuckets(histogram, low, bits, symbols_max)) {
    const Symbols symbols = SymbolsOf(*table);
    const double estimate = static_cast<double>(DescriptionBits(*table, bits)) + CodedBits(symbols, histogram);
    candidates.push_back({isa::Codec::Entropy, estimate, [&, table, symbols, bits](BitWriter& out) {
                            Put(out, *table, bits);
                            CodeWithOneTable(out, lanes, symbols, histogram);
                          }});
  }
  if (const auto table = FitPalette(histogram, symbols_max)) {
    const Symbols symbols = SymbolsOf(*table);
    const auto count = static_cast<double>(symbols.size());
    const double estimate = 2 * isa::kStreamSymbolBits + count * static_cast<double>(bits) +
                            (count - 1) * isa::kStreamFrequencyCodeBits + CodedBits(symbols, histogram);
    candidates.push_back({isa::Codec::Palette, estimate, [&, table, symbols, bits](BitWriter& out) {
                            Put(out, *table, bits);
                            CodeWithOneTable(out, lanes, symbols, histogram);
                          }});
  }
}

// `runs` outlives the candidates.
void ConsiderZeroRuns(std::vector<Candidate>& candidates, const Lanes& lanes, const ZeroRuns& runs, int64_t bits,
                      const DecoderLimits& limits) {
  const Histogram lengths = HistogramOf(All(runs.runs));
  Histogram values = HistogramOf(All(runs.weights));
  if (values.total == 0) values = HistogramOf({0});  // zeros alone: no weight follows a run, yet there is a table of some
  const size_t entries = static_cast<size_t>(limits.table_bytes / isa::kStreamTableEntryBytes) / 2;
  const size_t symbols_max = std::min(kSymbolsMax, entries);
  if (symbols_max == 0) return;
  const auto run_table = FitRuns(lengths, symbols_max);
  const auto weight_table = FitBuckets(values, static_cast<int32_t>(LowestOf(bits)), bits, symbols_max);
  if (!run_table || !weight_table) return;
  const Symbols run_symbols = SymbolsOf(*run_table), weight_symbols = SymbolsOf(*weight_table);
  const double estimate = static_cast<double>(DescriptionBits(*run_table, 0) + DescriptionBits(*weight_table, bits)) +
                          CodedBits(run_symbols, lengths) + CodedBits(weight_symbols, values);
  auto write = [=, &lanes, &runs](BitWriter& out) {
    Put(out, *run_table, 0);
    Put(out, *weight_table, bits);
    const SymbolOf run_of(run_symbols, lengths), weight_of(weight_symbols, values);
    std::vector<size_t> counts;
    for (size_t lane = 0; lane < runs.runs.size(); ++lane)
      counts.push_back(runs.runs[lane].size() + runs.weights[lane].size());
    Code(out, lanes.states, counts, [&](size_t lane, size_t cycle) {
      return cycle % 2 ? weight_of(runs.weights[lane][cycle / 2]) : run_of(runs.runs[lane][cycle / 2]);
    });
  };
  candidates.push_back({isa::Codec::ZeroRun, estimate, write});
}

}  // namespace

std::string EncodeStream(const int32_t* weights, const TileShape& tile, const DecoderLimits& limits) {
  std::string best = Sealed(isa::Codec::Raw, tile.bits, RawPayload(weights, tile));
  const bool zeros = std::all_of(weights, weights + tile.count, [](int32_t weight) { return weight == 0; });
  const int64_t lane_count = LaneCount(tile, limits, zeros ? 1 : kMostLanes);
  if (lane_count == 0) return best;
  const Lanes lanes = Share(weights, tile, lane_count);
  const Histogram histogram = HistogramOf(All(lanes.coded));
  std::vector<Candidate> candidates;
  if (!zeros) Consider(candidates, lanes, histogram, tile.bits, limits);
  ZeroRuns runs;
  const auto zero = std::lower_bound(histogram.values.begin(), histogram.values.end(), 0);
  if (zero != histogram.values.end() && *zero == 0 &&
      histogram.counts[static_cast<size_t>(zero - histogram.values.begin())] * 4 > histogram.total) {
    runs = RunsOf(lanes.coded);
    ConsiderZeroRuns(candidates, lanes, runs, tile.bits, limits);
  }
  double least = 1e300;
  for (const Candidate& candidate : candidates) least = std::min(least, candidate.bits);
  for (const Candidate& candidate : candidates) {
    if (candidate.bits > least * kTriedRatio + kTriedBits) continue;
    BitWriter out;
    out.Put(static_cast<uint64_t>(__builtin_ctzll(static_cast<uint64_t>(lane_count))), isa::kStreamLaneBits);
    candidate.write(out);
    std::string stream = Sealed(candidate.codec, tile.bits, out.Finish());
    if (stream.size() < best.size()) best = std::move(stream);
  }
  return best;
}

}  // namespace qaccel
