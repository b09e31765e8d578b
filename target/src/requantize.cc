#include "requantize.h"

#include <algorithm>
#include <cstring>

namespace qaccel {

namespace {

constexpr int64_t kChunk = 512;  // values handled at once

// Smallest and largest of the values, 0 included.
QACCEL_CLONES void Extremes(const int64_t* values, int64_t count, int64_t* low, int64_t* high) {
  int64_t least = 0, most = 0;
  for (int64_t i = 0; i < count; ++i) {
    least = values[i] < least ? values[i] : least;
    most = values[i] > most ? values[i] : most;
  }
  *low = least;
  *high = most;
}

QACCEL_CLONES void AddBias(const int64_t* bias, int64_t count, int64_t* acc) {
  for (int64_t i = 0; i < count; ++i) acc[i] += bias[i];
}

// The loops below are written so that compilers vectorise them: 64 bits throughout, one step at a time, nothing
// aliased.

// rhe for |t| < 2^62 and 0 <= shift <= 62, so that the sum stays inside 64 bits. `some`: whether shift is not 0.
inline int64_t RoundShift(int64_t t, int64_t shift, int64_t half, int64_t some) {
  return (t + half - some + (t >> shift & some)) >> shift;
}

inline int64_t Half(int64_t shift) { return int64_t{1} << shift >> 1; }

// acc = rhe(acc * M * 2^-s) for values of 32 bits: products have 63.
QACCEL_CLONES void ScaleNarrow(int64_t* __restrict acc, const int64_t* __restrict multiplier,
                               const int64_t* __restrict shift, const int64_t* __restrict half, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    acc[i] = RoundShift(acc[i] * multiplier[i], shift[i], half[i], half[i] != 0 ? 1 : 0);
}

QACCEL_CLONES void RoundNarrow(int64_t* __restrict t, int64_t count, int64_t shift) {
  const int64_t half = Half(shift), some = shift != 0;
  for (int64_t i = 0; i < count; ++i) t[i] = RoundShift(t[i], shift, half, some);
}

// clamp(value + zero_point, lo, hi), for |value| < 2^63 - 2^15.
QACCEL_CLONES void ClampAll(const int64_t* __restrict values, int64_t count, int64_t zero_point, int64_t lo, int64_t hi,
                            int16_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t value = values[i] + zero_point, above = value < lo ? lo : value;
    out[i] = static_cast<int16_t>(above > hi ? hi : above);
  }
}

// Any accumulator: products have up to 63 + 31 bits.
void ScaleWide(const int64_t* acc, const int64_t* multiplier, const int64_t* shift, int64_t count,
               const OutputRange& range, int16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    const __int128 product = static_cast<__int128>(acc[i]) * multiplier[i];
    const int64_t s = shift[i];
    const __int128 half = static_cast<__int128>(1) << s >> 1;
    const int some = s != 0;
    const __int128 rounded = ((product + half - some + (product >> s & some)) >> s) + range.zero_point;
    out[i] = static_cast<int16_t>(rounded < range.lo   ? range.lo
                                  : rounded > range.hi ? range.hi
                                                       : static_cast<int64_t>(rounded));
  }
}

constexpr int64_t kNarrowShiftMax = 62;
constexpr int64_t kWideShiftMax = 100;  // beyond, every product of 94 bits rounds to zero

}  // namespace

void CheckOutputRange(const OutputRange& range) {
  const int64_t low = LowestOf(range.bits), high = HighestOf(range.bits);
  const int64_t zero_low = range.bits == 16 ? 0 : low, zero_high = range.bits == 16 ? 0 : high;
  if (range.zero_point < zero_low || range.zero_point > zero_high) {
    Fail("out_zero_point is ", range.zero_point, ", at ", range.bits, " bits it must be ", zero_low, " to ", zero_high);
  }
  if (range.lo < low || range.hi > high || range.lo > range.hi) {
    Fail("clamp ", range.lo, "..", range.hi, " is not a range within ", range.bits, " bits");
  }
}

void CheckAccumulators(const int64_t* acc, int64_t count, int64_t bits) {
  int64_t low = 0, high = 0;
  Extremes(acc, count, &low, &high);
  if (low < LowestOf(bits) || high > HighestOf(bits)) {
    Fail("accumulator overflow: ", low < LowestOf(bits) ? low : high, " does not fit ", bits, " bits");
  }
}

ChannelScales ChannelScales::Uniform(int64_t channels, int64_t multiplier, int64_t shift) {
  ChannelScales scales;
  scales.channels = channels;
  scales.bias.assign(static_cast<size_t>(channels), 0);
  scales.multiplier.assign(static_cast<size_t>(channels), multiplier);
  scales.shift.assign(static_cast<size_t>(channels), shift);
  scales.Repeat();
  return scales;
}

ChannelScales ChannelScales::FromRecords(const uint8_t* records, int64_t channels) {
  ChannelScales scales;
  scales.channels = channels;
  for (int64_t n = 0; n < channels; ++n) {
    const uint8_t* record = records + n * isa::kParamsBytes;
    for (int64_t i = 0; i < isa::kParamsReservedBytes; ++i) {
      if (record[isa::kParamsReservedOffset + i] != 0)
        Fail("parameter record of channel ", n, ": reserved bytes are not zero");
    }
    const uint64_t multiplier =
        isa::unsigned_bits(record, isa::kParamsMultiplierOffset * 8, isa::kParamsMultiplierBytes * 8);
    if (multiplier >> 31) Fail("parameter record of channel ", n, ": multiplier ", multiplier, " must be below 2^31");
    scales.bias.push_back(isa::signed_bits(record, isa::kParamsBiasOffset * 8, isa::kParamsBiasBytes * 8));
    scales.multiplier.push_back(static_cast<int64_t>(multiplier));
    scales.shift.push_back(record[isa::kParamsShiftOffset]);
  }
  scales.Repeat();
  return scales;
}

void ChannelScales::Repeat() {
  // A shift beyond what 128-bit products need gives zero: so does a multiplier of zero.
  for (size_t i = 0; i < shift.size(); ++i) {
    if (shift[i] <= kWideShiftMax) continue;
    shift[i] = 0;
    multiplier[i] = 0;
  }
  narrow = *std::max_element(shift.begin(), shift.end()) <= kNarrowShiftMax;
  half.resize(shift.size());
  for (size_t i = 0; narrow && i < shift.size(); ++i) half[i] = Half(shift[i]);
  pixels = std::max<int64_t>(1, kChunk / channels);
  const auto once = static_cast<ptrdiff_t>(channels);
  for (std::vector<int64_t>* values : {&bias, &multiplier, &shift, &half}) {
    values->resize(static_cast<size_t>(pixels * channels));
    for (int64_t pixel = 1; pixel < pixels; ++pixel) std::copy_n(values->begin(), once, values->begin() + pixel * once);
  }
}

void Requantize(const ChannelScales& scales, const OutputRange& range, int64_t accumulator_bits, int64_t pixels,
                int64_t* acc, int16_t* out) {
  for (int64_t pixel = 0; pixel < pixels; pixel += scales.pixels) {
    const int64_t count = std::min(scales.pixels, pixels - pixel) * scales.channels;
    int64_t* values = acc + pixel * scales.channels;
    AddBias(scales.bias.data(), count, values);
    int64_t low = 0, high = 0;
    Extremes(values, count, &low, &high);
    if (low < LowestOf(accumulator_bits) || high > HighestOf(accumulator_bits))
      CheckAccumulators(values, count, accumulator_bits);
    if (scales.narrow && low >= INT32_MIN && high <= INT32_MAX) {
      ScaleNarrow(values, scales.multiplier.data(), scales.shift.data(), scales.half.data(), count);
      ClampAll(values, count, range.zero_point, range.lo, range.hi, out + pixel * scales.channels);
    } else {
      ScaleWide(values, scales.multiplier.data(), scales.shift.data(), count, range, out + pixel * scales.channels);
    }
  }
}

void RoundAll(int64_t* t, int64_t count, int64_t shift, const OutputRange& range, int16_t* out) {
  if (shift <= kNarrowShiftMax) {
    RoundNarrow(t, count, shift);
    ClampAll(t, count, range.zero_point, range.lo, range.hi, out);
  } else {  // below one half, so zero
    std::fill_n(out, count, static_cast<int16_t>(std::min(std::max(range.zero_point, range.lo), range.hi)));
  }
}

}  // namespace qaccel
