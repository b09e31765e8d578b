#include "config.h"

#include "common.h"

namespace qaccel {

namespace {

constexpr int64_t kMost = int64_t{1} << 31;  // keeps every product inside 64 bits

}  // namespace

Config ParseConfig(const Json& values) {
  // What the address fields reach, what the numerics need.
  constexpr int64_t kAddressable = int64_t{1} << 24;
  constexpr int64_t kSimulated = int64_t{1} << 26;  // what the simulator is ready to allocate for
  auto entry = [&](const char* name, int64_t low = 1, int64_t high = kMost) {
    return values.IntegerAt(name, low, high);
  };
  Config config{};
  config.rows = entry("rows", 2);
  config.cols = entry("cols", 2);
  config.weight_buffer_bytes = entry("weight_buffer_bytes", 256, kAddressable);
  config.weight_read_bytes_per_cycle = entry("weight_read_bytes_per_cycle");
  config.line_buffer_bytes = entry("line_buffer_bytes", 1, kSimulated);
  config.accumulator_entries = entry("accumulator_entries", 1, kSimulated);
  config.accumulator_bits = entry("accumulator_bits", 48, 63);
  config.sram_bytes = entry("sram_bytes", 1024, kAddressable);
  config.sram_read_bytes_per_cycle = entry("sram_read_bytes_per_cycle");
  config.sram_write_bytes_per_cycle = entry("sram_write_bytes_per_cycle");
  config.stream_read_bytes_per_cycle = entry("stream_read_bytes_per_cycle");
  config.requantize_outputs_per_cycle = entry("requantize_outputs_per_cycle");
  config.table_lookups_per_cycle = entry("table_lookups_per_cycle");
  config.decoder_lanes = entry("decoder_lanes");
  config.decoder_table_bytes = entry("decoder_table_bytes");
  config.dram_bytes_per_cycle = entry("dram_bytes_per_cycle");
  config.dram_latency_cycles = entry("dram_latency_cycles", 0);
  config.dram_burst_beats = entry("dram_burst_beats");
  config.queue_entries = entry("queue_entries");
  config.instruction_buffer_entries = entry("instruction_buffer_entries");
  const Json& start_up = values.At("start_up_cycles");
  config.start_up_load = start_up.IntegerAt("load", 0, kMost);
  config.start_up_loadw = start_up.IntegerAt("loadw", 0, kMost);
  config.start_up_compute = start_up.IntegerAt("compute", 0, kMost);
  config.start_up_store = start_up.IntegerAt("store", 0, kMost);
  return config;
}

}  // namespace qaccel
