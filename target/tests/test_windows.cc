// CONV, DEPTHWISE and POOL against values written by hand and the manual's sums, tap by tap.
#include "bench.h"
#include "check.h"

namespace qaccel {

namespace {

constexpr int64_t kIn = 0, kParams = 6000, kOut = 8000;

// What CONV, DEPTHWISE and POOL have in common.
template <typename Ins>
Ins Windowed(const Map& in, const Map& out) {
  Ins ins;
  SetInput(ins, in);
  SetOutput(ins, out);
  SetRange(ins);
  ins.in_h = in.h;
  ins.in_w = in.w;
  ins.out_h = out.h;
  ins.out_w = out.w;
  ins.kernel_h = ins.kernel_w = ins.stride_h = ins.stride_w = ins.dilation_h = ins.dilation_w = 1;
  ins.finish = true;
  return ins;
}

// Calls visit(input row, input pixel, tap) for the taps of an output that fall on input.
template <typename Ins, typename Visit>
void ForTaps(const Ins& ins, int64_t y, int64_t x, Visit visit) {
  for (int64_t ky = 0; ky < ins.kernel_h; ++ky) {
    for (int64_t kx = 0; kx < ins.kernel_w; ++kx) {
      const int64_t row = y * ins.stride_h + ky * ins.dilation_h - ins.pad_top;
      const int64_t pixel = x * ins.stride_w + kx * ins.dilation_w - ins.pad_left;
      if (row >= 0 && row < ins.in_h && pixel >= 0 && pixel < ins.in_w) visit(row, pixel, ky * ins.kernel_w + kx);
    }
  }
}

// Weights [rows, columns], each row in whole bytes.
Bytes WeightRows(const Values& weights, int64_t columns, int64_t bits) {
  Bytes bytes;
  for (size_t begin = 0; begin < weights.size(); begin += static_cast<size_t>(columns)) {
    const Bytes row = Packed(
        Values(weights.begin() + static_cast<int64_t>(begin), weights.begin() + static_cast<int64_t>(begin) + columns),
        bits);
    bytes.insert(bytes.end(), row.begin(), row.end());
  }
  return bytes;
}

TEST(conv_by_hand) {
  Bench bench;
  Map in(1, 2, 2, 8, kIn), out(1, 2, 3, 8, kOut);
  in.values = {1, 2, -3, 4};
  in.Put(bench);
  // Rows of weights: input channel 0, then 1; columns: output channels.
  bench.Put(bench.machine.weights, 16, {1, 10, 255, 2, 20, 3});
  Params params(3);
  params.bias = {0, 5, -1};
  params.multiplier = {1, 1, 3};
  params.shift = {1, 0, 1};
  bench.Put(bench.machine.sram, kParams, params.Records());
  isa::Conv ins = Windowed<isa::Conv>(in, out);
  ins.in_channels = 2;
  ins.out_channels = 3;
  ins.weight_addr = 16;
  ins.param_addr = kParams;
  bench.Run(ins);
  // (1 + 4) / 2 = 2.5: 2; 10 + 40 + 5; (-1 + 6 - 1) * 1.5. (-3 + 8) / 2: 2; -30 + 80 + 5; (3 + 12 - 1) * 1.5 = 21.
  out.values = {2, 55, 6, 2, 55, 21};
  CHECK_EQ(out.Found(bench), out.Expected());
  ins.in_zero_point = 1;  // 0, 1 and -4, 3
  ins.out_zero_point = -100;
  bench.Run(ins);
  // 2 / 2, 20 + 5, (3 - 1) * 1.5; (-4 + 6) / 2, -40 + 60 + 5, (4 + 9 - 1) * 1.5
  out.values = {-99, -75, -97, -99, -75, -82};
  CHECK_EQ(out.Found(bench), out.Expected());
}

// Shapes that leave the input at every side.
struct Shape {
  int64_t h, w, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, out_h, out_w;
};
constexpr Shape kShapes[] = {
    {5, 6, 3, 3, 1, 1, 1, 1, 1, 1, 5, 6}, {5, 6, 3, 2, 2, 3, 1, 2, 0, 1, 3, 2}, {3, 3, 5, 5, 1, 2, 1, 1, 2, 2, 3, 2},
    {4, 9, 1, 1, 1, 1, 1, 1, 0, 0, 4, 9}, {6, 4, 2, 3, 1, 1, 3, 1, 1, 0, 4, 3}, {2, 2, 1, 1, 1, 1, 1, 1, 3, 3, 8, 8},
};

template <typename Ins>
void SetShape(Ins& ins, const Shape& s) {
  ins.kernel_h = s.kernel_h;
  ins.kernel_w = s.kernel_w;
  ins.stride_h = s.stride_h;
  ins.stride_w = s.stride_w;
  ins.dilation_h = s.dilation_h;
  ins.dilation_w = s.dilation_w;
  ins.pad_top = s.pad_top;
  ins.pad_left = s.pad_left;
}

// In one instruction, or in two that share the accumulators: the second adds the same sums again.
template <typename Ins>
void RunInParts(Bench& bench, Ins ins, bool twice) {
  if (twice) {
    ins.finish = false;
    bench.Run(ins);
    CHECK_EQ(bench.machine.accumulators.open, true);
    ins.finish = ins.accumulate = true;
  }
  bench.Run(ins);
  CHECK_EQ(bench.machine.accumulators.open, false);
}

Values Random(std::mt19937& random, int64_t count, int64_t bits) {
  Map values(1, 1, count, bits, 0);
  values.Fill(random);
  return values.values;
}

Params RandomParams(std::mt19937& random, int64_t channels, int64_t bits_down) {
  Params params(channels);
  for (size_t n = 0; n < params.bias.size(); ++n) {
    params.bias[n] = std::uniform_int_distribution<int64_t>(-5000, 5000)(random);
    params.multiplier[n] = std::uniform_int_distribution<int64_t>(1 << 30, 0x7FFFFFFF)(random);
    params.shift[n] = 31 + std::max<int64_t>(0, bits_down + static_cast<int64_t>(random() % 3));
  }
  return params;
}

template <typename Ins>
void CheckWeighted(bool depthwise) {
  std::mt19937 random(4);
  int round = 0;
  for (const Shape& s : kShapes) {
    for (const int64_t weight_bits : kAllWidths) {
      for (const int64_t in_bits : kAllWidths) {
        ++round;
        const int64_t in_channels = 1 + round % 5, channels = depthwise ? in_channels : 1 + round % 7;
        const int64_t out_bits = kAllWidths[round % 3], gap = round % 2 ? 2 : 0;
        const bool twice = round % 4 == 0;
        Bench bench;
        Map in(s.h, s.w, in_channels, in_bits, kIn, gap), out(s.out_h, s.out_w, channels, out_bits, kOut, gap);
        in.Fill(random);
        in.Put(bench);
        out.Clear(bench);
        Ins ins = Windowed<Ins>(in, out);
        SetShape(ins, s);
        SetRange(ins, 2);
        ins.in_zero_point = in_bits == 16 ? 0 : -3;
        const int64_t rows = s.kernel_h * s.kernel_w * (depthwise ? 1 : in_channels);
        const Values weights = Random(random, rows * channels, weight_bits);
        bench.Put(bench.machine.weights, 9, WeightRows(weights, channels, weight_bits));
        const Params params = RandomParams(random, channels, weight_bits + in_bits - out_bits);
        bench.Put(bench.machine.sram, kParams, params.Records());
        ins.weight_bits = static_cast<int32_t>(weight_bits);
        ins.weight_addr = 9;
        ins.param_addr = kParams;
        if constexpr (std::is_same_v<Ins, isa::Conv>) {
          ins.in_channels = in_channels;
          ins.out_channels = channels;
        } else {
          ins.channels = channels;
        }
        for (int64_t y = 0; y < s.out_h; ++y) {
          for (int64_t x = 0; x < s.out_w; ++x) {
            for (int64_t n = 0; n < channels; ++n) {
              __int128 acc = 0;
              ForTaps(ins, y, x, [&](int64_t row, int64_t pixel, int64_t tap) {
                for (int64_t c = depthwise ? n : 0; c < (depthwise ? n + 1 : in_channels); ++c) {
                  const int64_t weight_row = depthwise ? tap : tap * in_channels + c;
                  acc += (in.At(row, pixel, c) - ins.in_zero_point) *
                         weights[static_cast<size_t>(weight_row * channels + n)];
                }
              });
              acc = acc * (twice ? 2 : 1) + params.bias[static_cast<size_t>(n)];
              out.At(y, x, n) =
                  Ended(ins, acc * params.multiplier[static_cast<size_t>(n)], params.shift[static_cast<size_t>(n)]);
            }
          }
        }
        RunInParts(bench, ins, twice);
        CHECK_EQ(out.Found(bench), out.Expected());
      }
    }
  }
}

TEST(conv_at_every_pair_of_widths) { CheckWeighted<isa::Conv>(false); }
TEST(depthwise_at_every_pair_of_widths) { CheckWeighted<isa::Depthwise>(true); }

TEST(convs_of_whole_lanes) {
  std::mt19937 random(5);
  for (const int64_t channels : {16, 32, 33}) {
    Bench bench;
    Map in(3, 4, channels, 8, kIn), out(3, 4, channels, 8, kOut);
    in.Fill(random);
    in.Put(bench);
    isa::Conv ins = Windowed<isa::Conv>(in, out);
    ins.in_channels = ins.out_channels = channels;
    ins.param_addr = kParams;
    const Values weights = Random(random, channels * channels, 8);
    bench.Put(bench.machine.weights, 0, WeightRows(weights, channels, 8));
    const Params params = RandomParams(random, channels, 9);
    bench.Put(bench.machine.sram, kParams, params.Records());
    for (int64_t pixel = 0; pixel < 12; ++pixel) {
      for (int64_t n = 0; n < channels; ++n) {
        const auto at = static_cast<size_t>(n);
        __int128 acc = params.bias[at];
        for (int64_t c = 0; c < channels; ++c)
          acc += in.values[static_cast<size_t>(pixel * channels + c)] * weights[static_cast<size_t>(c * channels + n)];
        out.values[static_cast<size_t>(pixel * channels + n)] =
            Ended(ins, acc * params.multiplier[at], params.shift[at]);
      }
    }
    bench.Run(ins);
    CHECK_EQ(out.Found(bench), out.Expected());
  }
}

TEST(depthwise_by_hand) {
  Bench bench;
  Map in(1, 3, 2, 8, kIn), out(1, 3, 2, 8, kOut);
  in.values = {1, 10, 2, 20, 3, 30};
  in.Put(bench);
  bench.Put(bench.machine.weights, 0, {1, 0, 2, 1, 4, 255});  // three taps of two channels
  Params params(2);
  params.bias = {0, 1};
  bench.Put(bench.machine.sram, kParams, params.Records());
  isa::Depthwise ins = Windowed<isa::Depthwise>(in, out);
  ins.channels = 2;
  ins.kernel_w = 3;
  ins.pad_left = 1;
  ins.param_addr = kParams;
  bench.Run(ins);
  // Channel 0: 2a + 4b, a + 2b + 4c, b + 2c; channel 1: a - b, b - c, c.
  out.values = {10, -9, 17, -9, 8, 31};
  CHECK_EQ(out.Found(bench), out.Expected());
}

isa::Pool PoolOf(const Map& in, const Map& out, isa::PoolKind kind) {
  isa::Pool ins = Windowed<isa::Pool>(in, out);
  ins.kind = kind;
  ins.channels = in.channels;
  ins.multiplier = 1;
  return ins;
}

TEST(pool_by_hand) {
  Bench bench;
  Map in(2, 2, 1, 8, kIn), out(2, 2, 1, 8, kOut);
  in.values = {-5, 3, -2, -9};
  in.Put(bench);
  isa::Pool ins = PoolOf(in, out, isa::PoolKind::Max);
  ins.kernel_h = ins.kernel_w = 2;
  bench.Run(ins);
  out.values = {3, 3, -2, -9};
  CHECK_EQ(out.Found(bench), out.Expected());
  ins.kind = isa::PoolKind::Sum;  // a quarter of each sum: -13, -6, -11, -9
  ins.shift = 2;
  bench.Run(ins);
  out.values = {-3, -2, -3, -2};  // -3.25, -1.5, -2.75, -2.25
  CHECK_EQ(out.Found(bench), out.Expected());
}

TEST(pool_at_every_width) {
  std::mt19937 random(6);
  int round = 0;
  for (const Shape& s : kShapes) {
    if (s.pad_top > 2) continue;  // outputs without a tap
    for (const int64_t in_bits : kAllWidths) {
      for (const int64_t out_bits : kAllWidths) {
        for (const isa::PoolKind kind : {isa::PoolKind::Max, isa::PoolKind::Sum}) {
          ++round;
          const bool sum = kind == isa::PoolKind::Sum, twice = round % 3 == 0;
          Bench bench;
          const int64_t channels = round % 2 ? 3 : 18, gap = round % 5;
          Map in(s.h, s.w, channels, in_bits, kIn, gap), out(s.out_h, s.out_w, channels, out_bits, kOut, gap);
          in.Fill(random);
          in.Put(bench);
          out.Clear(bench);
          isa::Pool ins = PoolOf(in, out, kind);
          SetShape(ins, s);
          SetRange(ins, 5);
          ins.in_zero_point = in_bits == 16 ? 0 : 4;
          ins.multiplier = 0x66666667;
          ins.shift = 31 + (sum ? 2 : 0) + in_bits - out_bits;
          for (int64_t y = 0; y < s.out_h; ++y) {
            for (int64_t x = 0; x < s.out_w; ++x) {
              for (int64_t c = 0; c < channels; ++c) {
                __int128 acc = sum ? 0 : -100000;
                ForTaps(ins, y, x, [&](int64_t row, int64_t pixel, int64_t) {
                  const __int128 value = in.At(row, pixel, c) - ins.in_zero_point;
                  acc = sum ? acc + value : std::max(acc, value);
                });
                out.At(y, x, c) = Ended(ins, acc * (sum && twice ? 2 : 1) * ins.multiplier, ins.shift);
              }
            }
          }
          RunInParts(bench, ins, twice);
          CHECK_EQ(out.Found(bench), out.Expected());
        }
      }
    }
  }
}

struct SmallConv {
  Bench bench;
  Map in{1, 1, 4, 8, kIn}, out{1, 1, 1, 8, kOut};
  isa::Conv ins;

  SmallConv() {
    in.values.assign(4, -128);
    in.Put(bench);
    bench.Put(bench.machine.weights, 0, Bytes(4, 128));  // -128 each: the sum is 65536
    bench.Put(bench.machine.sram, kParams, Params(1).Records());
    ins = Windowed<isa::Conv>(in, out);
    ins.in_channels = 4;
    ins.out_channels = 1;
    ins.param_addr = kParams;
  }
};

TEST(accumulators_are_32_bits_and_checked) {
  SmallConv c;
  Params params(1);
  params.bias = {INT32_MAX - 65536};
  c.bench.Put(c.bench.machine.sram, kParams, params.Records());
  c.bench.Run(c.ins);
  CHECK_EQ(c.bench.Get(c.bench.machine.sram, kOut, 1), Bytes{127});
  params.bias = {INT32_MAX - 65535};
  c.bench.Put(c.bench.machine.sram, kParams, params.Records());
  CHECK_FAULT(c.bench.Run(c.ins), "32");
}

TEST(convs_refuse) {
  SmallConv c;
  const auto with = [&](auto change) {
    isa::Conv changed = c.ins;
    change(changed);
    c.bench.Run(changed);
  };
  CHECK_FAULT(with([](isa::Conv& i) { i.accumulate = true; }), "accumulates, but no accumulators are open");
  CHECK_FAULT(with([](isa::Conv& i) { i.weight_addr = 4093; }), "weight buffer");
  CHECK_FAULT(with([](isa::Conv& i) { i.param_addr = 0; }), "SRAM");
  CHECK_FAULT(with([](isa::Conv& i) { i.stride_w = 0; }), "stride_w is 0");
  CHECK_FAULT(with([](isa::Conv& i) { i.in_zero_point = -129; }), "in_zero_point is -129");
  CHECK_FAULT(with([](isa::Conv& i) {
                i.finish = false;
                i.in_h = i.in_w = i.out_h = i.out_w = 65;
                i.in_row_stride = i.in_pixel_stride = 0;
              }),
              "leaves 4225 accumulators open, the machine has 4096");
  with([](isa::Conv& i) { i.finish = false; });
  CHECK_FAULT(c.bench.Run(c.ins), "starts anew while the accumulators of CONV are open");
  CHECK_FAULT(with([](isa::Conv& i) {
                i.accumulate = true;
                i.out_bits = 16;
              }),
              "of another size, kind or width");
  with([](isa::Conv& i) { i.accumulate = true; });
  Bytes record = Params(1).Records();
  record[9] = 1;
  c.bench.Put(c.bench.machine.sram, kParams, record);
  CHECK_FAULT(c.bench.Run(c.ins), "reserved bytes are not zero");
  record[9] = 0;
  record[7] = 128;
  c.bench.Put(c.bench.machine.sram, kParams, record);
  CHECK_FAULT(c.bench.Run(c.ins), "must be below 2^31");
}

TEST(windows_refuse) {
  Bench bench;
  Map in(4, 4, 1, 8, kIn), out(4, 4, 1, 8, kOut);
  in.Put(bench);
  isa::Pool ins = PoolOf(in, out, isa::PoolKind::Max);
  ins.pad_top = 2;
  CHECK_FAULT(bench.Run(ins), "maximum over no tap at all at output row 0, pixel 0");
  ins.pad_top = 0;
  CHECK_EQ(FaultOf([&] { bench.Run(ins); }), "");
  // 16 outputs in rows of 4 span ceil(15 / 4) + 1 = 5, so 4 rows; 4 lines of 4 pixels of one byte.
  Config small = SmallConfig();
  small.line_buffer_bytes = 15;
  Bench tight(small);
  in.Put(tight);
  CHECK_FAULT(tight.Run(ins), "needs 16 bytes of line buffer (4 lines of 4 pixels), the machine has 15");
}

}  // namespace

}  // namespace qaccel
