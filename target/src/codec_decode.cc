// The decoder, in the steps of the ISA manual.
#include <algorithm>
#include <cstring>

#include "codec.h"
#include "codec_lanes.h"
#include "codec_table.h"
#include "crc32.h"

namespace qaccel {

namespace {

constexpr uint32_t kStateLow = uint32_t{1} << isa::kStreamStateBits;
constexpr uint32_t kSlotMask = kFrequencies - 1;

// A table as the lanes use it: the symbol of every slot.
struct SlotTable {
  std::array<Symbol, kSymbolsMax> symbols;
  std::array<uint8_t, kFrequencies> symbol_of;

  explicit SlotTable(const Symbols& from) {
    for (size_t s = 0; s < from.size(); ++s) {
      symbols[s] = from[s];
      std::memset(symbol_of.data() + from[s].begin, static_cast<int>(s), from[s].frequency);
    }
  }

  // One step of a lane.
  int32_t Decode(uint32_t& state, BitReader& in) const {
    const uint32_t slot = state & kSlotMask;
    const Symbol& symbol = symbols[symbol_of[slot]];
    state = symbol.frequency * (state >> isa::kStreamFrequencyBits) + slot - symbol.begin;
    const auto bits = static_cast<uint32_t>(__builtin_clz(state) - __builtin_clz(kStateLow));
    const auto taken = static_cast<uint32_t>(in.Take(bits + symbol.extra_bits));
    state = state << bits | (taken & ((uint32_t{1} << bits) - 1));
    return symbol.first + static_cast<int32_t>(taken >> bits);
  }
};

// Weights into the tile, packed as the weight buffer has them. A weight that does not fit is noted.
template <int kBits>
class Tile {
 public:
  Tile(uint8_t* out, const TileShape& shape) : out_(out) {
    std::memset(out, 0, static_cast<size_t>(ChannelBytes(shape.count, kBits)));
  }
  void Put(int64_t index, int32_t weight) {
    outside_ |= weight < LowestOf(kBits) || weight > HighestOf(kBits);
    const auto pattern = static_cast<uint32_t>(weight);
    if (kBits == 4) {
      out_[index / 2] = static_cast<uint8_t>(out_[index / 2] | (pattern & 0xF) << index % 2 * 4);
    } else if (kBits == 8) {
      out_[index] = static_cast<uint8_t>(pattern);
    } else {
      out_[2 * index] = static_cast<uint8_t>(pattern);
      out_[2 * index + 1] = static_cast<uint8_t>(pattern >> 8);
    }
  }
  void Check() const {
    if (outside_) Fail("stream has a weight outside of ", kBits, " bits");
  }

 private:
  uint8_t* out_;
  bool outside_ = false;
};

struct Lane {
  LaneWalk walk;
  int64_t left;  // weights to decode
  uint32_t state = 0;
};

std::vector<Lane> Lanes(const TileShape& tile, int64_t count) {
  std::vector<Lane> lanes;
  for (int64_t l = 0; l < count; ++l) {
    const int64_t left = LaneWeights(tile, l, count) - HeldWeights(tile.bits);
    if (left < 0)
      Fail("stream is for ", count, " lanes, too many for ", tile.count, " weights in rows of ", tile.row_weights);
    lanes.push_back({LaneWalk(tile, l, count), left});
  }
  return lanes;
}

void TakeStates(std::vector<Lane>& lanes, BitReader& in) {
  for (Lane& lane : lanes) lane.state = kStateLow + static_cast<uint32_t>(in.Take(isa::kStreamStateBits));
  in.CheckEnd();
}

// Returns the cycles.
template <int kBits>
int64_t DecodeWithOneTable(const SlotTable& table, std::vector<Lane>& lanes, BitReader& in, Tile<kBits>& tile) {
  int64_t cycles = 0, together = lanes[0].left;
  for (const Lane& lane : lanes) together = std::min(together, lane.left);
  for (; cycles < together; ++cycles) {
    for (Lane& lane : lanes) {
      tile.Put(lane.walk.index, table.Decode(lane.state, in));
      lane.walk.Next();
    }
    in.CheckEnd();
  }
  for (Lane& lane : lanes) lane.left -= together;
  for (bool any = true; any; cycles += any) {
    any = false;
    for (Lane& lane : lanes) {
      if (lane.left == 0) continue;
      tile.Put(lane.walk.index, table.Decode(lane.state, in));
      lane.walk.Next();
      --lane.left;
      any = true;
    }
    in.CheckEnd();
  }
  return cycles;
}

template <int kBits>
int64_t DecodeZeroRuns(const SlotTable& runs, const SlotTable& weights, std::vector<Lane>& lanes, BitReader& in,
                       Tile<kBits>& tile) {
  int64_t cycles = 0;
  for (bool any = true; any; cycles += any) {
    any = false;
    for (Lane& lane : lanes) {
      if (lane.left == 0) continue;
      any = true;
      if (cycles % 2) {
        tile.Put(lane.walk.index, weights.Decode(lane.state, in));
        lane.walk.Next();
        --lane.left;
        continue;
      }
      const int64_t run = runs.Decode(lane.state, in);
      if (run > lane.left) Fail("stream has a run of ", run, " zeros where ", lane.left, " weights are left");
      for (int64_t k = 0; k < run; ++k) lane.walk.Next();  // the tile is zero
      lane.left -= run;
    }
    in.CheckEnd();
  }
  return cycles;
}

void CheckTables(size_t symbols, const DecoderLimits& limits) {
  const auto bytes = static_cast<int64_t>(symbols) * isa::kStreamTableEntryBytes;
  if (bytes > limits.table_bytes)
    Fail("stream has tables of ", bytes, " bytes, the decoder holds ", limits.table_bytes);
}

template <int kBits>
int64_t DecodeCoded(isa::Codec codec, BitReader& in, const TileShape& shape, const DecoderLimits& limits,
                    uint8_t* out) {
  const int64_t lane_count = int64_t{1} << in.Take(isa::kStreamLaneBits);
  if (lane_count > limits.lanes) Fail("stream is for ", lane_count, " lanes, the decoder has ", limits.lanes);
  std::vector<Lane> lanes = Lanes(shape, lane_count);
  Tile<kBits> tile(out, shape);
  int64_t cycles = 0;
  if (codec == isa::Codec::ZeroRun) {
    const Symbols runs = SymbolsOf(TakeBuckets(in, 0)), weights = SymbolsOf(TakeBuckets(in, kBits));
    CheckTables(runs.size() + weights.size(), limits);
    TakeStates(lanes, in);
    cycles = static_cast<int64_t>(runs.size() + weights.size());
    cycles += DecodeZeroRuns<kBits>(SlotTable(runs), SlotTable(weights), lanes, in, tile);
  } else {
    const Symbols symbols = codec == isa::Codec::Parametric ? SymbolsOf(TakeParametric(in))
                            : codec == isa::Codec::Entropy  ? SymbolsOf(TakeBuckets(in, kBits))
                                                            : SymbolsOf(TakePalette(in, kBits));
    CheckTables(symbols.size(), limits);
    TakeStates(lanes, in);
    cycles = static_cast<int64_t>(symbols.size());
    cycles += DecodeWithOneTable<kBits>(SlotTable(symbols), lanes, in, tile);
  }
  in.CheckDone();
  tile.Check();
  constexpr int64_t held = isa::kStreamStateBits / kBits;
  for (Lane& lane : lanes) {
    for (int64_t k = 0; k < held; ++k, lane.walk.Next()) {
      const auto pattern = static_cast<int32_t>(lane.state >> k * kBits & ((uint32_t{1} << kBits) - 1));
      tile.Put(lane.walk.index, (pattern ^ 1 << (kBits - 1)) - (1 << (kBits - 1)));
    }
  }
  return cycles + held;
}

void DecodeRaw(const uint8_t* payload, int64_t payload_bytes, const TileShape& tile, uint8_t* out) {
  const int64_t bytes = ChannelBytes(tile.count, tile.bits);
  if (payload_bytes != bytes)
    Fail("raw stream has a payload of ", payload_bytes, " bytes, ", tile.count, " weights need ", bytes);
  if (tile.bits == 4 && tile.count % 2 && payload[bytes - 1] >> 4) Fail("raw stream: the last odd nibble is not zero");
  std::memcpy(out, payload, static_cast<size_t>(bytes));
}

isa::Codec CheckHeader(const uint8_t* stream, int64_t stream_bytes, int64_t bits) {
  if (stream_bytes < isa::kStreamHeaderBytes)
    Fail("stream has ", stream_bytes, " bytes, its header alone has ", isa::kStreamHeaderBytes);
  const uint64_t codec = isa::unsigned_bits(stream, 0, isa::kStreamCodecBits);
  const uint64_t width_code = isa::unsigned_bits(stream, isa::kStreamCodecBits, isa::kStreamWidthBits);
  constexpr unsigned kCrcAt = isa::kStreamCodecBits + isa::kStreamWidthBits;
  const auto stated = static_cast<uint32_t>(isa::unsigned_bits(stream, kCrcAt, isa::kStreamCrcBits));
  const uint32_t crc = Crc32(Crc32(0, stream, kCrcAt / 8), stream + isa::kStreamHeaderBytes,
                             static_cast<size_t>(stream_bytes - isa::kStreamHeaderBytes));
  if (crc != stated) Fail("stream is damaged: checksum ", crc, ", its header says ", stated);
  if (width_code >= std::size(isa::kWidths)) Fail("stream has the reserved width code ", width_code);
  if (isa::kWidths[width_code] != bits) {
    Fail("stream has ", isa::kWidths[width_code], "-bit weights, the instruction says ", bits);
  }
  if (codec > static_cast<uint64_t>(isa::Codec::ZeroRun)) Fail("stream has the unknown codec ", codec);
  return static_cast<isa::Codec>(codec);
}

}  // namespace

Decoded DecodeStream(const uint8_t* stream, int64_t stream_bytes, const TileShape& tile, const DecoderLimits& limits,
                     uint8_t* out) {
  const isa::Codec codec = CheckHeader(stream, stream_bytes, tile.bits);
  const uint8_t* payload = stream + isa::kStreamHeaderBytes;
  const int64_t payload_bytes = stream_bytes - isa::kStreamHeaderBytes;
  if (codec == isa::Codec::Raw) {
    DecodeRaw(payload, payload_bytes, tile, out);
    return {codec, CeilDiv(tile.count, limits.lanes)};
  }
  BitReader in(payload, payload_bytes);
  switch (tile.bits) {
    case 4:
      return {codec, DecodeCoded<4>(codec, in, tile, limits, out)};
    case 8:
      return {codec, DecodeCoded<8>(codec, in, tile, limits, out)};
    default:
      return {codec, DecodeCoded<16>(codec, in, tile, limits, out)};
  }
}

}  // namespace qaccel
