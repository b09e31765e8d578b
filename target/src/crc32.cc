#include "crc32.h"

#include <array>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define QACCEL_X86 1
#endif

namespace qaccel {

namespace {

constexpr uint32_t kPolynomial = 0xEDB88320u;  // bit 31 - i is the coefficient of x^i

// Tables for eight bytes at a time: entry [k][b] is the CRC of byte b followed by k zero bytes.
std::array<std::array<uint32_t, 256>, 8> MakeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ kPolynomial : crc >> 1;
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t byte = 0; byte < 256; ++byte)
      tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 255];
  }
  return tables;
}

// `crc` without its complements.
uint32_t ByTables(uint32_t crc, const uint8_t* data, size_t bytes) {
  static const std::array<std::array<uint32_t, 256>, 8> tables = MakeTables();
  for (; bytes >= 8; bytes -= 8, data += 8) {
    uint32_t next = 0;
    for (int i = 0; i < 8; ++i) {
      const uint32_t byte = i < 4 ? (data[i] ^ crc >> 8 * i) & 255 : data[i];
      next ^= tables[static_cast<size_t>(7 - i)][byte];
    }
    crc = next;
  }
  for (; bytes > 0; --bytes, ++data) crc = crc >> 8 ^ tables[0][(*data ^ crc) & 255];
  return crc;
}

#ifdef QACCEL_X86
// x^power modulo the polynomial, as a factor for products of numbers whose bits are reversed: these come out one place
// too low, so it is one place up.
int64_t Factor(int power) {
  uint32_t value = 1u << 31;
  for (int i = 0; i < power; ++i) value = value & 1 ? value >> 1 ^ kPolynomial : value >> 1;
  return static_cast<int64_t>(uint64_t{value} << 1);
}

constexpr size_t kFolded = 64;  // bytes at a time

// The same by multiplication without carries: 16 bytes that lie n bits before others are replaced by a remainder that
// is added to these. `bytes` is a multiple of kFolded.
__attribute__((target("pclmul,sse2"))) uint32_t ByFolding(uint32_t crc, const uint8_t* data, size_t bytes) {
  static const int64_t far_low = Factor(512 + 32), far_high = Factor(512 - 32);
  static const int64_t near_low = Factor(128 + 32), near_high = Factor(128 - 32);
  const __m128i far = _mm_set_epi64x(far_high, far_low), near = _mm_set_epi64x(near_high, near_low);
  const auto* source = reinterpret_cast<const __m128i*>(data);
  __m128i parts[4];
  for (int i = 0; i < 4; ++i) parts[i] = _mm_loadu_si128(source + i);
  parts[0] = _mm_xor_si128(parts[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
  for (size_t done = kFolded; done < bytes; done += kFolded) {
    source += 4;
    for (int i = 0; i < 4; ++i) {
      const __m128i low = _mm_clmulepi64_si128(parts[i], far, 0x00), high = _mm_clmulepi64_si128(parts[i], far, 0x11);
      parts[i] = _mm_xor_si128(_mm_xor_si128(low, high), _mm_loadu_si128(source + i));
    }
  }
  __m128i rest = parts[0];
  for (int i = 1; i < 4; ++i) {
    const __m128i low = _mm_clmulepi64_si128(rest, near, 0x00), high = _mm_clmulepi64_si128(rest, near, 0x11);
    rest = _mm_xor_si128(_mm_xor_si128(low, high), parts[i]);
  }
  uint8_t last[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(last), rest);
  return ByTables(0, last, sizeof(last));
}
#endif

}  // namespace

uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t bytes) {
  crc = ~crc;
#ifdef QACCEL_X86
  static const bool can_fold = __builtin_cpu_supports("pclmul");
  if (const size_t folded = bytes / kFolded * kFolded; can_fold && folded > 0) {
    crc = ByFolding(crc, data, folded);
    data += folded;
    bytes -= folded;
  }
#endif
  return ~ByTables(crc, data, bytes);
}

}  // namespace qaccel
