// What every file of the simulator uses: faults of the simulated program, and integer helpers.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "qaccel_isa.h"

namespace qaccel {

// A fault of a program, config or artefact: one line. The scheduler adds which instruction it was.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
  // For races: the other instruction, by engine and number on that engine from 1 on. 0 is none.
  int other_engine = 0;
  uint32_t other_ordinal = 0;
};

// A part of a message: text or a whole number. One function makes every message of them, so that the hundreds of places where
// one is made take little code.
class Part {
 public:
  Part(std::string_view text) : text_(text) {}
  Part(const char* text) : text_(text) {}
  Part(const std::string& text) : text_(text) {}
  template <typename Number, typename = std::enable_if_t<std::is_integral_v<Number> && (sizeof(Number) > 1)>>
  Part(Number number) : is_number_(true), negative_(number < 0), size_(static_cast<uint64_t>(number)) {
    if (negative_) size_ = ~size_ + 1;
  }

  void AppendTo(std::string& message) const;

 private:
  std::string_view text_;
  bool is_number_ = false, negative_ = false;
  uint64_t size_ = 0;
};
std::string Joined(const Part* parts, size_t count);
// Cold: where one fails lies apart from the code that runs.
[[noreturn]] __attribute__((cold)) void FailWith(const Part* parts, size_t count);

template <typename... Parts>
std::string Text(const Parts&... parts) {
  const Part all[] = {parts...};
  return Joined(all, sizeof...(parts));
}

template <typename... Parts>
[[noreturn]] __attribute__((cold)) void Fail(const Parts&... parts) {
  const Part all[] = {parts...};
  FailWith(all, sizeof...(parts));
}

inline int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Bytes of a pixel of that many channels.
inline int64_t ChannelBytes(int64_t channels, int64_t bits) { return CeilDiv(channels * bits, 8); }

// Smallest and largest value of that many bits.
inline int64_t LowestOf(int64_t bits) { return -(int64_t{1} << (bits - 1)); }
inline int64_t HighestOf(int64_t bits) { return (int64_t{1} << (bits - 1)) - 1; }

// Whether values of that many bits exist.
inline bool IsWidth(int64_t bits) {
  return std::find(std::begin(isa::kWidths), std::end(isa::kWidths), bits) != std::end(isa::kWidths);
}

constexpr int kEngines = isa::kEngineCount;

// Per engine, how many of its instructions happened before some point of the program.
using Clock = std::array<uint32_t, kEngines>;

// Hot loops are compiled for several x86 levels and chosen at load time. Sanitizers cannot instrument the resolvers.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define QACCEL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QACCEL_CLONES
#endif

}  // namespace qaccel
