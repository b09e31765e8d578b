// The functions that Python finds: registered with tvm-ffi when the library is loaded.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/ffi/string.h>

#include <string_view>

#include "guard.h"
#include "simulate.h"

namespace qaccel {

namespace {

namespace ffi = tvm::ffi;

// JSON options: "mode" ("functional" or "cycle"), "initialised" and "read_only" (lists of [start, end] in DRAM),
// "program_addr", "layers" (names), "trace" (list every instruction's times). JSON result: "cycles", "instructions",
// "macs", "dram_bytes", "peak_sram_bytes", "layers", "trace"; cycle mode only: "cycles", "stalls", "trace".
ffi::String SimulateTensor(ffi::String hw, ffi::Bytes program, ffi::TensorView dram, ffi::String options) {
  if (dram.device().device_type != kDLCPU || dram.ndim() != 1 || dram.dtype().code != kDLUInt ||
      dram.dtype().bits != 8 || dram.dtype().lanes != 1 || !dram.IsContiguous()) {
    TVM_FFI_THROW(ValueError) << "dram must be a contiguous uint8 vector on the CPU";
  }
  auto* data = static_cast<uint8_t*>(dram.data_ptr()) + dram.byte_offset();
  return Guarded([&] {
    return ffi::String(Simulate(std::string_view(hw.data(), hw.size()),
                                std::string_view(program.data(), program.size()), data, dram.size(0),
                                std::string_view(options.data(), options.size())));
  });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef().def("qaccel.simulate", SimulateTensor);
}

}  // namespace

}  // namespace qaccel
