#include "timing.h"

#include <algorithm>

#include "window.h"

namespace qaccel {

namespace {

// Products of sizes of a config can exceed 64 bits; a duration may not.
using Wide = __int128;

int64_t Cycles(Wide value) {
  if (value > (Wide{1} << 60)) Fail("takes more than 2^60 cycles");
  return static_cast<int64_t>(value);
}

Wide CeilDivWide(Wide value, Wide divisor) { return (value + divisor - 1) / divisor; }

Wide SramWrite(const Config& hw, int64_t pixels, int64_t channels, int64_t bits) {
  return CeilDivWide(Wide{pixels} * ChannelBytes(channels, bits), hw.sram_write_bytes_per_cycle);
}

Wide Requantizer(const Config& hw, int64_t pixels, int64_t channels) {
  return CeilDivWide(Wide{pixels} * channels, hw.requantize_outputs_per_cycle);
}

// SRAM write and requantizer, if the instruction finishes.
template <typename Ins>
Wide Finishing(const Config& hw, const Ins& ins, int64_t channels) {
  if (!ins.finish) return 0;
  const int64_t pixels = ins.out_h * ins.out_w;
  return std::max(SramWrite(hw, pixels, channels, ins.out_bits), Requantizer(hw, pixels, channels));
}

Wide Units(const Config& hw, const isa::Conv& ins) {
  const int64_t rows = hw.ArrayRows(ins.in_bits), columns = hw.ArrayColumns(ins.weight_bits);
  const int64_t pixels = ins.out_h * ins.out_w, depth = ins.kernel_h * ins.kernel_w * ins.in_channels;
  const Wide groups = CeilDivWide(ins.out_channels, columns), slices = CeilDivWide(depth, rows);
  const int64_t block = std::max<int64_t>(1, hw.accumulator_entries / 2 / columns);
  // Each slice of weights enters the array while the one before computes.
  const Wide fill = CeilDivWide(CeilDivWide(Wide{rows} * columns * ins.weight_bits, 8), hw.weight_read_bytes_per_cycle);
  Wide blocks = Wide{pixels / block} * std::max<Wide>(block, fill);
  if (pixels % block) blocks += std::max<Wide>(pixels % block, fill);
  const Wide read_bytes =
      groups * pixels * ChannelBytes(depth, ins.in_bits) + (ins.finish ? isa::kParamsBytes * ins.out_channels : 0);
  return std::max({groups * slices * blocks, CeilDivWide(read_bytes, hw.sram_read_bytes_per_cycle),
                   Finishing(hw, ins, ins.out_channels)});
}

template <typename Ins>
Wide FootprintBytes(const Ins& ins) {
  const Footprint footprint = FootprintOf(ins);
  return Wide{footprint.rows} * footprint.pixels * ChannelBytes(ins.channels, ins.in_bits);
}

// `columns`: channels that the array handles at once.
template <typename Ins>
Wide WindowTaps(const Config& hw, const Ins& ins, int64_t columns) {
  return CeilDivWide(ins.channels, columns) * CeilDivWide(ins.out_h * ins.out_w, hw.ArrayRows(ins.in_bits)) *
         ins.kernel_h * ins.kernel_w;
}

Wide Units(const Config& hw, const isa::Depthwise& ins) {
  const Wide weight_bytes = Wide{ins.kernel_h * ins.kernel_w} * ChannelBytes(ins.channels, ins.weight_bits);
  const Wide read_bytes = FootprintBytes(ins) + (ins.finish ? isa::kParamsBytes * ins.channels : 0);
  return std::max({WindowTaps(hw, ins, hw.ArrayColumns(ins.weight_bits)),
                   CeilDivWide(weight_bytes, hw.weight_read_bytes_per_cycle),
                   CeilDivWide(read_bytes, hw.sram_read_bytes_per_cycle), Finishing(hw, ins, ins.channels)});
}

Wide Units(const Config& hw, const isa::Pool& ins) {
  return std::max({WindowTaps(hw, ins, hw.cols), CeilDivWide(FootprintBytes(ins), hw.sram_read_bytes_per_cycle),
                   Finishing(hw, ins, ins.channels)});
}

Wide Units(const Config& hw, const isa::Eltwise& ins) {
  const int64_t pixels = ins.h * ins.w;
  const int64_t pixel_bytes =
      ChannelBytes(ins.channels, ins.in_bits) + ChannelBytes(ins.b_scalar ? 1 : ins.channels, ins.b_bits);
  return std::max({CeilDivWide(Wide{pixels} * pixel_bytes, hw.sram_read_bytes_per_cycle),
                   SramWrite(hw, pixels, ins.channels, ins.out_bits), Requantizer(hw, pixels, ins.channels)});
}

Wide Units(const Config& hw, const isa::Table& ins) {
  const int64_t pixels = ins.h * ins.w;
  const Wide read_bytes =
      Wide{pixels} * ChannelBytes(ins.channels, ins.in_bits) + TableBytes(ins.in_bits, ins.out_bits);
  return std::max({CeilDivWide(Wide{pixels} * ins.channels, hw.table_lookups_per_cycle),
                   CeilDivWide(read_bytes, hw.sram_read_bytes_per_cycle),
                   SramWrite(hw, pixels, ins.channels, ins.out_bits)});
}

Wide Units(const Config& hw, const isa::Copy& ins) {
  const int64_t pixels = ins.h * ins.w;
  return std::max({CeilDivWide(Wide{pixels} * ChannelBytes(ins.channels, ins.in_bits), hw.sram_read_bytes_per_cycle),
                   SramWrite(hw, pixels, ins.channels, ins.out_bits), Requantizer(hw, pixels, ins.channels)});
}

template <typename Ins>
Duration Of(const Config& hw, const Ins& ins) {  // COMPUTE
  Duration duration;
  duration.start_up = hw.start_up_compute;
  duration.units = Cycles(Units(hw, ins));
  return duration;
}

Duration Of(const Config& hw, const isa::Load& ins) {
  const int64_t rows = ins.pad_top + ins.rows + ins.pad_bottom, pixels = ins.pad_left + ins.pixels + ins.pad_right;
  Duration duration;
  duration.start_up = hw.start_up_load;
  duration.units = Cycles(CeilDivWide(Wide{rows} * pixels * ins.pixel_bytes, hw.dram_bytes_per_cycle));
  duration.transfers = true;
  duration.dram = {ins.dram_addr, ins.rows, ins.dram_row_stride, ins.pixels, ins.dram_pixel_stride, ins.pixel_bytes};
  return duration;
}

Duration Of(const Config& hw, const isa::LoadRaw& ins) {
  Duration duration;
  duration.start_up = hw.start_up_load;
  duration.units = CeilDiv(ins.bytes, hw.dram_bytes_per_cycle);
  duration.transfers = true;
  duration.dram = Flat(ins.dram_addr, ins.bytes);
  return duration;
}

Duration Of(const Config& hw, const isa::Loadw& ins, int64_t decode_cycles) {
  Duration duration;
  duration.start_up = hw.start_up_loadw;
  duration.units = decode_cycles;
  if (ins.source == isa::StreamSource::Dram) {
    duration.transfers = true;
    duration.dram = Flat(ins.stream_addr, ins.stream_bytes);
  } else {
    const int64_t fetch = CeilDiv(ins.stream_bytes, hw.stream_read_bytes_per_cycle);
    duration.units = std::max(decode_cycles, fetch);
    duration.decode_bound = decode_cycles > fetch;
  }
  return duration;
}

Duration Of(const Config& hw, const isa::Store& ins) {
  Duration duration;
  duration.start_up = hw.start_up_store;
  duration.units = Cycles(CeilDivWide(Wide{ins.rows} * ins.pixels * ins.pixel_bytes, hw.dram_bytes_per_cycle));
  duration.transfers = true;
  duration.dram = {ins.dram_addr, ins.rows, ins.dram_row_stride, ins.pixels, ins.dram_pixel_stride, ins.pixel_bytes};
  return duration;
}

template <typename Ins>
Work WorkIn(const Ins&) {
  return {};
}
Work WorkIn(const isa::Load& ins) { return {0, 0, ins.rows * ins.pixels * ins.pixel_bytes, 0}; }
Work WorkIn(const isa::LoadRaw& ins) { return {0, ins.bytes, 0, 0}; }
Work WorkIn(const isa::Loadw& ins) { return {0, ins.source == isa::StreamSource::Dram ? ins.stream_bytes : 0, 0, 0}; }
Work WorkIn(const isa::Store& ins) { return {0, 0, 0, ins.rows * ins.pixels * ins.pixel_bytes}; }
Work WorkIn(const isa::Conv& ins) {
  return {ins.out_h * ins.out_w * ins.out_channels * ins.kernel_h * ins.kernel_w * ins.in_channels, 0, 0, 0};
}
Work WorkIn(const isa::Depthwise& ins) {
  return {ins.out_h * ins.out_w * ins.channels * ins.kernel_h * ins.kernel_w, 0, 0, 0};
}

}  // namespace

Duration DurationOf(const Config& hw, const isa::Instruction& instruction, int64_t decode_cycles) {
  return std::visit(
      [&](const auto& ins) -> Duration {
        if constexpr (std::is_same_v<std::decay_t<decltype(ins)>, isa::Loadw>) {
          return Of(hw, ins, decode_cycles);
        } else {
          return Of(hw, ins);
        }
      },
      instruction);
}

Work WorkOf(const isa::Instruction& instruction) {
  return std::visit([](const auto& ins) { return WorkIn(ins); }, instruction);
}

}  // namespace qaccel
