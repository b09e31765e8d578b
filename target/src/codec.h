// Weight streams: the codecs of the ISA manual ("Weight streams"), both ways.
#pragma once

#include <cstdint>
#include <string>

#include "common.h"

namespace qaccel {

// What a machine's decoder can do (its config).
struct DecoderLimits {
  int64_t lanes;
  int64_t table_bytes;
};

// How a tile lies in the weight buffer: `count` weights of `bits` bits, `row_weights` to a row, the last row maybe
// short.
struct TileShape {
  int64_t count;
  int64_t row_weights;
  int64_t bits;
};

// The smallest stream that any codec makes of the tile's weights, which are in buffer order. Throws Fault if one of
// them is not within its width.
std::string EncodeStream(const int32_t* weights, const TileShape& tile, const DecoderLimits& limits);

struct Decoded {
  isa::Codec codec;
  int64_t cycles;  // that the decoder is busy
};

// Checks a stream and writes its weights, packed as the weight buffer has them, to `out`. Throws Fault with what is
// wrong with the stream; `out` is then undefined.
Decoded DecodeStream(const uint8_t* stream, int64_t stream_bytes, const TileShape& tile, const DecoderLimits& limits,
                     uint8_t* out);

}  // namespace qaccel
