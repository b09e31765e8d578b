// One machine's sizes; names and units as in configs/*.toml.
#pragma once

#include <cstdint>

#include "json.h"

namespace qaccel {

struct Config {
  int64_t rows, cols;
  int64_t weight_buffer_bytes, weight_read_bytes_per_cycle, line_buffer_bytes;
  int64_t accumulator_entries, accumulator_bits;
  int64_t sram_bytes, sram_read_bytes_per_cycle, sram_write_bytes_per_cycle, stream_read_bytes_per_cycle;
  int64_t requantize_outputs_per_cycle, table_lookups_per_cycle;
  int64_t decoder_lanes, decoder_table_bytes;
  int64_t dram_bytes_per_cycle, dram_latency_cycles, dram_burst_beats;
  int64_t queue_entries, instruction_buffer_entries;
  int64_t start_up_load, start_up_loadw, start_up_compute, start_up_store;

  // ISA manual, "array".
  int64_t ArrayRows(int64_t activation_bits) const { return rows * 8 / activation_bits; }
  int64_t ArrayColumns(int64_t weight_bits) const { return cols * 8 / weight_bits; }
};

// Throws Fault naming an entry that is missing or out of bounds.
Config ParseConfig(const Json& values);

}  // namespace qaccel
