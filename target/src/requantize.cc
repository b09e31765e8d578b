#include "requantize.h"

#include <algorithm>
#include <cstring>

namespace qaccel {

namespace {

constexpr int64_t kChunk = 512;    // values handled at once
constexpr int64_t kRepeated = 64;  // values that pixels of few channels are repeated to
constexpr int64_t kLift = int64_t{1} << 62;

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

// sums[groups, lanes] = acc[groups, lanes] + bias[lanes]
QACCEL_CLONES void AddBias(const int64_t* __restrict acc, const int64_t* __restrict bias, int64_t groups, int64_t lanes,
                           int64_t* __restrict sums) {
  for (int64_t group = 0; group < groups; ++group, acc += lanes, sums += lanes) {
    for (int64_t i = 0; i < lanes; ++i) sums[i] = acc[i] + bias[i];
  }
}

// The loops below are written so that compilers vectorise them: 64 bits throughout, one step at a time, nothing
// aliased.

// rhe for |t| < 2^62 and 0 <= shift <= 62, so that the sum stays inside 64 bits. `some`: whether shift is not 0.
inline int64_t RoundShift(int64_t t, int64_t shift, int64_t half, int64_t some) {
  return (t + half - some + (t >> shift & some)) >> shift;
}

inline int64_t Half(int64_t shift) { return int64_t{1} << shift >> 1; }

// Eight values at once, in whatever registers the machine has: compilers do not vectorise what mixes 32 and 64 bits by
// themselves.
constexpr int kVector = 8;
using Vector32 = int32_t __attribute__((vector_size(4 * kVector)));
using Vector64 = int64_t __attribute__((vector_size(8 * kVector)));
using UVector64 = uint64_t __attribute__((vector_size(8 * kVector)));
using Vector16 = int16_t __attribute__((vector_size(2 * kVector)));

// out = clamp(values + zero_point)
inline __attribute__((always_inline)) void Finish(const UVector64& values, const OutputRange& range, int16_t* out) {
  const Vector64 zeros{}, lo = zeros + range.lo, hi = zeros + range.hi;
  const Vector64 value = reinterpret_cast<const Vector64&>(values) + range.zero_point;
  const Vector64 above = value < lo ? lo : value, within = above > hi ? hi : above;
  const Vector16 narrow = __builtin_convertvector(within, Vector16);
  std::memcpy(out, &narrow, sizeof(narrow));
}

template <typename Vector, typename T>
inline __attribute__((always_inline)) void LoadVector(const T* from, Vector& values) {
  std::memcpy(&values, from, sizeof(values));
}

// clamp(zero_point + rhe((acc + bias) * M * 2^-s)) for groups of `lanes` accumulators, `stride` apart, with products of
// 63 bits and shifts of 1 to 61. Products are lifted by 2^62, so that the shift that counts is of positive numbers,
// which more machines have. Returns whether a sum has left 32 bits; the output is then wrong.
QACCEL_CLONES bool ScaleSums(const int32_t* acc, int64_t stride, const ChannelScales& scales, const int64_t* bias,
                             int64_t begin, int64_t groups, int64_t lanes, const OutputRange& range, int16_t* out) {
  const OutputRange limits = range;
  const int64_t* multiplier = scales.multiplier.data() + begin;
  const int64_t* shift = scales.shift.data() + begin;
  const int64_t* rounding = scales.rounding.data() + begin;
  const int64_t* lifted = scales.lifted.data() + begin;
  UVector64 outside{};
  for (int64_t group = 0; group < groups; ++group, acc += stride, out += lanes) {
    for (int64_t i = 0; i < lanes; i += kVector) {
      Vector32 a;
      Vector64 b, m;
      UVector64 s, half, back;
      LoadVector(acc + i, a);
      LoadVector(bias + i, b);
      LoadVector(multiplier + i, m);
      LoadVector(shift + i, s);
      LoadVector(rounding + i, half);
      LoadVector(lifted + i, back);
      const Vector64 sum = __builtin_convertvector(a, Vector64) + b;
      outside |= reinterpret_cast<UVector64>(sum + (int64_t{1} << 31)) >> 32;
      const auto product = reinterpret_cast<UVector64>(sum * m);
      const UVector64 odd = product >> s & 1;
      Finish(((product + half + odd) >> s) - back, limits, out + i);
    }
  }
  uint64_t any = 0;
  for (int lane = 0; lane < kVector; ++lane) any |= outside[lane];
  return any != 0;
}

// The same for sums of up to 48 bits, bias included, and shifts of 33 to 92: products have 79 bits, of which the upper
// 47 and the lower 32 are handled apart.
QACCEL_CLONES void ScaleLong(const int64_t* sums, const ChannelScales& scales, int64_t begin, int64_t groups,
                             int64_t lanes, const OutputRange& range, int16_t* out) {
  const OutputRange limits = range;
  const int64_t* multiplier = scales.multiplier.data() + begin;
  const int64_t* shift = scales.shift.data() + begin;
  const UVector64 one = UVector64{} + 1, lift = one << 61, low_bits = UVector64{} + UINT32_MAX;
  for (int64_t group = 0; group < groups; ++group, sums += lanes, out += lanes) {
    for (int64_t i = 0; i < lanes; i += kVector) {
      Vector64 sum;
      UVector64 factor, s;
      LoadVector(sums + i, sum);
      LoadVector(multiplier + i, factor);
      LoadVector(shift + i, s);
      s -= 32;
      const UVector64 low = (reinterpret_cast<UVector64>(sum) & low_bits) * factor;
      const UVector64 upper = reinterpret_cast<UVector64>(sum >> 32) * factor + (low >> 32) + lift;
      const UVector64 odd = upper >> s & one;
      // 1 where nothing below the upper part is left to round up an even number.
      const UVector64 borrow = ((low & low_bits) | odd) == 0 ? one : UVector64{};
      Finish(((upper + (one << s >> 1) - borrow) >> s) - (lift >> s), limits, out + i);
    }
  }
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
void ScaleWide(const int64_t* sums, const ChannelScales& scales, int64_t begin, int64_t groups, int64_t lanes,
               const OutputRange& range, int16_t* out) {
  for (int64_t i = 0; i < groups * lanes; ++i) {
    const int64_t lane = begin + i % lanes, s = scales.shift[lane];
    const __int128 product = static_cast<__int128>(sums[i]) * scales.multiplier[lane];
    const __int128 half = static_cast<__int128>(1) << s >> 1;
    const int some = s != 0;
    const __int128 rounded = ((product + half - some + (product >> s & some)) >> s) + range.zero_point;
    out[i] = static_cast<int16_t>(rounded < range.lo   ? range.lo
                                  : rounded > range.hi ? range.hi
                                                       : static_cast<int64_t>(rounded));
  }
}

constexpr int64_t kRoundShiftMax = 62;
constexpr int64_t kSumsShiftMin = 1, kSumsShiftMax = 61;   // of ScaleSums
constexpr int64_t kLongShiftMin = 33, kLongShiftMax = 92;  // of ScaleLong
constexpr int64_t kWideShiftMax = 100;                     // beyond, every product of 94 bits rounds to zero

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
  for (std::vector<int64_t>* values : {&scales.bias, &scales.multiplier, &scales.shift})
    values->reserve(static_cast<size_t>(channels + kRepeated + kLanes));
  for (int64_t n = 0; n < channels; ++n) {
    const uint8_t* record = records + n * isa::kParamsBytes;
    for (int64_t i = 0; i < isa::kParamsReservedBytes; ++i) {
      if (record[isa::kParamsReservedOffset + i] != 0)
        Fail("parameter record of channel ", n, ": reserved bytes are not zero");
    }
    const uint64_t multiplier =
        isa::unsigned_bits(record, isa::kParamsMultiplierOffset * 8, isa::kParamsMultiplierBytes * 8);
    if (multiplier >> isa::kMultiplierBits) {
      Fail("parameter record of channel ", n, ": multiplier ", multiplier, " must be below 2^", isa::kMultiplierBits);
    }
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
    shift[i] = kLongShiftMin;
    multiplier[i] = 0;
  }
  const auto [least, most] = std::minmax_element(shift.begin(), shift.end());
  narrow = *least >= kSumsShiftMin && *most <= kSumsShiftMax;
  long_shifts = *least >= kLongShiftMin && *most <= kLongShiftMax;
  pixels = channels % kVector == 0 && channels >= kLanes ? 1 : std::max<int64_t>(1, kRepeated / channels);
  const int64_t count = pixels * channels, padded = CeilDiv(count, kLanes) * kLanes;
  for (std::vector<int64_t>* values : {&bias, &multiplier, &shift}) {
    values->resize(static_cast<size_t>(padded), 0);
    for (int64_t done = channels; done < count; done *= 2)
      std::copy_n(values->begin(), std::min(done, count - done), values->begin() + done);
  }
  rounding.resize(static_cast<size_t>(padded));
  lifted.resize(static_cast<size_t>(padded));
  for (int64_t i = 0; narrow && i < padded; ++i) {
    rounding[i] = kLift + Half(shift[i]) - 1;
    lifted[i] = kLift >> shift[i];
  }
}

void Requantize(const ChannelScales& scales, const OutputRange& range, int64_t accumulator_bits, int64_t pixels,
                const int64_t* acc, int16_t* out) {
  static const int64_t no_bias[kChunk + kLanes] = {};
  int64_t sums[kChunk + kLanes];
  int32_t narrow_sums[kChunk + kLanes];
  const int64_t at_once = scales.pixels * scales.channels, total = pixels * scales.channels;
  for (int64_t first = 0; first < total;) {
    // Several whole groups, or a part of one.
    const int64_t begin = first % at_once;
    const bool whole = begin == 0 && at_once <= kChunk && total - first >= at_once;
    const int64_t groups = whole ? std::min(total - first, kChunk) / at_once : 1;
    const int64_t lanes = whole ? at_once : std::min({at_once - begin, total - first, kChunk}), count = groups * lanes;
    AddBias(acc + first, scales.bias.data() + begin, groups, lanes, sums);
    int64_t low = 0, high = 0;
    Extremes(sums, count, &low, &high);
    if (low < LowestOf(accumulator_bits) || high > HighestOf(accumulator_bits))
      CheckAccumulators(sums, count, accumulator_bits);
    std::fill_n(sums + count, kLanes, 0);
    if (scales.narrow && low >= INT32_MIN && high <= INT32_MAX) {
      std::copy_n(sums, count + kLanes, narrow_sums);
      ScaleSums(narrow_sums, lanes, scales, no_bias, begin, groups, lanes, range, out + first);
    } else if (scales.long_shifts && low >= LowestOf(48) && high <= HighestOf(48)) {
      ScaleLong(sums, scales, begin, groups, lanes, range, out + first);
    } else {
      ScaleWide(sums, scales, begin, groups, lanes, range, out + first);
    }
    first += count;
  }
}

void Requantize(const ChannelScales& scales, const OutputRange& range, int64_t accumulator_bits, int64_t pixels,
                const int32_t* acc, int64_t stride, int16_t* out) {
  const int64_t channels = scales.channels, at_once = stride == channels ? scales.pixels : 1;
  for (int64_t pixel = 0; pixel < pixels;) {
    // Whole groups of pixels first, then what remains.
    const int64_t whole = (pixels - pixel) / at_once, groups = std::max<int64_t>(1, whole);
    const int64_t count = whole > 0 ? whole * at_once : pixels - pixel, lanes = count / groups * channels;
    const int32_t* sums = acc + pixel * stride;
    if (!scales.narrow || ScaleSums(sums, stride * at_once, scales, scales.bias.data(), 0, groups, lanes, range,
                                    out + pixel * channels)) {
      std::vector<int64_t> wide(static_cast<size_t>(count * channels));
      for (int64_t i = 0; i < count; ++i) std::copy_n(sums + i * stride, channels, wide.begin() + i * channels);
      Requantize(scales, range, accumulator_bits, count, wide.data(), out + pixel * channels);
    }
    pixel += count;
  }
}

void RoundAll(int64_t* t, int64_t count, int64_t shift, const OutputRange& range, int16_t* out) {
  if (shift <= kRoundShiftMax) {
    RoundNarrow(t, count, shift);
    ClampAll(t, count, range.zero_point, range.lo, range.hi, out);
  } else {  // below one half, so zero
    std::fill_n(out, count, static_cast<int16_t>(std::min(std::max(range.zero_point, range.lo), range.hi)));
  }
}

}  // namespace qaccel
