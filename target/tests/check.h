// A few macros instead of a test framework. A file of tests includes this once; its main() runs every TEST.
#pragma once

#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "common.h"

struct Test {
  const char* name;
  void (*body)();
};
inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}
inline int failures = 0;

template <typename T>
void Show(std::ostream& out, const T& value) {
  out << value;
}
template <typename T>
void Show(std::ostream& out, const std::vector<T>& values) {
  for (const T& value : values) out << +value << " ";
}

template <typename A, typename B>
void CheckEqual(const char* file, int line, const char* text, const A& found, const B& expected) {
  if (found == expected) return;
  ++failures;
  std::ostringstream out;
  out << file << ":" << line << ": " << text << " is ";
  Show(out, found);
  out << ", must be ";
  Show(out, expected);
  std::printf("%s\n", out.str().c_str());
}

// The reason of the Fault that `body` throws; empty if it throws none.
template <typename Body>
std::string FaultOf(Body body) {
  try {
    body();
  } catch (const qaccel::Fault& fault) {
    return fault.what();
  }
  return "";
}

#define TEST(name)                                                            \
  static void name();                                                         \
  static const int name##_registered = (Tests().push_back({#name, name}), 0); \
  static void name()
#define CHECK_EQ(found, expected) CheckEqual(__FILE__, __LINE__, #found, found, expected)
#define CHECK_FAULT(body, reason)                                                                       \
  do {                                                                                                  \
    const std::string fault_ = FaultOf([&] { body; });                                                  \
    if (fault_.find(reason) == std::string::npos) {                                                     \
      ++failures;                                                                                       \
      std::printf("%s:%d: fault is '%s', must say '%s'\n", __FILE__, __LINE__, fault_.c_str(), reason); \
    }                                                                                                   \
  } while (false)

int main() {
  for (const Test& test : Tests()) {
    const int before = failures;
    try {
      test.body();
    } catch (const std::exception& error) {
      ++failures;
      std::printf("%s: %s\n", test.name, error.what());
    }
    std::printf("%s %s\n", failures == before ? "passed" : "FAILED", test.name);
  }
  return failures != 0 || Tests().empty();
}
