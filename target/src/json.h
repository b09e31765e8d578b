// The little JSON that configs, options, artefacts and reports need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qaccel {

struct Json {
  enum class Kind { kNull, kBool, kInteger, kReal, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  int64_t integer = 0;  // also of kBool
  std::string string;
  std::vector<Json> array;
  std::vector<std::pair<std::string, Json>> object;

  // Throws Fault on damaged text, or nesting deeper than any of ours.
  static Json Parse(std::string_view text);

  const Json* Find(std::string_view key) const;  // nullptr if this is no object or has no such key
  // The rest throw Fault naming the key if it is missing, of another kind or outside [low, high].
  const Json& At(std::string_view key) const;
  int64_t IntegerAt(std::string_view key, int64_t low, int64_t high) const;
  const std::string& StringAt(std::string_view key) const;
  const std::vector<Json>& ArrayAt(std::string_view key) const;
};

// `text` as a JSON string, quotes included.
std::string JsonQuote(std::string_view text);

}  // namespace qaccel
