// LOADW: a weight stream through the decoder into the weight buffer.
#include "codec.h"
#include "machine.h"

namespace qaccel {

void Execute(Machine& machine, const isa::Loadw& ins) {
  CheckPositive("weight_count", ins.weight_count);
  CheckPositive("row_weights", ins.row_weights);
  if (ins.stream_bytes < isa::kStreamHeaderBytes) Fail("stream_bytes is ", ins.stream_bytes, ", less than a header");
  Memory& source = ins.source == isa::StreamSource::Dram ? machine.dram : machine.sram;
  source.Read(Flat(ins.stream_addr, ins.stream_bytes), machine.actor);
  machine.weights.Write(Flat(ins.buffer_addr, ChannelBytes(ins.weight_count, ins.weight_bits)), machine.actor);
  const TileShape tile{ins.weight_count, ins.row_weights, ins.weight_bits};
  const DecoderLimits limits{machine.hw.decoder_lanes, machine.hw.decoder_table_bytes};
  try {
    const Decoded decoded = DecodeStream(source.data() + ins.stream_addr, ins.stream_bytes, tile, limits,
                                         machine.weights.data() + ins.buffer_addr);
    machine.decode_cycles = decoded.cycles;
  } catch (const Fault& fault) {
    Fail(isa::name(ins.source), " address ", ins.stream_addr, ": ", fault.what());
  }
}

}  // namespace qaccel
