// Accumulators to outputs: every scale, on each of the ways that the simulator takes for it.
#include "bench.h"
#include "check.h"
#include "requantize.h"

namespace qaccel {

namespace {

constexpr OutputRange kWide{16, 0, -32768, 32767};

int64_t Expected(int64_t acc, int64_t bias, int64_t multiplier, int64_t shift) {
  const __int128 value = Rhe(__int128{acc + bias} * multiplier, shift);
  return static_cast<int64_t>(std::clamp<__int128>(value, -32768, 32767));
}

// What both forms make of accumulators of one channel, which must be the same.
Values Requantized(const Values& acc, int64_t bias, int64_t multiplier, int64_t shift) {
  Params params(1);
  params.bias = {bias};
  params.multiplier = {multiplier};
  params.shift = {shift};
  const Bytes records = params.Records();
  const ChannelScales scales = ChannelScales::FromRecords(records.data(), 1);
  const auto count = static_cast<int64_t>(acc.size());
  std::vector<int16_t> out(acc.size() + kLanes);
  Requantize(scales, kWide, 48, count, acc.data(), out.data());
  const Values found(out.begin(), out.begin() + count);
  if (std::all_of(acc.begin(), acc.end(), [](int64_t value) { return value == static_cast<int32_t>(value); })) {
    std::vector<int32_t> narrow(acc.begin(), acc.end());
    narrow.resize(acc.size() + kLanes);
    Requantize(scales, kWide, 32, count, narrow.data(), 1, out.data());
    CHECK_EQ(Values(out.begin(), out.begin() + count), found);
  }
  return found;
}

TEST(halves_go_to_the_even_neighbour_at_every_shift) {
  for (int64_t shift = 1; shift <= 74; ++shift) {           // up to accumulators of 48 bits
    const int64_t log2 = std::min<int64_t>(30, shift - 1);  // of M: the accumulators are odd numbers of halves
    Values acc, even;
    for (int64_t half = -9; half <= 9; half += 2) {
      acc.push_back(half * (int64_t{1} << (shift - 1 - log2)));
      const int64_t below = (half - 1) / 2;
      even.push_back(below % 2 == 0 ? below : below + 1);
    }
    CHECK_EQ(Requantized(acc, 0, int64_t{1} << log2, shift), even);
  }
}

TEST(every_scale) {
  std::mt19937_64 random(8);
  for (const int64_t accumulator_bits : {20, 32, 48}) {
    for (int64_t shift = 0; shift < 256; ++shift) {
      Values acc, expected;
      const int64_t multiplier = shift % 7 == 0 ? 0x7FFFFFFF : static_cast<int64_t>(random() & 0x7FFFFFFF);
      const int64_t bias = accumulator_bits == 20 ? 0 : static_cast<int64_t>(random() % 2001) - 1000;
      for (int i = 0; i < 40; ++i) {
        const int64_t reach = (int64_t{1} << (accumulator_bits - 1)) - 1001;
        acc.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(2 * reach)) - reach);
        expected.push_back(Expected(acc.back(), bias, multiplier, shift));
      }
      CHECK_EQ(Requantized(acc, bias, multiplier, shift), expected);
    }
  }
}

TEST(accumulators_that_leave_their_width) {
  CHECK_EQ(FaultOf([] { Requantized({(int64_t{1} << 47) - 2}, 1, 1, 0); }), "");
  CHECK_FAULT(Requantized({(int64_t{1} << 47) - 1}, 1, 1, 0), "48 bits");
  CHECK_FAULT(Requantized({-(int64_t{1} << 47)}, -1, 1, 0), "48 bits");
}

TEST(round_all_for_pointwise_instructions) {
  for (int64_t shift = 0; shift < 128; ++shift) {
    Values t, expected;
    for (const int64_t value : {-5, -3, -1, 0, 1, 3, 5}) {
      t.push_back(shift == 0 || shift > 60 ? value : value * (int64_t{1} << (shift - 1)));
      expected.push_back(static_cast<int64_t>(Rhe(t.back(), shift)));
    }
    std::vector<int16_t> out(t.size());
    RoundAll(t.data(), static_cast<int64_t>(t.size()), shift, kWide, out.data());
    CHECK_EQ(Values(out.begin(), out.end()), expected);
  }
}

}  // namespace

}  // namespace qaccel
