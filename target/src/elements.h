// Channels of pixels as integers: from and to their packed form.
#pragma once

#include <cstdint>

namespace qaccel {

// count values of `bits` bits at `bytes`, less `zero_point`. The differences fit 16 bits: a zero point is 0 for 16-bit
// values.
void Unpack(const uint8_t* bytes, int64_t count, int64_t bits, int64_t zero_point, int16_t* values);

// The same for `pixels` pixels of `channels` channels, `stride` bytes apart, one after the other.
void UnpackPixels(const uint8_t* bytes, int64_t stride, int64_t pixels, int64_t channels, int64_t bits,
                  int64_t zero_point, int16_t* values);

// The inverse with zero point 0: low nibble first, a last odd nibble zero.
void Pack(const int16_t* values, int64_t count, int64_t bits, uint8_t* bytes);

}  // namespace qaccel
