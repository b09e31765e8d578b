// Weight streams: known answers, round trips, and damage that must be refused.
#include <map>
#include <set>

#include "bench.h"
#include "check.h"
#include "codec.h"
#include "crc32.h"
#include "known_streams.h"

namespace qaccel {

namespace {

Bytes FromHex(const std::string& text) {
  Bytes bytes;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

constexpr DecoderLimits kLimits{8, 640};

struct Result {
  Bytes weights;
  Decoded decoded;
};

// The decoder writes nothing beyond the tile, so the result has exactly its bytes and the sanitizer watches.
Result Decode(const Bytes& stream, const TileShape& tile, const DecoderLimits& limits = kLimits) {
  Bytes out(static_cast<size_t>((tile.count * tile.bits + 7) / 8));
  const Decoded decoded = DecodeStream(stream.data(), static_cast<int64_t>(stream.size()), tile, limits, out.data());
  return {out, decoded};
}

TileShape TileOf(const KnownStream& known) { return {known.count, known.row_weights, known.bits}; }

// With a right checksum, so that the damage gets past it.
Bytes Sealed(Bytes stream) {
  const uint32_t crc = Crc32(Crc32(0, stream.data(), 1), stream.data() + 5, stream.size() - 5);
  for (int i = 0; i < 4; ++i) stream[static_cast<size_t>(i + 1)] = static_cast<uint8_t>(crc >> 8 * i);
  return stream;
}

TEST(known_answers) {
  std::set<std::pair<isa::Codec, int64_t>> seen;
  for (const KnownStream& known : kKnownStreams) {
    const Result result = Decode(FromHex(known.stream), TileOf(known));
    CHECK_EQ(result.weights, FromHex(known.weights));
    CHECK_EQ(result.decoded.cycles, known.cycles);
    CHECK_EQ(isa::name(result.decoded.codec), isa::name(known.codec));
    seen.insert({known.codec, known.bits});
  }
  CHECK_EQ(seen.size(), 15U);  // five codecs, three widths
}

TEST(a_stream_decoded_by_hand) {
  // Codec palette, 4 bits: log2 of one lane; one symbol, less 1; its value, -2; the rest symbol; the state, which holds
  // the last four weights: 1, 2, 3 and -1.
  Bytes stream = {3, 0, 0, 0, 0};
  uint64_t bits = 0;
  int at = 0;
  const auto put = [&](uint64_t value, int count) {
    bits |= value << at;
    at += count;
  };
  put(0, 3);
  put(0, 6);
  put(0xE, 4);
  put(0, 6);
  put(0xF321, 16);
  for (int i = 0; i < 5; ++i) stream.push_back(static_cast<uint8_t>(bits >> 8 * i));
  const Result result = Decode(Sealed(stream), {7, 1, 4});
  CHECK_EQ(result.weights, (Bytes{0xEE, 0x1E, 0x32, 0x0F}));
  CHECK_EQ(result.decoded.cycles, 1 + 3 + 4);  // a symbol of the table, three weights, four that the state holds
}

TEST(every_flipped_bit_is_noticed) {
  for (const KnownStream& known : kKnownStreams) {
    const Bytes good = FromHex(known.stream);
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
      Bytes damaged = good;
      damaged[bit / 8] = static_cast<uint8_t>(damaged[bit / 8] ^ 1 << bit % 8);
      CHECK_FAULT(Decode(damaged, TileOf(known)), "stream is damaged: checksum");
    }
  }
}

// Behind a right checksum damage may give other weights, but never an access outside (the sanitizer's part).
TEST(damage_behind_the_checksum_stays_inside) {
  int refused = 0, rounds = 0;
  for (const KnownStream& known : kKnownStreams) {
    const Bytes good = FromHex(known.stream);
    for (size_t bit = 40; bit < 8 * good.size(); ++bit) {
      Bytes damaged = good;
      damaged[bit / 8] = static_cast<uint8_t>(damaged[bit / 8] ^ 1 << bit % 8);
      refused += !FaultOf([&] { Decode(Sealed(damaged), TileOf(known)); }).empty();
      ++rounds;
    }
  }
  CHECK_EQ(refused > rounds / 4, true);
}

TEST(damaged_streams_are_named) {
  for (const KnownStream& known : kKnownStreams) {
    const Bytes good = FromHex(known.stream);
    const TileShape tile = TileOf(known);
    const bool raw = known.codec == isa::Codec::Raw;
    Bytes changed = good;
    changed.pop_back();
    CHECK_FAULT(Decode(Sealed(changed), tile), raw ? "payload" : "ends before its last weight");
    changed = good;
    changed.push_back(0);
    CHECK_FAULT(Decode(Sealed(changed), tile), raw ? "payload" : "1 bytes after its last weight");
    changed = good;
    changed[0] = static_cast<uint8_t>(changed[0] | 0xC0);
    CHECK_FAULT(Decode(Sealed(changed), tile), "reserved width code 3");
    changed = good;
    changed[0] = static_cast<uint8_t>((changed[0] & 0xC0) + 5);
    CHECK_FAULT(Decode(Sealed(changed), tile), "unknown codec 5");
    CHECK_FAULT(Decode(good, {known.count, known.row_weights, known.bits == 8 ? 4 : 8}), "the instruction says");
    CHECK_FAULT(Decode(Bytes(good.begin(), good.begin() + 4), tile), "its header alone has 5");
    if (raw) continue;
    changed = good;
    changed[5] = static_cast<uint8_t>(changed[5] | 7);
    CHECK_FAULT(Decode(Sealed(changed), tile), "for 128 lanes, the decoder has 8");
    CHECK_FAULT(Decode(good, tile, {8, 4}), "table");  // less than one symbol's entry
  }
}

Values Weights(std::mt19937& random, int kind, int64_t count, int64_t bits) {
  const int64_t high = Highest(bits);
  Values values;
  for (int64_t i = 0; i < count; ++i) {
    double value = 0;
    const double deviation = static_cast<double>(high) / 6;
    switch (kind) {
      case 0:
        value = std::uniform_real_distribution<>(-static_cast<double>(high) - 1, static_cast<double>(high))(random);
        break;
      case 1: value = std::normal_distribution<>(0, deviation)(random); break;
      case 2: value = std::exponential_distribution<>(1 / deviation)(random) - 2; break;
      case 3: value = random() % 8 ? 0 : std::normal_distribution<>(0, 2 * deviation)(random); break;
      case 4: value = static_cast<double>((static_cast<int64_t>(random() % 5) * 7919) % (high + 1)); break;
      case 5: value = 0; break;
      default: value = static_cast<double>(random() % 2 ? high : Lowest(bits));
    }
    values.push_back(std::clamp(static_cast<int64_t>(value), Lowest(bits), high));
  }
  return values;
}

TEST(round_trips) {
  std::mt19937 random(7);
  std::map<isa::Codec, int> codecs;
  const TileShape shapes[] = {{1, 1, 0}, {7, 3, 0}, {100, 100, 0}, {999, 10, 0}, {2304, 16, 0}, {2311, 33, 0}, {2400, 48, 0}, {4000, 96, 0}};
  for (int kind = 0; kind < 7; ++kind) {
    for (const int64_t bits : kAllWidths) {
      for (TileShape tile : shapes) {
        for (const int64_t lanes : {1, 8, 16, 32, 128}) {
          tile.bits = bits;
          const Values values = Weights(random, kind, tile.count, bits);
          const std::vector<int32_t> weights(values.begin(), values.end());
          const std::string stream = EncodeStream(weights.data(), tile, {lanes, 640});
          const Result result = Decode(Bytes(stream.begin(), stream.end()), tile, {lanes, 640});
          CHECK_EQ(result.weights == Packed(values, bits), true);
          CHECK_EQ(stream.size() <= static_cast<size_t>(5 + (tile.count * bits + 7) / 8), true);  // never above raw
          ++codecs[result.decoded.codec];
        }
      }
    }
  }
  CHECK_EQ(codecs.size(), 5U);
  const int32_t wide[] = {8};
  CHECK_FAULT(EncodeStream(wide, {1, 1, 4}, kLimits), "8");
}

}  // namespace

}  // namespace qaccel
