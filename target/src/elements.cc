#include "elements.h"

#include <cstring>

#include "common.h"

namespace qaccel {

namespace {

QACCEL_CLONES void Unpack8(const int8_t* bytes, int64_t count, int16_t zero_point, int16_t* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<int16_t>(bytes[i] - zero_point);
}

// Few channels: a call for each pixel would cost more than its work.
template <int kChannels>
inline __attribute__((always_inline)) void UnpackFew(const uint8_t* bytes, int64_t stride, int64_t pixels,
                                                     int16_t zero_point, int16_t* values) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel, bytes += stride, values += kChannels) {
    int8_t part[kChannels];
    std::memcpy(part, bytes, kChannels);
    for (int c = 0; c < kChannels; ++c) values[c] = static_cast<int16_t>(part[c] - zero_point);
  }
}

QACCEL_CLONES void UnpackFew8(const uint8_t* bytes, int64_t stride, int64_t pixels, int64_t channels,
                              int16_t zero_point, int16_t* values) {
  switch (channels) {
    case 4: return UnpackFew<4>(bytes, stride, pixels, zero_point, values);
    case 8: return UnpackFew<8>(bytes, stride, pixels, zero_point, values);
    case 16: return UnpackFew<16>(bytes, stride, pixels, zero_point, values);
    case 32: return UnpackFew<32>(bytes, stride, pixels, zero_point, values);
  }
}

QACCEL_CLONES void Unpack4(const uint8_t* bytes, int64_t pairs, int16_t zero_point, int16_t* values) {
  for (int64_t i = 0; i < pairs; ++i) {
    values[2 * i] = static_cast<int16_t>(((bytes[i] & 15) ^ 8) - 8 - zero_point);
    values[2 * i + 1] = static_cast<int16_t>(((bytes[i] >> 4) ^ 8) - 8 - zero_point);
  }
}

QACCEL_CLONES void Pack8(const int16_t* values, int64_t count, uint8_t* bytes) {
  for (int64_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(values[i]);
}

QACCEL_CLONES void Pack4(const int16_t* values, int64_t pairs, uint8_t* bytes) {
  for (int64_t i = 0; i < pairs; ++i)
    bytes[i] = static_cast<uint8_t>((values[2 * i] & 15) | (values[2 * i + 1] & 15) << 4);
}

}  // namespace

void Unpack(const uint8_t* bytes, int64_t count, int64_t bits, int64_t zero_point, int16_t* values) {
  const auto zero = static_cast<int16_t>(zero_point);
  if (bits == 8) {
    Unpack8(reinterpret_cast<const int8_t*>(bytes), count, zero, values);
  } else if (bits == 4) {
    Unpack4(bytes, count / 2, zero, values);
    if (count % 2) values[count - 1] = static_cast<int16_t>(((bytes[count / 2] & 15) ^ 8) - 8 - zero);
  } else {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    std::memcpy(values, bytes, static_cast<size_t>(count) * 2);
#else
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<int16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8);
#endif
  }
}

void UnpackPixels(const uint8_t* bytes, int64_t stride, int64_t pixels, int64_t channels, int64_t bits,
                  int64_t zero_point, int16_t* values) {
  if (stride * 8 == channels * bits) {
    Unpack(bytes, pixels * channels, bits, zero_point, values);
  } else if (bits == 8 && (channels == 4 || channels == 8 || channels == 16 || channels == 32)) {
    UnpackFew8(bytes, stride, pixels, channels, static_cast<int16_t>(zero_point), values);
  } else {
    for (int64_t pixel = 0; pixel < pixels; ++pixel)
      Unpack(bytes + pixel * stride, channels, bits, zero_point, values + pixel * channels);
  }
}

void Pack(const int16_t* values, int64_t count, int64_t bits, uint8_t* bytes) {
  if (bits == 8) {
    Pack8(values, count, bytes);
  } else if (bits == 4) {
    Pack4(values, count / 2, bytes);
    if (count % 2) bytes[count / 2] = static_cast<uint8_t>(values[count - 1] & 15);
  } else {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    std::memcpy(bytes, values, static_cast<size_t>(count) * 2);
#else
    for (int64_t i = 0; i < count; ++i) {
      bytes[2 * i] = static_cast<uint8_t>(values[i]);
      bytes[2 * i + 1] = static_cast<uint8_t>(values[i] >> 8);
    }
#endif
  }
}

}  // namespace qaccel
