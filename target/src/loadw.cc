// LOADW: a weight stream through the decoder into the weight buffer.
#include <algorithm>

#include "codec.h"
#include "timing.h"

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

Duration DurationOf(const Machine& machine, const isa::Loadw& ins) {
  const int64_t start_up = machine.hw.start_up_cycles_loadw;
  if (ins.source == isa::StreamSource::Dram)
    return Transferring(start_up, machine.decode_cycles, Flat(ins.stream_addr, ins.stream_bytes));
  const int64_t fetch = CeilDiv(ins.stream_bytes, machine.hw.stream_read_bytes_per_cycle);
  Duration duration;
  duration.start_up = start_up;
  duration.units = std::max(machine.decode_cycles, fetch);
  duration.decode_bound = machine.decode_cycles > fetch;
  return duration;
}

Work WorkOf(const isa::Loadw& ins) { return {0, ins.source == isa::StreamSource::Dram ? ins.stream_bytes : 0, 0, 0}; }

}  // namespace qaccel
