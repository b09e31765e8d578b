// LOADW: a weight stream through the decoder into the weight buffer.
#include <cstring>

#include "crc32.h"
#include "machine.h"

namespace qaccel {

namespace {

struct StreamHeader {
  uint64_t codec, width_code, count;
  uint32_t crc;
};

// Fields in the order of the manual, bits from the low end of the little-endian header.
StreamHeader ReadHeader(const uint8_t* stream) {
  constexpr unsigned kWidthAt = isa::kStreamCodecBits, kCountAt = kWidthAt + isa::kStreamWidthBits;
  return {isa::unsigned_bits(stream, 0, isa::kStreamCodecBits),
          isa::unsigned_bits(stream, kWidthAt, isa::kStreamWidthBits),
          isa::unsigned_bits(stream, kCountAt, isa::kStreamCountBits),
          static_cast<uint32_t>(isa::unsigned_bits(stream, kCountAt + isa::kStreamCountBits, isa::kStreamCrcBits))};
}

void CheckStream(const isa::Loadw& ins, const uint8_t* stream) {
  const StreamHeader header = ReadHeader(stream);
  constexpr size_t kCovered = (isa::kStreamCodecBits + isa::kStreamWidthBits + isa::kStreamCountBits) / 8;
  const uint32_t crc = Crc32(Crc32(0, stream, kCovered), stream + isa::kStreamHeaderBytes,
                             static_cast<size_t>(ins.stream_bytes - isa::kStreamHeaderBytes));
  if (crc != header.crc) Fail("stream is damaged: checksum ", crc, ", its header says ", header.crc);
  if (header.width_code >= std::size(isa::kWidths)) Fail("stream has the reserved width code ", header.width_code);
  if (isa::kWidths[header.width_code] != ins.weight_bits) {
    Fail("stream has ", isa::kWidths[header.width_code], "-bit weights, the instruction says ", ins.weight_bits);
  }
  if (static_cast<int64_t>(header.count) != ins.weight_count) {
    Fail("stream has ", header.count, " weights, the instruction says ", ins.weight_count);
  }
  if (header.codec != static_cast<uint64_t>(isa::Codec::Raw)) Fail("stream has the unknown codec ", header.codec);
}

void DecodeRaw(const isa::Loadw& ins, const uint8_t* payload, int64_t payload_bytes, uint8_t* out) {
  const int64_t bytes = ChannelBytes(ins.weight_count, ins.weight_bits);
  if (payload_bytes != bytes)
    Fail("raw stream has a payload of ", payload_bytes, " bytes, ", ins.weight_count, " weights need ", bytes);
  if (ins.weight_bits == 4 && ins.weight_count % 2 && payload[bytes - 1] >> 4)
    Fail("raw stream: the last odd nibble is not zero");
  std::memcpy(out, payload, static_cast<size_t>(bytes));
}

}  // namespace

void Execute(Machine& machine, const isa::Loadw& ins) {
  CheckPositive("weight_count", ins.weight_count);
  if (ins.stream_bytes < isa::kStreamHeaderBytes) Fail("stream_bytes is ", ins.stream_bytes, ", less than a header");
  Memory& source = ins.source == isa::StreamSource::Dram ? machine.dram : machine.sram;
  source.Read(Flat(ins.stream_addr, ins.stream_bytes), machine.actor);
  const uint8_t* stream = source.data() + ins.stream_addr;
  CheckStream(ins, stream);
  machine.weights.Write(Flat(ins.buffer_addr, ChannelBytes(ins.weight_count, ins.weight_bits)), machine.actor);
  DecodeRaw(ins, stream + isa::kStreamHeaderBytes, ins.stream_bytes - isa::kStreamHeaderBytes,
            machine.weights.data() + ins.buffer_addr);
}

}  // namespace qaccel
