// An artefact that runs: samples in, samples out.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "artefact.h"
#include "core.h"

namespace qaccel {

class Subgraph {
 public:
  // Throws Fault if the artefact is damaged. The program is decoded when it first runs. `keeper` keeps `bytes`; it is let go
  // once they lie in DRAM.
  Subgraph(std::string_view bytes, std::shared_ptr<const void> keeper)
      : bytes_(bytes), keeper_(std::move(keeper)), artefact_(ParseArtefact(bytes)) {}

  const Artefact& artefact() const { return artefact_; }
  // What it was made from.
  std::string Saved() const;

  // `samples` samples one after the other. Tensor i of sample n begins at inputs[i] + n * CarrierBytes(slot): NHWC,
  // int8 for 4 and 8-bit values, int16 for 16. Returns what the last sample leaves. Throws Fault where the program or
  // a value is wrong.
  Trace Run(const std::vector<const uint8_t*>& inputs, const std::vector<uint8_t*>& outputs, int64_t samples,
            bool cycle_mode);
  // The report of a run in cycle mode of at least one sample.
  std::string Report(const Trace& trace, bool with_trace) const;

  // Bytes of one sample outside of the machine.
  static int64_t CarrierBytes(const TensorSlot& slot) { return slot.h * slot.w * slot.c * (slot.bits == 16 ? 2 : 1); }

 private:
  void Prepare();
  void WriteInput(const TensorSlot& slot, const uint8_t* values);
  void ReadOutput(const TensorSlot& slot, uint8_t* values) const;

  void FillDram();

  mutable std::mutex mutex_;  // one run at a time
  std::string_view bytes_;    // while they are kept
  std::shared_ptr<const void> keeper_;
  std::string before_program_, after_constants_;  // of the bytes, once they are not
  Artefact artefact_;
  std::unique_ptr<Program> program_;
  Pages<uint8_t> dram_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace qaccel
