// A decoded program: its instructions, checked as far as they can be without executing them.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common.h"

namespace qaccel {

struct Program {
  std::vector<isa::Instruction> instructions;
  std::vector<int> on_engine[kEngines];  // each engine's instructions by index, in order
  std::vector<std::string> layer_names;

  size_t size() const { return instructions.size(); }
  const isa::Common& common(int index) const;
  isa::Engine engine(int index) const;
  const char* name(int index) const;   // mnemonic
  std::string Where(int index) const;  // "instruction 12 (CONV), layer 3 'conv1'"
};

// Throws Fault, complete with "machine error: instruction ...", on an unknown opcode, a reserved bit or code, or a
// misused semaphore.
Program DecodeProgram(std::string_view bytes, std::vector<std::string> layer_names);

}  // namespace qaccel
