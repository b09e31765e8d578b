// One step of a lane of the decoder, and many of them: lanes in step in neighbouring columns (ISA manual, "Weight streams").
#pragma once

#include <array>
#include <cstdint>

#include "codec_table.h"

namespace qaccel {

constexpr uint32_t kStateLow = uint32_t{1} << isa::kStreamStateBits;
constexpr uint32_t kSlotMask = kFrequencies - 1;

// A table as the lanes use it.
struct SlotTable {
  // By slot: the frequency of its symbol, its place among the slots of that, and which symbol it is.
  static constexpr int kPlaceAt = isa::kStreamFrequencyBits + 1, kSymbolAt = kPlaceAt + isa::kStreamFrequencyBits;
  static constexpr uint32_t kFrequencyMask = (1U << kPlaceAt) - 1;
  static_assert(kSymbolAt + isa::kStreamSymbolBits <= 32);
  std::array<uint32_t, kFrequencies> slots;
  // By symbol: the first value, in the bits above the number of extra bits.
  std::array<int32_t, kSymbolsMax> values{};
  uint32_t most_extra_bits = 0;

  explicit SlotTable(const Symbols& from);

  // One step of a lane. `ahead`: the stream's bits from here on; `taken` gets how many of them it was.
  int32_t Decode(uint32_t& state, uint64_t ahead, uint32_t& taken) const {
    const uint32_t slot = slots[state & kSlotMask];
    const int32_t value = values[slot >> kSymbolAt];
    const uint32_t extra_bits = static_cast<uint32_t>(value) & kExtraMax;
    const uint32_t scaled =
        (slot & kFrequencyMask) * (state >> isa::kStreamFrequencyBits) + (slot >> kPlaceAt & kSlotMask);
    const auto bits = static_cast<uint32_t>(__builtin_clz(scaled) - __builtin_clz(kStateLow));
    taken = bits + extra_bits;
    state = scaled << bits | static_cast<uint32_t>(LowBits(ahead, bits));
    return (value >> isa::kStreamExtraBits) + static_cast<int32_t>(LowBits(ahead >> bits, extra_bits));
  }
  int32_t Decode(uint32_t& state, BitCursor& in) const {
    uint32_t taken;
    const int32_t value = Decode(state, in.Ahead(), taken);
    in.at += taken;
    return value;
  }
};

// `rows` cycles of an even number of lanes, or fewer, where the stream ends; returns how many. The lanes are in
// neighbouring columns of weights of kBits bits: `out` is where the first of them puts its weight, rows are `pitch` bytes
// apart. How far each weight is above the lowest of its width is or-ed into `noted`.
template <int kBits>
int64_t DecodeColumns(const SlotTable& table, uint32_t* states, int64_t lanes, BitCursor& in, int64_t end, int64_t rows,
                      uint8_t* out, int64_t pitch, uint32_t& noted);

}  // namespace qaccel
