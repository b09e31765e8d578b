#include "config.h"

#include "common.h"

namespace qaccel {

Config ParseConfig(const Json& values) {
  Config config{};
  for (const hw::Entry& entry : hw::kEntries) {
    const Json& table = *entry.table ? values.At(entry.table) : values;
    const int64_t value = table.IntegerAt(entry.name, entry.least, entry.most);
    if (entry.power_of_two && (value & (value - 1))) Fail(entry.name, " is ", value, ", must be a power of two");
    config.*entry.value = value;
  }
  return config;
}

}  // namespace qaccel
