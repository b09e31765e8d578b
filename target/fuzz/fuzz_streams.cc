// Decodes damaged weight streams: each is an error or decodes, and nothing crashes, hangs or leaves its memory.
//
//     fuzz_streams SEED COUNT
//
// Good streams of every codec and width are made here. Each round damages one: cut, flipped, spliced, its table
// description, lane count, codec or width changed, or the LOADW's fields; mostly with the checksum made right again, so
// that the damage gets past it. Other rounds describe a hostile table from scratch. Build with sanitizers.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "codec.h"
#include "codec_table.h"
#include "crc32.h"

namespace qaccel {

namespace {

using Random = std::mt19937_64;
constexpr size_t kHeader = isa::kStreamHeaderBytes;
constexpr int64_t kCountMax = (int64_t{1} << 24) - 1;  // what LOADW can say
constexpr double kSecondsMax = 20;                     // the largest tile, decoded under sanitizers on a busy machine

uint64_t Below(Random& random, uint64_t limit) { return limit == 0 ? 0 : random() % limit; }
bool Chance(Random& random, unsigned percent) { return Below(random, 100) < percent; }

struct Case {
  std::string stream;
  TileShape tile;
  DecoderLimits limits;
};

void Seal(std::string& stream) {
  if (stream.size() < kHeader) return;
  const auto* bytes = reinterpret_cast<const uint8_t*>(stream.data());
  const uint32_t crc = Crc32(Crc32(0, bytes, 1), bytes + kHeader, stream.size() - kHeader);
  for (size_t i = 0; i < 4; ++i) stream[1 + i] = static_cast<char>(crc >> 8 * i);
}

int32_t Weight(Random& random, unsigned kind, int64_t index, int64_t bits, const std::vector<int32_t>& palette) {
  const double size = std::ldexp(1.0, static_cast<int>(bits));
  const auto lowest = static_cast<int32_t>(LowestOf(bits)), highest = static_cast<int32_t>(HighestOf(bits));
  double value = 0;
  switch (kind) {
    case 0: value = static_cast<double>(Below(random, static_cast<uint64_t>(size))) - size / 2; break;
    case 1: value = std::normal_distribution<double>(0, size / 10)(random); break;
    case 2: value = std::exponential_distribution<double>(16 / size)(random) - size / 4; break;
    case 3: value = palette[Below(random, palette.size())]; break;
    case 4: value = index % 16 % 3 ? 0 : std::normal_distribution<double>(0, size / 8)(random); break;
    default: value = lowest;
  }
  return std::clamp(static_cast<int32_t>(std::lround(value)), lowest, highest);
}

Case Good(Random& random) {
  constexpr int64_t kLanes[] = {1, 2, 8, 12, 16, 32, 128};
  Case made;
  made.tile.bits = isa::kWidths[Below(random, std::size(isa::kWidths))];
  made.tile.count = 1 + static_cast<int64_t>(Below(random, Chance(random, 20) ? 40 : 3000));
  made.tile.row_weights = Chance(random, 50) ? 16 : 1 + static_cast<int64_t>(Below(random, 200));
  made.limits = {kLanes[Below(random, std::size(kLanes))], Chance(random, 80) ? 640 : 10};
  const auto kind = static_cast<unsigned>(Below(random, 6));
  std::vector<int32_t> palette, weights;
  for (int i = 0; i < 9; ++i) palette.push_back(Weight(random, 0, 0, made.tile.bits, palette));
  for (int64_t i = 0; i < made.tile.count; ++i) weights.push_back(Weight(random, kind, i, made.tile.bits, palette));
  made.stream = EncodeStream(weights.data(), made.tile, made.limits);
  return made;
}

// Overwrites up to 32 bits within [begin, end) with a value that is often extreme.
void SetBits(Random& random, std::string& bytes, size_t begin, size_t end) {
  end = std::min(end, bytes.size());
  if (begin >= end) return;
  const size_t width = 1 + Below(random, 32), first = begin * 8 + Below(random, (end - begin) * 8);
  const uint64_t kinds[] = {0, ~uint64_t{0}, 1, random(), uint64_t{1} << (width - 1)};
  const uint64_t value = kinds[Below(random, std::size(kinds))];
  for (size_t i = 0; i < width && first + i < end * 8; ++i) {
    char& byte = bytes[(first + i) / 8];
    const char bit = static_cast<char>(1 << (first + i) % 8);
    byte = value >> i & 1 ? static_cast<char>(byte | bit) : static_cast<char>(byte & ~bit);
  }
}

BucketTable HostileBuckets(Random& random, int64_t value_bits) {
  BucketTable table;
  const size_t symbols = Chance(random, 30) ? kSymbolsMax : 1 + Below(random, kSymbolsMax);
  table.first = value_bits ? static_cast<int32_t>(Below(random, uint64_t{1} << value_bits)) : 0;
  // One in ten names a rest symbol that may not exist.
  table.rest = static_cast<uint32_t>(Below(random, Chance(random, 10) ? kSymbolsMax : symbols));
  const auto codes = Chance(random, 80) ? 40 : 1U << isa::kStreamFrequencyCodeBits;
  const bool wide = Chance(random, 30);
  for (size_t s = 0; s < symbols; ++s) {
    table.extra_bits.push_back(wide ? kExtraMax : static_cast<uint32_t>(Below(random, kExtraMax + 1)));
    table.codes.push_back(static_cast<uint32_t>(Below(random, codes)));
  }
  return table;
}

// A table from scratch, behind it states and symbols: random bits, or zeros.
std::string HostilePayload(Random& random, isa::Codec codec, int64_t bits) {
  BitWriter out;
  out.Put(Below(random, 1U << isa::kStreamLaneBits), isa::kStreamLaneBits);
  switch (codec) {
    case isa::Codec::ZeroRun:
      Put(out, HostileBuckets(random, 0), 0);
      Put(out, HostileBuckets(random, bits), bits);
      break;
    case isa::Codec::Entropy: Put(out, HostileBuckets(random, bits), bits); break;
    case isa::Codec::Palette: {
      const BucketTable buckets = HostileBuckets(random, bits);
      PaletteTable table{buckets.rest, {}, buckets.codes};
      for (size_t s = 0; s < table.codes.size(); ++s) table.values.push_back(static_cast<int32_t>(random() & 0xFFFF));
      Put(out, table, bits);
      break;
    }
    default: {
      ParametricTable table;
      table.extra_bits = static_cast<uint32_t>(Below(random, kExtraMax + 1));
      table.sides = static_cast<uint32_t>(Below(random, kSidesMax + 1));
      table.first = static_cast<uint32_t>(Below(random, Chance(random, 70) ? 200 : 1U << isa::kStreamFirstBits));
      table.ratio = static_cast<uint32_t>(Below(random, 1U << isa::kStreamRatioBits));
      table.bend = static_cast<uint32_t>(Below(random, 1U << isa::kStreamBendBits));
      Put(out, table);
    }
  }
  const bool zeros = Chance(random, 30);
  for (size_t words = Below(random, 300); words > 0; --words) out.Put(zeros ? 0 : random() & 0xFFFFFFFF, 32);
  return out.Finish();
}

void ChangeInstruction(Random& random, Case& damaged) {
  const int64_t counts[] = {1, 2, damaged.tile.count - 1, damaged.tile.count + 1, damaged.tile.count * 2, 65535};
  const int64_t rows[] = {1, 2, damaged.tile.row_weights - 1, damaged.tile.row_weights + 1, 65535};
  switch (Below(random, 5)) {
    case 0: damaged.tile.count = Chance(random, 1) ? kCountMax : counts[Below(random, std::size(counts))]; break;
    case 1: damaged.tile.row_weights = rows[Below(random, std::size(rows))]; break;
    case 2: damaged.tile.bits = isa::kWidths[Below(random, std::size(isa::kWidths))]; break;
    case 3: damaged.limits.lanes = 1 + static_cast<int64_t>(Below(random, 20)); break;
    default: damaged.limits.table_bytes = 1 + static_cast<int64_t>(Below(random, 64));
  }
  damaged.tile.count = std::max<int64_t>(1, damaged.tile.count);
  damaged.tile.row_weights = std::max<int64_t>(1, damaged.tile.row_weights);
}

void Damage(Random& random, Case& damaged, const Case& other) {
  std::string& stream = damaged.stream;
  switch (Below(random, 9)) {
    case 0: stream.resize(Below(random, stream.size() + 1)); break;
    case 1: stream.append(1 + Below(random, 8), static_cast<char>(Chance(random, 50) ? 0 : random())); break;
    case 2: SetBits(random, stream, 0, stream.size()); break;
    case 3: SetBits(random, stream, 0, 1); break;                      // codec and width
    case 4: SetBits(random, stream, kHeader, kHeader + 1); break;      // lanes
    case 5:
    case 6: SetBits(random, stream, kHeader, kHeader + 90); break;     // tables and states
    case 7:
      stream = stream.substr(0, Below(random, stream.size() + 1)) +
               other.stream.substr(Below(random, other.stream.size() + 1));
      break;
    default: ChangeInstruction(random, damaged);
  }
}

Case Mutate(Random& random, const std::vector<Case>& corpus) {
  Case damaged = corpus[Below(random, corpus.size())];
  if (Chance(random, 20)) {
    const auto codec = static_cast<isa::Codec>(1 + Below(random, 4));
    damaged.stream[0] = static_cast<char>((damaged.stream[0] & ~0x3F) | static_cast<int>(codec));
    damaged.stream.resize(kHeader);
    damaged.stream += HostilePayload(random, codec, damaged.tile.bits);
  } else {
    for (uint64_t rounds = 1 + Below(random, 3); rounds > 0; --rounds)
      Damage(random, damaged, corpus[Below(random, corpus.size())]);
  }
  if (Chance(random, 95)) Seal(damaged.stream);
  return damaged;
}

// The error, or nothing. Stream and tile lie in blocks of exactly their size.
std::string DecodeOnce(const Case& damaged, std::vector<uint8_t>& out) {
  const auto bytes = std::make_unique<uint8_t[]>(damaged.stream.size());
  std::copy(damaged.stream.begin(), damaged.stream.end(), bytes.get());
  out.assign(static_cast<size_t>(ChannelBytes(damaged.tile.count, damaged.tile.bits)), 0xA5);
  out.shrink_to_fit();
  try {
    const auto size = static_cast<int64_t>(damaged.stream.size());
    const Decoded decoded = DecodeStream(bytes.get(), size, damaged.tile, damaged.limits, out.data());
    // A weight takes two cycles at most, a lane cannot have more than all of them, tables have 128 symbols.
    if (decoded.cycles < 1 || decoded.cycles > 2 * damaged.tile.count + 2 * static_cast<int64_t>(kSymbolsMax) + 4) {
      std::fprintf(stderr, "%lld cycles for %lld weights\n", static_cast<long long>(decoded.cycles),
                   static_cast<long long>(damaged.tile.count));
      std::abort();
    }
    return "";
  } catch (const Fault& fault) {
    return fault.what();
  }
}

std::string Kind(const std::string& text) {
  std::string kind;
  for (const char c : text) {
    if (c < '0' || c > '9') kind += c;
  }
  return kind.substr(0, 60);
}

int Main(uint64_t seed, size_t count) {
  Random random(seed);
  std::vector<Case> corpus;
  std::vector<uint8_t> out, again;
  std::map<int, size_t> codecs;
  for (int i = 0; i < 400; ++i) {
    corpus.push_back(Good(random));
    ++codecs[corpus.back().stream[0] & 0x3F];
    const std::string error = DecodeOnce(corpus.back(), out);
    if (!error.empty()) {
      std::fprintf(stderr, "a good stream fails: %s\n", error.c_str());
      return 1;
    }
  }
  if (codecs.size() != 5) {
    std::fprintf(stderr, "the corpus has %zu codecs\n", codecs.size());
    return 1;
  }
  std::map<std::string, size_t> kinds;
  size_t decoded = 0;
  double slowest = 0;
  for (size_t i = 0; i < count; ++i) {
    const Case damaged = Mutate(random, corpus);
    const auto begin = std::chrono::steady_clock::now();
    const std::string error = DecodeOnce(damaged, out);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    slowest = std::max(slowest, seconds);
    // The same again, whatever lay in the tile before.
    const bool same = damaged.tile.count > 4096 || (DecodeOnce(damaged, again) == error && (!error.empty() || out == again));
    if (seconds > kSecondsMax || !same || error.find('\n') != std::string::npos) {
      std::fprintf(stderr, "seed %llu round %zu: %.1f s, %s, '%s'\n", static_cast<unsigned long long>(seed), i, seconds,
                   same ? "the same again" : "another result the second time", error.c_str());
      return 1;
    }
    error.empty() ? ++decoded : ++kinds[Kind(error)];
  }
  std::printf("%zu mutations, %zu still decoded, %zu kinds of errors, slowest %.2f s\n", count, decoded, kinds.size(),
              slowest);
  for (const auto& [kind, times] : kinds) std::printf("%8zu %s\n", times, kind.c_str());
  return 0;
}

}  // namespace

}  // namespace qaccel

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s SEED COUNT\n", argv[0]);
    return 2;
  }
  return qaccel::Main(std::strtoull(argv[1], nullptr, 10), std::strtoull(argv[2], nullptr, 10));
}
