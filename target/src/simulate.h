// One program on one memory image: what the functions of api.cc and the fuzzer call.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "config.h"
#include "core.h"

namespace qaccel {

// Runs `program` on `dram`, in place. The JSON texts are described in api.cc. Throws Fault on every error.
std::string Simulate(std::string_view hw_json, std::string_view program, uint8_t* dram, int64_t dram_bytes,
                     std::string_view options_json);

}  // namespace qaccel
