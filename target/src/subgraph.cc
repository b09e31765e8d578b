#include "subgraph.h"

#include <cstring>

#include "elements.h"
#include "report.h"

namespace qaccel {

// Program and constants are read-only there: they are never lost, and the bytes that they came from are needed no more, unless they
// overlap.
void Subgraph::FillDram() {
  dram_ = Zeroed<uint8_t>(artefact_.dram_bytes);
  const auto copy = [&](std::string_view& from, int64_t addr) {
    auto* to = reinterpret_cast<char*>(dram_.get()) + addr;
    std::memcpy(to, from.data(), from.size());
    return std::string_view(to, from.size());
  };
  const std::string_view program = copy(artefact_.program, artefact_.program_addr);
  const std::string_view constants = copy(artefact_.constants, artefact_.constants_addr);
  if (artefact_.program_addr < artefact_.ConstantsEnd() && artefact_.constants_addr < artefact_.ProgramEnd()) return;
  before_program_ = bytes_.substr(0, static_cast<size_t>(artefact_.program.data() - bytes_.data()));
  after_constants_ = bytes_.substr(before_program_.size() + program.size() + constants.size());
  artefact_.program = program;
  artefact_.constants = constants;
  bytes_ = {};
  keeper_.reset();
}

std::string Subgraph::Saved() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!bytes_.empty()) return std::string(bytes_);
  std::string saved;
  saved.reserve(before_program_.size() + artefact_.program.size() + artefact_.constants.size() + after_constants_.size());
  for (const std::string_view part : {std::string_view(before_program_), artefact_.program, artefact_.constants,
                                      std::string_view(after_constants_)}) {
    saved += part;
  }
  return saved;
}

void Subgraph::Prepare() {
  if (!program_) program_ = std::make_unique<Program>(DecodeProgram(artefact_.program, artefact_.layers));
  if (!dram_) FillDram();
  if (!machine_) {
    machine_ = std::make_unique<Machine>(artefact_.hw, dram_.get(), artefact_.dram_bytes);
    machine_->dram.Protect(artefact_.program_addr, artefact_.ProgramEnd());
    machine_->dram.Protect(artefact_.constants_addr, artefact_.ConstantsEnd());
  }
  machine_->Restart();
  machine_->dram.Define(artefact_.program_addr, artefact_.ProgramEnd());
  machine_->dram.Define(artefact_.constants_addr, artefact_.ConstantsEnd());
}

void Subgraph::WriteInput(const TensorSlot& slot, const uint8_t* values) {
  std::vector<int16_t> pixel(static_cast<size_t>(slot.c));
  const int64_t carrier_bits = slot.bits == 16 ? 16 : 8;
  uint8_t* target = dram_.get() + slot.dram_addr;
  for (int64_t i = 0; i < slot.h * slot.w; ++i) {
    Unpack(values + i * ChannelBytes(slot.c, carrier_bits), slot.c, carrier_bits, 0, pixel.data());
    for (const int16_t value : pixel) {
      if (value < LowestOf(slot.bits) || value > HighestOf(slot.bits)) {
        Fail(artefact_.symbol, ": input ", slot.name, " holds ", value, ", outside ", slot.bits, " bits");
      }
    }
    Pack(pixel.data(), slot.c, slot.bits, target + i * slot.PixelBytes());
  }
  machine_->dram.Define(slot.dram_addr, slot.DramEnd());
}

void Subgraph::ReadOutput(const TensorSlot& slot, uint8_t* values) const {
  const int64_t hole = machine_->dram.FirstUndefined(slot.dram_addr, slot.DramEnd());
  if (hole < slot.DramEnd())
    Fail("machine error: ", artefact_.symbol, ": nothing has written byte ", hole, " of DRAM, of output ", slot.name);
  std::vector<int16_t> pixel(static_cast<size_t>(slot.c));
  const int64_t carrier_bits = slot.bits == 16 ? 16 : 8;
  for (int64_t i = 0; i < slot.h * slot.w; ++i) {
    Unpack(dram_.get() + slot.dram_addr + i * slot.PixelBytes(), slot.c, slot.bits, 0, pixel.data());
    Pack(pixel.data(), slot.c, carrier_bits, values + i * ChannelBytes(slot.c, carrier_bits));
  }
}

Trace Subgraph::Run(const std::vector<const uint8_t*>& inputs, const std::vector<uint8_t*>& outputs, int64_t samples,
                    bool cycle_mode) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Trace trace;
  try {
    for (int64_t sample = 0; sample < samples; ++sample) {
      Prepare();
      for (size_t i = 0; i < inputs.size(); ++i) {
        WriteInput(artefact_.inputs[i], inputs[i] + sample * CarrierBytes(artefact_.inputs[i]));
      }
      trace =
          cycle_mode ? RunCycles(*program_, *machine_, artefact_.program_addr) : RunFunctional(*program_, *machine_);
      for (size_t i = 0; i < outputs.size(); ++i) {
        ReadOutput(artefact_.outputs[i], outputs[i] + sample * CarrierBytes(artefact_.outputs[i]));
      }
    }
  } catch (...) {
    machine_.reset();  // it stopped in the middle of something
    throw;
  }
  return trace;
}

std::string Subgraph::Report(const Trace& trace, bool with_trace) const {
  return ReportJson(*program_, trace, true, with_trace);
}

}  // namespace qaccel
