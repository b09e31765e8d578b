// ELTWISE, TABLE and COPY against values written by hand and the manual's formulas.
#include "bench.h"
#include "check.h"

namespace qaccel {

namespace {

constexpr int64_t kIn = 0, kOther = 4000, kOut = 8000, kTable = 12000;

isa::Copy CopyOf(const Map& in, const Map& out) {
  isa::Copy ins;
  SetInput(ins, in);
  SetOutput(ins, out);
  SetTile(ins, in);
  SetRange(ins);
  ins.multiplier = 1;
  return ins;
}

TEST(copy_rounds_halves_to_even) {
  Bench bench;
  Map in(1, 1, 10, 8, kIn), out(1, 1, 10, 8, kOut);
  in.values = {-128, -5, -3, -1, 0, 1, 3, 5, 7, 127};
  in.Put(bench);
  isa::Copy ins = CopyOf(in, out);
  ins.shift = 1;
  bench.Run(ins);
  out.values = {-64, -2, -2, 0, 0, 0, 2, 2, 4, 64};
  CHECK_EQ(out.Found(bench), out.Expected());
  ins.multiplier = 3;  // 1.5 times, with zero points and a clamp
  ins.in_zero_point = -1;
  ins.out_zero_point = 10;
  ins.clamp_lo = -20;
  ins.clamp_hi = 15;
  bench.Run(ins);
  out.values = {-20, 4, 7, 10, 12, 13, 15, 15, 15, 15};  // -6, -3, 0, 1.5, 3, 6, ... around 10
  CHECK_EQ(out.Found(bench), out.Expected());
  ins.shift = 127;
  bench.Run(ins);
  out.values.assign(10, 10);
  CHECK_EQ(out.Found(bench), out.Expected());
}

TEST(copy_at_every_pair_of_widths) {
  std::mt19937 random(1);
  for (const int64_t in_bits : kAllWidths) {
    for (const int64_t out_bits : kAllWidths) {
      for (const int64_t gap : {0, 3}) {
        Bench bench;
        Map in(3, 5, 7, in_bits, kIn, gap), out(3, 5, 7, out_bits, kOut, gap);
        in.Fill(random);
        in.Put(bench);
        out.Clear(bench);
        isa::Copy ins = CopyOf(in, out);
        SetRange(ins, 3);
        ins.in_zero_point = in_bits == 16 ? 0 : -2;
        ins.multiplier = 0x5A5A5A5B;
        ins.shift = 31 + in_bits - out_bits;
        for (size_t i = 0; i < in.values.size(); ++i)
          out.values[i] = Ended(ins, __int128{in.values[i] - ins.in_zero_point} * ins.multiplier, ins.shift);
        bench.Run(ins);
        CHECK_EQ(out.Found(bench), out.Expected());
      }
    }
  }
}

TEST(copy_refuses) {
  Bench bench;
  Map in(2, 2, 4, 8, kIn), out(2, 2, 4, 8, kOut);
  isa::Copy ins = CopyOf(in, out);
  CHECK_FAULT(bench.Run(ins), "SRAM");  // nothing has written the input
  in.Put(bench);
  const auto with = [&](auto change) {
    isa::Copy changed = ins;
    change(changed);
    bench.Run(changed);
  };
  CHECK_FAULT(with([](isa::Copy& c) { c.h = 0; }), "h is 0, must be at least 1");
  CHECK_FAULT(with([](isa::Copy& c) { c.in_zero_point = 128; }), "in_zero_point is 128");
  CHECK_FAULT(with([](isa::Copy& c) { c.clamp_hi = 128; }), "clamp");
  CHECK_FAULT(with([](isa::Copy& c) { c.out_addr = 16384 - 15; }), "of SRAM, which has 16384");
  CHECK_FAULT(with([](isa::Copy& c) { c.out_pixel_stride = 3; }), "pixels overlap");
  CHECK_FAULT(with([](isa::Copy& c) { c.out_addr = 1; }), "read");
  CHECK_EQ(FaultOf([&] { bench.Run(ins); }), "");
}

__int128 Combined(const isa::Eltwise& ins, int64_t a, int64_t b) {
  const __int128 x = __int128{a - ins.in_zero_point}, y = __int128{b - ins.b_zero_point};
  switch (ins.kind) {
    case isa::EltwiseKind::Add: return x * ins.multiplier + y * ins.b_multiplier;
    case isa::EltwiseKind::Sub: return x * ins.multiplier - y * ins.b_multiplier;
    case isa::EltwiseKind::Mul: return x * y * ins.multiplier;
    case isa::EltwiseKind::Min: return std::min(x * ins.multiplier, y * ins.b_multiplier);
    default: return std::max(x * ins.multiplier, y * ins.b_multiplier);
  }
}

isa::Eltwise EltwiseOf(const Map& a, const Map& b, const Map& out) {
  isa::Eltwise ins;
  SetInput(ins, a);
  SetOutput(ins, out);
  SetTile(ins, a);
  SetRange(ins);
  ins.b_addr = b.addr;
  ins.b_row_stride = b.row_stride;
  ins.b_pixel_stride = b.pixel_stride;
  ins.b_bits = static_cast<int32_t>(b.bits);
  ins.multiplier = ins.b_multiplier = 1;
  return ins;
}

TEST(eltwise_by_hand) {
  Bench bench;
  Map a(1, 2, 2, 8, kIn), b(1, 2, 2, 8, kOther), out(1, 2, 2, 8, kOut);
  a.values = {100, -7, 3, 50};
  b.values = {100, 4, -6, 49};
  a.Put(bench);
  b.Put(bench);
  const Values expected[] = {{100, -2, -2, 50}, {0, -6, 4, 0}, {127, -14, -9, 127}, {50, -4, -3, 24}, {50, 2, 2, 25}};
  for (int kind = 0; kind < 5; ++kind) {  // halves: (100 + 100) / 2, ...
    isa::Eltwise ins = EltwiseOf(a, b, out);
    ins.kind = static_cast<isa::EltwiseKind>(kind);
    if (ins.kind == isa::EltwiseKind::Mul) ins.b_multiplier = 0;
    ins.shift = 1;
    bench.Run(ins);
    out.values = expected[kind];
    CHECK_EQ(out.Found(bench), out.Expected());
  }
}

TEST(eltwise_at_every_width_kind_and_form_of_b) {
  std::mt19937 random(2);
  for (int round = 0; round < 270; ++round) {
    const int64_t bits = kAllWidths[round % 3], b_bits = kAllWidths[round / 3 % 3],
                  out_bits = kAllWidths[round / 9 % 3];
    const int form = round / 27 % 4;  // a map, one vector for all pixels, a scalar in each pixel, one scalar
    Bench bench;
    const int64_t gap = round % 2 ? 5 : 0;
    Map a(3, 4, 5, bits, kIn, gap), out(3, 4, 5, out_bits, kOut, gap);
    Map b(form % 2 ? 1 : 3, form % 2 ? 1 : 4, form > 1 ? 1 : 5, b_bits, kOther, gap);
    a.Fill(random);
    b.Fill(random);
    a.Put(bench);
    b.Put(bench);
    out.Clear(bench);
    isa::Eltwise ins = EltwiseOf(a, b, out);
    if (form % 2) ins.b_row_stride = ins.b_pixel_stride = 0;
    ins.b_scalar = form > 1;
    ins.kind = static_cast<isa::EltwiseKind>(round % 5);
    const bool mul = ins.kind == isa::EltwiseKind::Mul;
    SetRange(ins, -3);
    ins.in_zero_point = bits == 16 ? 0 : 2;
    ins.b_zero_point = b_bits == 16 ? 0 : -5;
    ins.multiplier = 0x40000001 + round;
    ins.b_multiplier = mul ? 0 : 0x31415926;
    ins.shift = 31 + (mul ? bits + b_bits : std::max(bits, b_bits)) - out_bits;
    for (int64_t y = 0; y < 3; ++y) {
      for (int64_t x = 0; x < 4; ++x) {
        for (int64_t c = 0; c < 5; ++c) {
          const int64_t other = b.At(form % 2 ? 0 : y, form % 2 ? 0 : x, form > 1 ? 0 : c);
          out.At(y, x, c) = Ended(ins, Combined(ins, a.At(y, x, c), other), ins.shift);
        }
      }
    }
    bench.Run(ins);
    CHECK_EQ(out.Found(bench), out.Expected());
  }
}

TEST(eltwise_overwrites_an_operand_and_refuses) {
  Bench bench;
  Map a(1, 1, 3, 8, kIn), b(1, 1, 3, 8, kOther);
  a.values = {1, 2, 3};
  b.values = {10, 20, -30};
  a.Put(bench);
  b.Put(bench);
  isa::Eltwise ins = EltwiseOf(a, b, a);
  bench.Run(ins);
  a.values = {11, 22, -27};
  CHECK_EQ(a.Found(bench), a.Expected());
  ins.out_addr = 1;
  CHECK_FAULT(bench.Run(ins), "read");
  ins.out_addr = kOut;
  ins.kind = isa::EltwiseKind::Mul;
  CHECK_FAULT(bench.Run(ins), "b_multiplier is 1, must be 0 for mul");
}

isa::Table TableOf(const Map& in, const Map& out) {
  isa::Table ins;
  SetInput(ins, in);
  SetOutput(ins, out);
  SetTile(ins, in);
  ins.table_addr = kTable;
  return ins;
}

TEST(table_looks_up) {
  std::mt19937 random(3);
  for (const int64_t in_bits : {4, 8}) {
    for (const int64_t out_bits : kAllWidths) {
      Bench bench;
      Map in(2, 3, 17, in_bits, kIn, 1), out(2, 3, 17, out_bits, kOut, 1);
      Map table(1, 1, int64_t{1} << in_bits, out_bits, 0);
      in.Fill(random);
      table.Fill(random);
      in.Put(bench);
      bench.Put(bench.machine.sram, kTable, Packed(table.values, out_bits == 16 ? 16 : 8));
      out.Clear(bench);
      for (size_t i = 0; i < in.values.size(); ++i)
        out.values[i] = table.values[static_cast<size_t>(in.values[i] - Lowest(in_bits))];
      bench.Run(TableOf(in, out));
      CHECK_EQ(out.Found(bench), out.Expected());
    }
  }
}

TEST(table_interpolates_16_bits) {
  Bench bench;
  Values entries(513);  // one for every 128 inputs, from -32768 on
  for (int64_t j = 0; j < 513; ++j) entries[static_cast<size_t>(j)] = (j * 37) % 128 - 64;
  entries[256] = 10;  // input 0
  entries[257] = 11;  // input 128
  entries[512] = 100;
  bench.Put(bench.machine.sram, kTable, Packed(entries, 16));
  Map in(1, 1, 8, 16, kIn), out(1, 1, 8, 8, kOut);
  in.values = {0, 63, 64, 65, 128, 32767, -32768, -32704};
  in.Put(bench);
  bench.Run(TableOf(in, out));
  // 10 + 64 / 128 is a tie: 10. Between entry 511, (511 * 37) % 128 - 64 = 27, and 100: 100 - 73 / 128. Entry 0 is -64,
  // entry 1 is -27: -64 + 37 / 2 = -45.5, a tie: -46.
  out.values = {10, 10, 10, 11, 11, 99, -64, -46};
  CHECK_EQ(out.Found(bench), out.Expected());
  entries[3] = 128;
  bench.Put(bench.machine.sram, kTable, Packed(entries, 16));
  CHECK_FAULT(bench.Run(TableOf(in, out)), "table entry 3 is 128, outside the output's 8 bits");
}

TEST(table_interpolates_in_octaves) {
  Bench bench;
  Values entries(770);  // the distance itself or its half, then 385 for what lies below the origin
  for (int64_t j = 0; j < 385; ++j) {
    const int64_t distance = j < 32 ? j : (32 + j % 32) << (j / 32 - 1);
    entries[static_cast<size_t>(j)] = distance / 4;
    entries[static_cast<size_t>(385 + j)] = -distance / 2;
  }
  bench.Put(bench.machine.sram, kTable, Packed(entries, 16));
  Map in(1, 1, 10, 16, kIn), out(1, 1, 10, 16, kOut);
  in.values = {100, 131, 164, 166, 32767, 99, 98, 35, 34, -32768};
  in.Put(bench);
  isa::Table ins = TableOf(in, out);
  ins.knots = isa::TableKnots::Octaves;
  ins.origin = 100;
  bench.Run(ins);
  // Distances 0, 31, 64, 66 and 32667; below: 0, 1, 64, 65 and 32867. 66 has an entry of its own.
  // 32667 lies 411 of 512 beyond 32256: 8064 + 411 / 4 = 8166.75. 65 is half way from 64 (-32) to 66 (-33): a tie, -32.
  // 32867 lies 99 of 1024 beyond 32768: -16384 - 49.5, a tie: -16434.
  out.values = {0, 7, 16, 16, 8167, 0, 0, -32, -32, -16434};
  CHECK_EQ(out.Found(bench), out.Expected());
  ins.in_bits = 8;
  CHECK_FAULT(bench.Run(ins), "knots is octaves, must be even for inputs of 8 bits");
  ins.in_bits = 16;
  ins.knots = isa::TableKnots::Even;
  CHECK_FAULT(bench.Run(ins), "origin is 100, must be 0 for even knots");
}

}  // namespace

}  // namespace qaccel
