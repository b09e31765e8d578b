// The simulator for Python, which finds the function by its symbol: what only compiles costs nothing where a module runs.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <string_view>

#include "guard.h"
#include "simulate.h"

namespace qaccel {

namespace {

namespace ffi = tvm::ffi;

Bytes BytesOf(const ffi::TensorView& tensor, const char* name) {
  if (tensor.device().device_type != kDLCPU || tensor.ndim() != 1 || tensor.dtype().code != kDLUInt ||
      tensor.dtype().bits != 8 || tensor.dtype().lanes != 1 || !tensor.IsContiguous()) {
    Fail(name, " must be a contiguous uint8 vector on the CPU");
  }
  return {static_cast<uint8_t*>(tensor.data_ptr()) + tensor.byte_offset(), tensor.size(0)};
}

// JSON options: "mode" ("functional" or "cycle"), "initialised" and "read_only" (lists of [start, end] in DRAM),
// "program_addr", "layers" (names), "trace" (list every instruction's times), "snapshots" (lists of [instruction, address,
// bytes]: what SRAM holds there once the instruction has run goes into `kept`, one after the other). JSON result: "cycles", "instructions",
// "macs", "dram_bytes", "peak_sram_bytes", "layers", "trace"; cycle mode only: "cycles", "stalls", "trace".
ffi::String SimulateTensor(ffi::String hw, ffi::Bytes program, ffi::TensorView dram, ffi::String options,
                           ffi::TensorView kept) {
  return Guarded([&] {
    return ffi::String(Simulate(std::string_view(hw.data(), hw.size()),
                                std::string_view(program.data(), program.size()), BytesOf(dram, "dram"),
                                std::string_view(options.data(), options.size()), BytesOf(kept, "kept")));
  });
}

}  // namespace

}  // namespace qaccel

TVM_FFI_DLL_EXPORT_TYPED_FUNC(qaccel_simulate, qaccel::SimulateTensor);
