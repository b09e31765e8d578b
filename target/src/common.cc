#include "common.h"

namespace qaccel {

void Part::AppendTo(std::string& message) const {
  if (!is_number_) {
    message += text_;
    return;
  }
  if (negative_) message += '-';
  message += std::to_string(size_);
}

std::string Joined(const Part* parts, size_t count) {
  std::string message;
  for (size_t i = 0; i < count; ++i) parts[i].AppendTo(message);
  return message;
}

void FailWith(const Part* parts, size_t count) { throw Fault(Joined(parts, count)); }

}  // namespace qaccel
