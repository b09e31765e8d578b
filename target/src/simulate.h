// One program on one memory image: what the functions of api.cc and the fuzzer call.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "config.h"
#include "core.h"

namespace qaccel {

// Bytes that the caller holds.
struct Bytes {
  uint8_t* data;
  int64_t size;
};

// Runs `program` on `dram`, in place; `kept` takes the snapshots. The JSON texts are described in api.cc. Throws Fault on
// every error.
std::string Simulate(std::string_view hw_json, std::string_view program, Bytes dram, std::string_view options_json,
                     Bytes kept = {nullptr, 0});

}  // namespace qaccel
