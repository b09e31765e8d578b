// One machine's parameters; target/hw.toml describes them, qaccel_hw.h is made from it.
#pragma once

#include <cstdint>

#include "json.h"
#include "qaccel_hw.h"

namespace qaccel {

struct Config : hw::Parameters {
  // ISA manual, "array".
  int64_t ArrayRows(int64_t activation_bits) const { return rows * 8 / activation_bits; }
  int64_t ArrayColumns(int64_t weight_bits) const { return cols * 8 / weight_bits; }
};

// Throws Fault naming an entry that is missing or out of bounds.
Config ParseConfig(const Json& values);

}  // namespace qaccel
