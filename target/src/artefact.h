// An accelerator subgraph as data; machine/artefact.py writes it and describes the container.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common.h"
#include "config.h"

namespace qaccel {

// A subgraph input or output in DRAM: one sample [h, w, c], packed.
struct TensorSlot {
  std::string name;
  int64_t dram_addr = 0, h = 0, w = 0, c = 0, bits = 0;

  int64_t PixelBytes() const { return ChannelBytes(c, bits); }
  int64_t DramBytes() const { return h * w * PixelBytes(); }
  int64_t DramEnd() const { return dram_addr + DramBytes(); }
};

struct Artefact {
  std::string symbol;
  Config hw{};
  std::vector<std::string> layers;
  int64_t dram_bytes = 0;
  int64_t program_addr = 0, constants_addr = 0;
  std::string_view program, constants;  // in the bytes that were parsed
  std::vector<TensorSlot> inputs, outputs;

  int64_t ProgramEnd() const { return program_addr + static_cast<int64_t>(program.size()); }
  int64_t ConstantsEnd() const { return constants_addr + static_cast<int64_t>(constants.size()); }
};

// `bytes` outlive the artefact. Throws Fault with one line if they are damaged or of another version.
Artefact ParseArtefact(std::string_view bytes);

}  // namespace qaccel
