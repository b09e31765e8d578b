#include "codec_columns.h"

#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wuninitialized"  // of GCC's own header, wrongly
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#define QACCEL_X86 1
#endif

namespace qaccel {

namespace {

using Kernel = int64_t (*)(const SlotTable& table, uint32_t* states, int64_t lanes, BitCursor& in, int64_t end,
                           int64_t rows, uint8_t* out, int64_t pitch, uint32_t& noted);

// What is changed in the loop lies in variables of its own, and nothing that it writes can be what it reads, so that the
// steps of the lanes overlap.
template <int kBits>
inline __attribute__((always_inline)) int64_t InPairs(const SlotTable& table, uint32_t* __restrict states,
                                                      int64_t lanes, BitCursor& in, int64_t end, int64_t rows,
                                                      uint8_t* __restrict out, int64_t pitch, uint32_t& noted) {
  BitCursor cursor = in;
  uint32_t all = 0;
  int64_t row = 0;
  for (; row < rows && cursor.at <= end; ++row, out += pitch) {
    for (int64_t l = 0; l < lanes; l += 2) {
      uint32_t taken_first, taken_second;
      const uint64_t ahead = cursor.Ahead();  // enough for two
      const int32_t first = table.Decode(states[l], ahead, taken_first);
      const int32_t second = table.Decode(states[l + 1], ahead >> taken_first, taken_second);
      cursor.at += taken_first + taken_second;
      all |= static_cast<uint32_t>(first - LowestOf(kBits)) | static_cast<uint32_t>(second - LowestOf(kBits));
      if (kBits == 4) {
        out[l / 2] = static_cast<uint8_t>((first & 0xF) | (second & 0xF) << 4);
      } else if (kBits == 8) {
        out[l] = static_cast<uint8_t>(first);
        out[l + 1] = static_cast<uint8_t>(second);
      } else {
        const uint32_t both = static_cast<uint16_t>(first) | static_cast<uint32_t>(second) << 16;
        for (int i = 0; i < 4; ++i) out[2 * l + i] = static_cast<uint8_t>(both >> 8 * i);
      }
    }
  }
  in = cursor;
  noted |= all;
  return row;
}

QACCEL_CLONES int64_t InPairs4(const SlotTable& table, uint32_t* states, int64_t lanes, BitCursor& in, int64_t end,
                               int64_t rows, uint8_t* out, int64_t pitch, uint32_t& noted) {
  return InPairs<4>(table, states, lanes, in, end, rows, out, pitch, noted);
}

QACCEL_CLONES int64_t InPairs8(const SlotTable& table, uint32_t* states, int64_t lanes, BitCursor& in, int64_t end,
                               int64_t rows, uint8_t* out, int64_t pitch, uint32_t& noted) {
  return InPairs<8>(table, states, lanes, in, end, rows, out, pitch, noted);
}

QACCEL_CLONES int64_t InPairs16(const SlotTable& table, uint32_t* states, int64_t lanes, BitCursor& in, int64_t end,
                                int64_t rows, uint8_t* out, int64_t pitch, uint32_t& noted) {
  return InPairs<16>(table, states, lanes, in, end, rows, out, pitch, noted);
}

#ifdef QACCEL_X86
#define QACCEL_VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512cd,avx512vbmi,bmi2")))

constexpr int64_t kTogether = 16;
// What one lane takes must lie in 4 bytes, wherever in the first of them it begins.
constexpr uint32_t kTogetherExtraMax = 25 - isa::kStreamFrequencyBits;
static_assert(7 + kTogether * 25 <= 8 * (64 - 4), "what the lanes take lies in one register");

// 2^bits - 1
QACCEL_VBMI inline __m512i MaskOf(__m512i bits) {
  const __m512i one = _mm512_set1_epi32(1);
  return _mm512_sub_epi32(_mm512_sllv_epi32(one, bits), one);
}

// In lane l the sum of the lanes up to it.
QACCEL_VBMI inline __m512i SumsUpTo(__m512i lanes) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i pairs = _mm512_add_epi32(lanes, _mm512_bslli_epi128(lanes, 4));
  const __m512i fours = _mm512_add_epi32(pairs, _mm512_bslli_epi128(pairs, 8));
  const __m512i last = _mm512_shuffle_epi32(fours, _MM_PERM_DDDD);
  const __m512i before = _mm512_alignr_epi32(last, zero, 12);
  const __m512i befores = _mm512_add_epi32(before, _mm512_alignr_epi32(last, zero, 8));
  return _mm512_add_epi32(_mm512_add_epi32(fours, befores), _mm512_alignr_epi32(last, zero, 4));
}

// Puts 16 weights.
template <int kBits>
QACCEL_VBMI inline void Put(__m512i weights, uint8_t* out) {
  if (kBits == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(weights));
  } else if (kBits == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(weights));
  } else {
    const __m128i bytes = _mm512_cvtepi32_epi8(weights);
    constexpr uint64_t kNibbles = 0x0F0F0F0F0F0F0F0F;
    const uint64_t pairs = _pext_u64(static_cast<uint64_t>(_mm_extract_epi64(bytes, 0)), kNibbles) |
                           _pext_u64(static_cast<uint64_t>(_mm_extract_epi64(bytes, 1)), kNibbles) << 32;
    std::memcpy(out, &pairs, sizeof pairs);
  }
}

// Lanes 16 at a time. The stream's next 64 bytes are in one register, from which each lane picks its own.
template <int kBits, int kGroups>
QACCEL_VBMI int64_t BySixteen(const SlotTable& table, uint32_t* states, int64_t, BitCursor& in, int64_t end,
                              int64_t rows, uint8_t* out, int64_t pitch, uint32_t& noted) {
  const __m512i* values = reinterpret_cast<const __m512i*>(table.values.data());
  const __m512i values0 = _mm512_loadu_si512(values), values1 = _mm512_loadu_si512(values + 1);
  const __m512i values2 = _mm512_loadu_si512(values + 2), values3 = _mm512_loadu_si512(values + 3);
  const __m512i first_bytes = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
  const __m512i slot_mask = _mm512_set1_epi32(kSlotMask);
  __m512i state[kGroups], all = _mm512_setzero_si512();
  for (int group = 0; group < kGroups; ++group) state[group] = _mm512_loadu_si512(states + group * kTogether);
  int64_t row = 0, at = in.at;
  for (; row < rows && at <= end; ++row, out += pitch) {
    for (int group = 0; group < kGroups; ++group) {
      const __m512i window = _mm512_loadu_si512(in.data + (at >> 3));
      const __m512i slot =
          _mm512_i32gather_epi32(_mm512_and_si512(state[group], slot_mask), table.slots.data(), sizeof(uint32_t));
      const __m512i frequency = _mm512_and_si512(slot, _mm512_set1_epi32(SlotTable::kFrequencyMask));
      const __m512i place = _mm512_and_si512(_mm512_srli_epi32(slot, SlotTable::kPlaceAt), slot_mask);
      const __m512i scaled = _mm512_add_epi32(
          _mm512_mullo_epi32(frequency, _mm512_srli_epi32(state[group], isa::kStreamFrequencyBits)), place);
      const __m512i bits =
          _mm512_sub_epi32(_mm512_lzcnt_epi32(scaled), _mm512_set1_epi32(31 - isa::kStreamStateBits));
      const __m512i symbol = _mm512_srli_epi32(slot, SlotTable::kSymbolAt);
      const __m512i value = _mm512_mask_blend_epi32(_mm512_test_epi32_mask(symbol, _mm512_set1_epi32(2 * kTogether)),
                                                    _mm512_permutex2var_epi32(values0, symbol, values1),
                                                    _mm512_permutex2var_epi32(values2, symbol, values3));
      const __m512i extra_bits = _mm512_and_si512(value, _mm512_set1_epi32(kExtraMax));
      const __m512i taken = _mm512_add_epi32(bits, extra_bits), sums = SumsUpTo(taken);
      const __m512i begin =
          _mm512_add_epi32(_mm512_sub_epi32(sums, taken), _mm512_set1_epi32(static_cast<int>(at & 7)));
      at += _mm_extract_epi32(_mm512_extracti32x4_epi32(sums, 3), 3);
      const __m512i picked = _mm512_add_epi8(_mm512_shuffle_epi8(_mm512_srli_epi32(begin, 3), first_bytes),
                                             _mm512_set1_epi32(0x03020100));
      const __m512i ahead = _mm512_srlv_epi32(_mm512_permutexvar_epi8(picked, window),
                                              _mm512_and_si512(begin, _mm512_set1_epi32(7)));
      state[group] = _mm512_or_si512(_mm512_sllv_epi32(scaled, bits), _mm512_and_si512(ahead, MaskOf(bits)));
      const __m512i extra = _mm512_and_si512(_mm512_srlv_epi32(ahead, bits), MaskOf(extra_bits));
      const __m512i weights = _mm512_add_epi32(_mm512_srai_epi32(value, isa::kStreamExtraBits), extra);
      all = _mm512_or_si512(all, _mm512_sub_epi32(weights, _mm512_set1_epi32(static_cast<int>(LowestOf(kBits)))));
      Put<kBits>(weights, out + group * kTogether * kBits / 8);
    }
  }
  for (int group = 0; group < kGroups; ++group) _mm512_storeu_si512(states + group * kTogether, state[group]);
  in.at = at;
  noted |= static_cast<uint32_t>(_mm512_reduce_or_epi32(all));
  return row;
}

bool HasVbmi() {
  static const bool has = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512cd") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("bmi2");
  return has;
}
#endif

template <int kBits>
Kernel PickKernel(const SlotTable& table, int64_t lanes) {
#ifdef QACCEL_X86
  if (table.most_extra_bits <= kTogetherExtraMax && HasVbmi()) {
    if (lanes == kTogether) return BySixteen<kBits, 1>;
    if (lanes == 2 * kTogether) return BySixteen<kBits, 2>;
  }
#endif
  return kBits == 4 ? InPairs4 : kBits == 8 ? InPairs8 : InPairs16;
}

}  // namespace

SlotTable::SlotTable(const Symbols& from) {
  for (size_t s = 0; s < from.size(); ++s) {
    values[s] = static_cast<int32_t>(static_cast<uint32_t>(from[s].first) << isa::kStreamExtraBits | from[s].extra_bits);
    most_extra_bits = std::max(most_extra_bits, from[s].extra_bits);
    const uint32_t common = from[s].frequency | static_cast<uint32_t>(s) << kSymbolAt;
    uint32_t* slot = slots.data() + from[s].begin;
    for (uint32_t place = 0; place < from[s].frequency; ++place) slot[place] = common | place << kPlaceAt;
  }
}

template <int kBits>
int64_t DecodeColumns(const SlotTable& table, uint32_t* states, int64_t lanes, BitCursor& in, int64_t end, int64_t rows,
                      uint8_t* out, int64_t pitch, uint32_t& noted) {
  return PickKernel<kBits>(table, lanes)(table, states, lanes, in, end, rows, out, pitch, noted);
}

template int64_t DecodeColumns<4>(const SlotTable&, uint32_t*, int64_t, BitCursor&, int64_t, int64_t, uint8_t*, int64_t,
                                  uint32_t&);
template int64_t DecodeColumns<8>(const SlotTable&, uint32_t*, int64_t, BitCursor&, int64_t, int64_t, uint8_t*, int64_t,
                                  uint32_t&);
template int64_t DecodeColumns<16>(const SlotTable&, uint32_t*, int64_t, BitCursor&, int64_t, int64_t, uint8_t*,
                                   int64_t, uint32_t&);

}  // namespace qaccel
