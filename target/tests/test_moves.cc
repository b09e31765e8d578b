// LOAD, LOAD_RAW, LOADW and STORE against bytes written by hand.
#include "bench.h"
#include "check.h"
#include "crc32.h"

namespace qaccel {

namespace {

Bytes Counted(int64_t count) {
  Bytes bytes;
  for (int64_t i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(i + 1));
  return bytes;
}

// Two rows of two pixels of 2 bytes, from DRAM addresses 100, 103, 110, 113, padded to 4 rows of 4 pixels.
isa::Load PaddedLoad() {
  isa::Load ins;
  ins.dram_addr = 100;
  ins.dram_row_stride = 10;
  ins.dram_pixel_stride = 3;
  ins.sram_addr = 8;
  ins.sram_row_stride = 12;
  ins.sram_pixel_stride = 3;
  ins.rows = ins.pixels = ins.pixel_bytes = 2;
  ins.pad_top = 1;
  ins.pad_bottom = 1;
  ins.pad_left = 1;
  ins.pad_right = 1;
  ins.pad_value = -3;
  return ins;
}

TEST(load_pads) {
  const struct {
    int32_t bits;
    uint8_t low, high;  // of -3, two bytes of it
  } kinds[] = {{4, 0xDD, 0xDD}, {8, 0xFD, 0xFD}, {16, 0xFD, 0xFF}};
  for (const auto& kind : kinds) {
    Bench bench;
    bench.Put(bench.machine.dram, 100, Counted(16));
    std::fill_n(bench.machine.sram.data(), 64, uint8_t{0xEE});
    isa::Load ins = PaddedLoad();
    ins.pad_bits = kind.bits;
    bench.Run(ins);
    const uint8_t l = kind.low, h = kind.high, e = 0xEE;
    const Bytes expected = {l, h, e, l,  h,  e, l,  h,  e, l, h, e,  //
                            l, h, e, 1,  2,  e, 4,  5,  e, l, h, e,  //
                            l, h, e, 11, 12, e, 14, 15, e, l, h, e,  //
                            l, h, e, l,  h,  e, l,  h,  e, l, h, e};
    CHECK_EQ(bench.Get(bench.machine.sram, 8, 48), expected);
  }
}

TEST(load_refuses) {
  Bench bench;
  bench.Put(bench.machine.dram, 100, Counted(16));
  isa::Load ins = PaddedLoad();
  ins.pad_bits = 4;
  ins.pad_value = 8;
  CHECK_FAULT(bench.Run(ins), "pad_value is 8, outside its 4 bits");
  ins = PaddedLoad();
  ins.pad_bits = 16;
  ins.pixel_bytes = 1;
  CHECK_FAULT(bench.Run(ins), "must be even");
  ins = PaddedLoad();
  ins.sram_pixel_stride = 1;
  CHECK_FAULT(bench.Run(ins), "pixels overlap");
  ins = PaddedLoad();
  ins.dram_addr = 112;
  CHECK_FAULT(bench.Run(ins), "DRAM");
  ins = PaddedLoad();
  ins.rows = 0;
  CHECK_FAULT(bench.Run(ins), "rows is 0");
  ins = PaddedLoad();
  ins.sram_addr = 16384 - 20;
  CHECK_FAULT(bench.Run(ins), "of SRAM");
}

TEST(load_raw) {
  Bench bench;
  bench.Put(bench.machine.dram, 5, {9, 8, 7});
  isa::LoadRaw ins;
  ins.dram_addr = 5;
  ins.sram_addr = 77;
  ins.bytes = 3;
  bench.Run(ins);
  CHECK_EQ(bench.Get(bench.machine.sram, 76, 5), (Bytes{0, 9, 8, 7, 0}));
  ins.bytes = 4;
  CHECK_FAULT(bench.Run(ins), "DRAM");
  ins.bytes = 0;
  CHECK_FAULT(bench.Run(ins), "bytes is 0");
}

TEST(store_leaves_gaps_alone) {
  Bench bench;
  bench.Put(bench.machine.sram, 40, Counted(16));
  std::fill(bench.dram.begin(), bench.dram.end(), uint8_t{0xEE});
  isa::Store ins;
  ins.dram_addr = 200;
  ins.dram_row_stride = 7;
  ins.dram_pixel_stride = 3;
  ins.sram_addr = 40;
  ins.sram_row_stride = 8;
  ins.sram_pixel_stride = 2;
  ins.rows = ins.pixels = 2;
  ins.pixel_bytes = 2;
  bench.Run(ins);
  const uint8_t e = 0xEE;
  CHECK_EQ(bench.Get(bench.machine.dram, 199, 14), (Bytes{e, 1, 2, e, 3, 4, e, e, 9, 10, e, 11, 12, e}));
  bench.machine.dram.Protect(208, 209);
  CHECK_FAULT(bench.Run(ins), "writes byte 208 of DRAM, which is read-only");
  ins.dram_pixel_stride = 1;
  CHECK_FAULT(bench.Run(ins), "pixels overlap");
}

// Header byte (codec 0, width code), checksum, payload.
Bytes RawStream(uint8_t width_code, const Bytes& payload) {
  Bytes covered = {static_cast<uint8_t>(width_code << 6)};
  covered.insert(covered.end(), payload.begin(), payload.end());
  const uint32_t crc = Crc32(0, covered.data(), covered.size());
  Bytes stream = {covered[0]};
  for (int i = 0; i < 4; ++i) stream.push_back(static_cast<uint8_t>(crc >> 8 * i));
  stream.insert(stream.end(), payload.begin(), payload.end());
  return stream;
}

TEST(crc_of_a_known_text) { CHECK_EQ(Crc32(0, reinterpret_cast<const uint8_t*>("123456789"), 9), 0xCBF43926U); }

TEST(loadw_from_dram_and_sram) {
  const Bytes payload = {0x21, 0x83, 0x07};
  for (const bool from_sram : {false, true}) {
    Bench bench;
    const Bytes stream = RawStream(0, payload);
    bench.Put(from_sram ? bench.machine.sram : bench.machine.dram, 30, stream);
    isa::Loadw ins;
    ins.source = from_sram ? isa::StreamSource::Sram : isa::StreamSource::Dram;
    ins.stream_addr = 30;
    ins.stream_bytes = 8;
    ins.buffer_addr = 3;
    ins.weight_count = 5;
    ins.weight_bits = 4;
    ins.row_weights = 5;
    bench.Run(ins);
    CHECK_EQ(bench.Get(bench.machine.weights, 2, 5), (Bytes{0, 0x21, 0x83, 0x07, 0}));
    CHECK_EQ(bench.machine.decode_cycles, 1);
    const auto with = [&](auto change) {
      isa::Loadw changed = ins;
      change(changed);
      bench.Run(changed);
    };
    CHECK_FAULT(with([](isa::Loadw& c) { c.weight_bits = 8; }), "stream has 4-bit weights, the instruction says 8");
    CHECK_FAULT(with([](isa::Loadw& c) { c.weight_count = 7; }), "7 weights need 4");
    CHECK_FAULT(with([](isa::Loadw& c) { c.stream_bytes = 4; }), "stream_bytes is 4, less than a header");
    CHECK_FAULT(with([](isa::Loadw& c) { c.stream_bytes = 9; }), from_sram ? "SRAM" : "DRAM");
    CHECK_FAULT(with([](isa::Loadw& c) { c.buffer_addr = 4094; }), "weight buffer");
    CHECK_FAULT(with([](isa::Loadw& c) { c.row_weights = 0; }), "row_weights is 0");
  }
}

}  // namespace

}  // namespace qaccel
