// Bits of a stream, the first one lowest in the first byte.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common.h"

namespace qaccel {

class BitWriter {
 public:
  void Put(uint64_t value, unsigned count) {  // at most 32 bits at a time
    pending_ |= value << filled_;
    filled_ += count;
    while (filled_ >= 8) {
      bytes_.push_back(static_cast<char>(pending_ & 0xFF));
      pending_ >>= 8;
      filled_ -= 8;
    }
  }
  // The bits so far, the last byte filled up with zeros.
  std::string Finish() {
    if (filled_ > 0) bytes_.push_back(static_cast<char>(pending_ & 0xFF));
    filled_ = 0;
    pending_ = 0;
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  uint64_t pending_ = 0;
  unsigned filled_ = 0;
};

inline uint64_t LowBits(uint64_t word, unsigned count) { return word & ((uint64_t{1} << count) - 1); }

// A place in a stream. Loops keep a copy of their own, which nothing that they write to can alias.
struct BitCursor {
  const uint8_t* data;
  int64_t at;  // bits

  // The bits from here on, of which at least 57 count.
  uint64_t Ahead() const {
    uint64_t word;
    std::memcpy(&word, data + (at >> 3), sizeof word);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word >> (at & 7);
  }
};

class BitReader {
 public:
  // Copies the payload, so that reading a little beyond its end is harmless; CheckEnd() then finds it.
  BitReader(const uint8_t* data, int64_t bytes) : data_(static_cast<size_t>(bytes) + kSlack), end_(bytes * 8) {
    if (bytes > 0) std::memcpy(data_.data(), data, static_cast<size_t>(bytes));
    cursor = {data_.data(), 0};
  }
  BitReader(const BitReader&) = delete;
  BitReader& operator=(const BitReader&) = delete;

  BitCursor cursor;

  int64_t end() const { return end_; }
  // At most 32 bits. What is read beyond the end is zero.
  uint64_t Take(unsigned count) {
    const uint64_t ahead = cursor.Ahead();
    cursor.at += count;
    return LowBits(ahead, count);
  }
  int64_t TakeSigned(unsigned count) {
    const int64_t sign = int64_t{1} << (count - 1);
    return (static_cast<int64_t>(Take(count)) ^ sign) - sign;
  }
  // To be called at least once a cycle of all lanes, and after each table.
  void CheckEnd() const {
    if (cursor.at > end_) Fail("stream ends before its last weight");
  }
  // That nothing but zeros that fill the last byte is left.
  void CheckDone() {
    CheckEnd();
    const int64_t left = end_ - cursor.at;
    if (left >= 8) Fail("stream has ", left / 8, " bytes after its last weight");
    if (Take(static_cast<unsigned>(left)) != 0) Fail("stream: the bits that fill its last byte are not zero");
  }

 private:
  static constexpr size_t kSlack = 1024;
  // Most that is read between two calls of CheckEnd: a symbol of every lane, or a table of symbols with their values. The lanes may
  // look 64 bytes ahead.
  static_assert((1 << ((1 << isa::kStreamLaneBits) - 1)) *
                            (isa::kStreamFrequencyBits + (1 << isa::kStreamExtraBits) - 1) / 8 +
                        64 <
                    kSlack &&
                (1 << isa::kStreamSymbolBits) * (16 + isa::kStreamExtraBits + 2 + isa::kStreamFrequencyCodeBits) / 8 +
                        2 * sizeof(uint64_t) <
                    kSlack);
  std::vector<uint8_t> data_;
  int64_t end_;
};

}  // namespace qaccel
