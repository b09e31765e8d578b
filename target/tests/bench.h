// A machine whose memories a test fills by hand, one instruction at a time; and the manual's arithmetic, written
// plainly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "machine.h"

namespace qaccel {

using Bytes = std::vector<uint8_t>;
using Values = std::vector<int64_t>;

// qaccel-256, with memories that are quickly cleared.
inline Config SmallConfig() {
  Config hw{};
  hw.clock_mhz = 500;
  hw.rows = hw.cols = 16;
  hw.weight_buffer_bytes = 4096;
  hw.weight_read_bytes_per_cycle = 64;
  hw.line_buffer_bytes = 16384;
  hw.accumulator_entries = 4096;
  hw.accumulator_bits = 48;
  hw.sram_bytes = 16384;
  hw.sram_read_bytes_per_cycle = hw.sram_write_bytes_per_cycle = 32;
  hw.stream_read_bytes_per_cycle = 16;
  hw.requantize_outputs_per_cycle = 32;
  hw.table_lookups_per_cycle = 16;
  hw.decoder_lanes = 16;
  hw.decoder_table_bytes = 640;
  hw.dram_bytes_per_cycle = 8;
  hw.dram_latency_cycles = 64;
  hw.dram_burst_beats = 8;
  hw.queue_entries = hw.instruction_buffer_entries = 16;
  hw.start_up_cycles_load = hw.start_up_cycles_loadw = hw.start_up_cycles_store = 16;
  hw.start_up_cycles_compute = 24;
  return hw;
}

class Bench {
 public:
  explicit Bench(const Config& config = SmallConfig())
      : dram(4096), machine(config, dram.data(), static_cast<int64_t>(dram.size())) {}

  void Put(Memory& memory, int64_t addr, const Bytes& bytes) {
    memory.Define(addr, addr + static_cast<int64_t>(bytes.size()));
    std::copy(bytes.begin(), bytes.end(), memory.data() + addr);
  }
  Bytes Get(const Memory& memory, int64_t addr, int64_t count) const {
    return Bytes(memory.data() + addr, memory.data() + addr + count);
  }

  // Executes an instruction after everything before it.
  template <typename Ins>
  void Run(const Ins& ins) {
    ++ordinals_[static_cast<size_t>(Ins::kEngine)];
    machine.actor.engine = Ins::kEngine;
    machine.actor.ordinal = ordinals_[static_cast<size_t>(Ins::kEngine)];
    machine.actor.clock = ordinals_;
    Execute(machine, ins);
  }

  Bytes dram;
  Machine machine;

 private:
  Clock ordinals_{};
};

inline int64_t Lowest(int64_t bits) { return bits == 4 ? -8 : bits == 8 ? -128 : -32768; }
inline int64_t Highest(int64_t bits) { return bits == 4 ? 7 : bits == 8 ? 127 : 32767; }
constexpr int64_t kAllWidths[] = {4, 8, 16};

// Values of `bits` bits as bytes, low nibble first.
inline Bytes Packed(const Values& values, int64_t bits) {
  Bytes bytes;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t value = values[i];
    if (bits == 4 && i % 2) {
      bytes.back() = static_cast<uint8_t>(bytes.back() + (value & 15) * 16);
    } else {
      bytes.push_back(static_cast<uint8_t>(value & (bits == 4 ? 15 : 255)));
    }
    if (bits == 16) bytes.push_back(static_cast<uint8_t>(value >> 8 & 255));
  }
  return bytes;
}

// Parameter records, one for each output channel.
struct Params {
  Values bias, multiplier, shift;

  explicit Params(int64_t channels) : bias(channels, 0), multiplier(channels, 1), shift(channels, 0) {}
  Bytes Records() const {
    Bytes bytes;
    for (size_t n = 0; n < bias.size(); ++n) {
      for (const int64_t word : {bias[n], multiplier[n], shift[n]}) {
        for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(word >> 8 * i & 255));
      }
    }
    return bytes;
  }
};

// A feature map [h, w, channels] with distances between its pixels and rows.
struct Map {
  int64_t h, w, channels, bits, addr, pixel_stride, row_stride;
  Values values;

  Map(int64_t height, int64_t width, int64_t depth, int64_t width_bits, int64_t address, int64_t gap = 0)
      : h(height), w(width), channels(depth), bits(width_bits), addr(address) {
    pixel_stride = (depth * width_bits + 7) / 8 + gap;
    row_stride = width * pixel_stride + gap;
    values.assign(static_cast<size_t>(h * w * channels), 0);
  }
  int64_t& At(int64_t y, int64_t x, int64_t c) { return values[static_cast<size_t>((y * w + x) * channels + c)]; }
  void Fill(std::mt19937& random) {
    for (int64_t& value : values) value = std::uniform_int_distribution<int64_t>(Lowest(bits), Highest(bits))(random);
  }
  Bytes Pixel(int64_t y, int64_t x) {
    const auto begin = values.begin() + (y * w + x) * channels;
    return Packed(Values(begin, begin + channels), bits);
  }
  void Put(Bench& bench) {
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x)
        bench.Put(bench.machine.sram, addr + y * row_stride + x * pixel_stride, Pixel(y, x));
  }
  // The bytes that lie where this map is, and those that should: the map's, and 0xEE in its gaps.
  static constexpr uint8_t kGap = 0xEE;
  int64_t Extent() const { return h * row_stride; }
  void Clear(Bench& bench) { std::fill_n(bench.machine.sram.data() + addr, Extent(), kGap); }
  Bytes Found(Bench& bench) { return bench.Get(bench.machine.sram, addr, Extent()); }
  Bytes Expected() {
    Bytes bytes(static_cast<size_t>(Extent()), kGap);
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        const Bytes pixel = Pixel(y, x);
        std::copy(pixel.begin(), pixel.end(), bytes.begin() + y * row_stride + x * pixel_stride);
      }
    }
    return bytes;
  }
};

template <typename Ins>
void SetInput(Ins& ins, const Map& map) {
  ins.in_addr = map.addr;
  ins.in_row_stride = map.row_stride;
  ins.in_pixel_stride = map.pixel_stride;
  ins.in_bits = static_cast<int32_t>(map.bits);
}

template <typename Ins>
void SetOutput(Ins& ins, const Map& map) {
  ins.out_addr = map.addr;
  ins.out_row_stride = map.row_stride;
  ins.out_pixel_stride = map.pixel_stride;
  ins.out_bits = static_cast<int32_t>(map.bits);
}

// The output's whole range.
template <typename Ins>
void SetRange(Ins& ins, int64_t zero_point = 0) {
  ins.out_zero_point = ins.out_bits == 16 ? 0 : zero_point;
  ins.clamp_lo = Lowest(ins.out_bits);
  ins.clamp_hi = Highest(ins.out_bits);
}

template <typename Ins>
void SetTile(Ins& ins, const Map& map) {
  ins.h = map.h;
  ins.w = map.w;
  ins.channels = map.channels;
}

// rhe(value * 2^-shift), by division.
inline __int128 Rhe(__int128 value, int64_t shift) {
  if (shift > 100) return 0;  // of values below 2^95
  const __int128 divisor = __int128{1} << shift;
  __int128 quotient = value / divisor, rest = value % divisor;
  if (rest < 0) {
    rest += divisor;
    --quotient;
  }
  const bool up = 2 * rest > divisor || (2 * rest == divisor && quotient % 2 != 0);
  return quotient + (up ? 1 : 0);
}

template <typename Ins>
int64_t Ended(const Ins& ins, __int128 exact, int64_t shift) {
  const __int128 value = Rhe(exact, shift) + ins.out_zero_point;
  if (value < ins.clamp_lo) return ins.clamp_lo;
  return value > ins.clamp_hi ? ins.clamp_hi : static_cast<int64_t>(value);
}

}  // namespace qaccel
