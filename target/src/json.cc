#include "json.h"

#include <cstdio>

#include "common.h"

namespace qaccel {

namespace {

constexpr int kDepthMax = 32;  // keeps a damaged text from exhausting the stack

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json Document() {
    Json value = Value(0);
    Space();
    if (at_ != text_.size()) Damaged();
    return value;
  }

 private:
  [[noreturn]] void Damaged() const { Fail("JSON: damaged at byte ", at_); }

  void Space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  bool Take(char expected) {
    Space();
    if (at_ >= text_.size() || text_[at_] != expected) return false;
    ++at_;
    return true;
  }

  bool Word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json Value(int depth) {
    if (depth > kDepthMax) Fail("JSON: nested deeper than ", kDepthMax);
    Space();
    if (at_ >= text_.size()) Damaged();
    Json value;
    if (text_[at_] == '"') {
      value.kind = Json::Kind::kString;
      value.string = String();
    } else if (Take('[')) {
      value.kind = Json::Kind::kArray;
      if (Take(']')) return value;
      do value.array.push_back(Value(depth + 1));
      while (Take(','));
      if (!Take(']')) Damaged();
    } else if (Take('{')) {
      value.kind = Json::Kind::kObject;
      if (Take('}')) return value;
      do {
        Space();
        std::string key = String();
        if (!Take(':')) Damaged();
        value.object.emplace_back(std::move(key), Value(depth + 1));
      } while (Take(','));
      if (!Take('}')) Damaged();
    } else if (Word("true") || Word("false")) {
      value.kind = Json::Kind::kBool;
      value.integer = text_[at_ - 2] == 'u';
    } else if (!Word("null")) {
      Number(value);
    }
    return value;
  }

  void Number(Json& value) {
    const bool negative = Word("-");
    const size_t begin = at_;
    uint64_t magnitude = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      magnitude = magnitude * 10 + static_cast<uint64_t>(text_[at_] - '0');
      if (at_ - begin >= 18) Damaged();  // no number of ours has that many digits
    }
    if (at_ == begin) Damaged();
    value.kind = Json::Kind::kInteger;
    value.integer = negative ? -static_cast<int64_t>(magnitude) : static_cast<int64_t>(magnitude);
    // Fractions are accepted and only known to be no integers: nothing here reads one.
    while (at_ < text_.size() && std::string_view("0123456789.eE+-").find(text_[at_]) != std::string_view::npos) {
      value.kind = Json::Kind::kReal;
      ++at_;
    }
  }

  unsigned Hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const size_t digit =
          std::string_view("0123456789abcdef").find(c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c);
      if (digit == std::string_view::npos) Damaged();
      code = code << 4 | static_cast<unsigned>(digit);
    }
    return code;
  }

  static void AppendUtf8(unsigned code, std::string& out) {
    if (code < 0x80) {
      out += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    constexpr unsigned kLead[] = {0, 0xC0, 0xE0, 0xF0};
    out += static_cast<char>(kLead[more] | code >> 6 * more);
    for (int i = more; i-- > 0;) out += static_cast<char>(0x80 | (code >> 6 * i & 63));
  }

  std::string String() {
    if (at_ >= text_.size() || text_[at_] != '"') Damaged();
    std::string out;
    for (++at_; at_ < text_.size() && text_[at_] != '"';) {
      const char c = text_[at_++];
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ >= text_.size()) Damaged();
      const char escape = text_[at_++];
      if (escape == 'u') {
        unsigned code = Hex4();
        if (code >= 0xD800 && code < 0xDC00 && Word("\\u"))
          code = 0x10000 + ((code - 0xD800) << 10) + ((Hex4() - 0xDC00) & 0x3FF);
        AppendUtf8(code, out);
        continue;
      }
      const size_t known = std::string_view("\"\\/bfnrt").find(escape);
      if (known == std::string_view::npos) Damaged();
      out += "\"\\/\b\f\n\r\t"[known];
    }
    if (at_ >= text_.size()) Damaged();
    ++at_;
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Json Json::Parse(std::string_view text) { return Parser(text).Document(); }

const Json* Json::Find(std::string_view key) const {
  for (const auto& [name, value] : object) {
    if (name == key) return &value;
  }
  return nullptr;
}

const Json& Json::At(std::string_view key) const {
  const Json* found = Find(key);
  if (!found) Fail(key, " is missing");
  return *found;
}

int64_t Json::IntegerAt(std::string_view key, int64_t low, int64_t high) const {
  const Json& value = At(key);
  if (value.kind != Kind::kInteger) Fail(key, " is not an integer");
  if (value.integer < low || value.integer > high) Fail(key, " is ", value.integer, ", must be ", low, " to ", high);
  return value.integer;
}

const std::string& Json::StringAt(std::string_view key) const {
  const Json& value = At(key);
  if (value.kind != Kind::kString) Fail(key, " is not a string");
  return value.string;
}

const std::vector<Json>& Json::ArrayAt(std::string_view key) const {
  const Json& value = At(key);
  if (value.kind != Kind::kArray) Fail(key, " is not an array");
  return value.array;
}

std::string JsonQuote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace qaccel
