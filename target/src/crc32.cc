#include "crc32.h"

#include <array>

namespace qaccel {

namespace {

// Tables for eight bytes at a time: entry [k][b] is the CRC of byte b followed by k zero bytes.
std::array<std::array<uint32_t, 256>, 8> MakeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t byte = 0; byte < 256; ++byte)
      tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 255];
  }
  return tables;
}

}  // namespace

uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t bytes) {
  static const std::array<std::array<uint32_t, 256>, 8> tables = MakeTables();
  crc = ~crc;
  for (; bytes >= 8; bytes -= 8, data += 8) {
    uint32_t next = 0;
    for (int i = 0; i < 8; ++i) {
      const uint32_t byte = i < 4 ? (data[i] ^ crc >> 8 * i) & 255 : data[i];
      next ^= tables[static_cast<size_t>(7 - i)][byte];
    }
    crc = next;
  }
  for (; bytes > 0; --bytes, ++data) crc = crc >> 8 ^ tables[0][(*data ^ crc) & 255];
  return ~crc;
}

}  // namespace qaccel
