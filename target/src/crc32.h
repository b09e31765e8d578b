// CRC-32 of IEEE 802.3, reflected, as zlib's crc32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qaccel {

// Goes on from `crc`, the CRC of what came before (0: nothing).
uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t bytes);

}  // namespace qaccel
