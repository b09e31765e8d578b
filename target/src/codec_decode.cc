// The decoder, in the steps of the ISA manual.
#include <algorithm>
#include <cstring>

#include "codec.h"
#include "codec_columns.h"
#include "codec_lanes.h"
#include "crc32.h"

namespace qaccel {

namespace {

constexpr size_t kLanesMax = size_t{1} << ((1 << isa::kStreamLaneBits) - 1);

// Weights into the tile, packed as the weight buffer has them. A weight that does not fit is noted.
template <int kBits>
class Tile {
 public:
  Tile(uint8_t* out, const TileShape& shape) : out_(out) {
    std::memset(out, 0, static_cast<size_t>(ChannelBytes(shape.count, kBits)));
  }
  void Put(int64_t index, int32_t weight) {
    noted_ |= static_cast<uint32_t>(weight) - static_cast<uint32_t>(LowestOf(kBits));
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
  // For those who put weights themselves, at a whole byte.
  uint8_t* At(int64_t index) { return out_ + index * kBits / 8; }
  uint32_t& noted() { return noted_; }
  void Check() const {
    if (noted_ >> kBits) Fail("stream has a weight outside of ", kBits, " bits");
  }

 private:
  uint8_t* out_;
  uint32_t noted_ = 0;  // of every weight, how far it is above the lowest, or-ed
};

struct Lane {
  LaneWalk walk;
  int64_t left;  // weights to decode
  uint32_t state = 0;
};

std::vector<Lane> Lanes(const TileShape& tile, int64_t count) {
  std::vector<Lane> lanes;
  lanes.reserve(static_cast<size_t>(count));
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

// The lanes from the first column on, as long as the columns that they take together are all there and equally long, and no lane
// has reached its end. Returns the cycles.
template <int kBits>
int64_t DecodeWholeColumns(const SlotTable& table, std::vector<Lane>& lanes, BitReader& in, Tile<kBits>& tile,
                           const TileShape& shape) {
  std::array<uint32_t, kLanesMax> states;
  const auto count = static_cast<int64_t>(lanes.size());
  // Two weights are put at a time: 4-bit ones share their byte.
  if (count % 2 || (kBits == 4 && shape.row_weights % 2)) return 0;
  int64_t left = lanes[0].left;
  for (int64_t l = 0; l < count; ++l) {
    left = std::min(left, lanes[l].left);
    states[l] = lanes[l].state;
  }
  const int64_t rest = shape.count % shape.row_weights, columns = std::min(shape.row_weights, shape.count);
  int64_t cycles = 0, column = 0, row = 0;
  while (cycles < left && row == 0 && column + count <= columns && (column + count <= rest || column >= rest)) {
    const int64_t rows = shape.count / shape.row_weights + (column < rest);
    row = DecodeColumns<kBits>(table, states.data(), count, in.cursor, in.end(), std::min(rows, left - cycles),
                               tile.At(column), shape.row_weights * kBits / 8, tile.noted());
    in.CheckEnd();
    cycles += row;
    if (row < rows) break;
    row = 0;
    column += count;
  }
  for (int64_t l = 0; l < count; ++l) {
    lanes[l].state = states[l];
    lanes[l].left -= cycles;
    lanes[l].walk.column = column + l;
    lanes[l].walk.index = row * shape.row_weights + column + l;
  }
  return cycles;
}

// Returns the cycles.
template <int kBits>
int64_t DecodeWithOneTable(const SlotTable& table, std::vector<Lane>& lanes, BitReader& in, Tile<kBits>& tile,
                           const TileShape& shape) {
  int64_t cycles = DecodeWholeColumns<kBits>(table, lanes, in, tile, shape);
  for (bool any = true; any; cycles += any) {
    any = false;
    for (Lane& lane : lanes) {
      if (lane.left == 0) continue;
      tile.Put(lane.walk.index, table.Decode(lane.state, in.cursor));
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
        tile.Put(lane.walk.index, weights.Decode(lane.state, in.cursor));
        lane.walk.Next();
        --lane.left;
        continue;
      }
      const int64_t run = runs.Decode(lane.state, in.cursor);
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
    cycles += DecodeWithOneTable<kBits>(SlotTable(symbols), lanes, in, tile, shape);
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
