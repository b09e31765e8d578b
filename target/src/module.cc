// The runtime module that a compiled model carries: kind "qaccel", saved as its artefact's bytes.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include "guard.h"
#include "subgraph.h"

namespace qaccel {

namespace {

namespace ffi = tvm::ffi;

// Throws Fault if the tensor is not [N, h, w, c] of the slot's carrier, contiguous and on the CPU.
void CheckTensor(const std::string& symbol, const TensorSlot& slot, const DLTensor& tensor) {
  const int carrier = slot.bits == 16 ? 16 : 8;
  const int64_t sizes[] = {0, slot.h, slot.w, slot.c};
  bool fits =
      tensor.ndim == 4 && tensor.shape != nullptr && tensor.shape[0] >= 0 && tensor.device.device_type == kDLCPU;
  for (int axis = 1; fits && axis < 4; ++axis) fits = tensor.shape[axis] == sizes[axis];
  fits = fits && tensor.dtype.code == kDLInt && tensor.dtype.bits == carrier && tensor.dtype.lanes == 1;
  if (!fits)
    Fail(symbol, ": tensor ", slot.name, " must be int", carrier, " [N, ", slot.h, ", ", slot.w, ", ", slot.c,
         "] on the CPU");
  if (tensor.shape[0] == 0) return;  // strides of nothing mean nothing
  int64_t stride = 1;
  for (int axis = 3; axis >= 0; --axis) {
    if (tensor.strides != nullptr && tensor.shape[axis] > 1 && tensor.strides[axis] != stride) {
      Fail(symbol, ": tensor ", slot.name, " must be contiguous");
    }
    stride *= tensor.shape[axis];
  }
}

class QaccelModule : public ffi::ModuleObj {
 public:
  explicit QaccelModule(const ffi::Bytes& bytes)
      : subgraph_(std::string_view(bytes.data(), bytes.size()), std::make_shared<const ffi::Bytes>(bytes)),
        artefact_(subgraph_.artefact()) {}

  const char* kind() const final { return "qaccel"; }
  int GetPropertyMask() const final { return ffi::Module::kBinarySerializable | ffi::Module::kRunnable; }
  ffi::Bytes SaveToBytes() const final { return ffi::Bytes(subgraph_.Saved()); }

  // The subgraph's symbol and "run_cycle_mode": (inputs..., outputs...), the latter returning the report. "profile":
  // (with_trace = false) the report on inputs of zeros, since cycles do not depend on values; "cycles": its cycles
  // alone. "get_artefact": the bytes.
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    // The function keeps the module alive.
    const ffi::ObjectPtr<QaccelModule> self = ffi::details::ObjectUnsafe::ObjectPtrFromUnowned<QaccelModule>(this);
    if (name == artefact_.symbol) {
      return ffi::Function::FromPacked(
          [self](ffi::PackedArgs args, ffi::Any*) { Guarded([&] { return self->Call(args, false); }); });
    }
    if (name == "run_cycle_mode") {
      return ffi::Function::FromPacked([self](ffi::PackedArgs args, ffi::Any* result) {
        *result = ffi::String(Guarded([&] {
          const auto [trace, samples] = self->Call(args, true);
          return samples == 0 ? std::string() : self->subgraph_.Report(trace, false);
        }));
      });
    }
    if (name == "profile") {
      return ffi::Function::FromPacked([self](ffi::PackedArgs args, ffi::Any* result) {
        const bool with_trace = args.size() > 0 && args[0].cast<bool>();
        *result = ffi::String(Guarded([&] { return self->subgraph_.Report(self->RunZeros(), with_trace); }));
      });
    }
    if (name == "cycles") {
      return ffi::Function::FromPacked([self](ffi::PackedArgs, ffi::Any* result) {
        *result = Guarded([&] { return self->RunZeros().Cycles(); });
      });
    }
    if (name == "get_artefact") {
      return ffi::Function::FromPacked([self](ffi::PackedArgs, ffi::Any* result) { *result = self->SaveToBytes(); });
    }
    return std::nullopt;
  }

 private:
  // What the last of so many samples leaves.
  std::pair<Trace, int64_t> Call(ffi::PackedArgs args, bool cycle_mode) {
    const size_t input_count = artefact_.inputs.size(), count = input_count + artefact_.outputs.size();
    if (static_cast<size_t>(args.size()) != count) {
      Fail(artefact_.symbol, ": called with ", args.size(), " tensors, takes ", input_count, " inputs and ",
           count - input_count, " outputs");
    }
    std::vector<const uint8_t*> inputs;
    std::vector<uint8_t*> outputs;
    int64_t samples = 0;
    for (size_t i = 0; i < count; ++i) {
      const TensorSlot& slot = i < input_count ? artefact_.inputs[i] : artefact_.outputs[i - input_count];
      const auto tensor =
          args[static_cast<int>(i)].try_cast<DLTensor*>();  // the VM passes Tensor objects, RPC DLTensors
      if (!tensor || *tensor == nullptr) Fail(artefact_.symbol, ": argument ", i, " (", slot.name, ") is not a tensor");
      CheckTensor(artefact_.symbol, slot, **tensor);
      if (i == 0) samples = (*tensor)->shape[0];
      if ((*tensor)->shape[0] != samples) {
        Fail(artefact_.symbol, ": tensor ", slot.name, " has a batch of ", (*tensor)->shape[0], ", the one before ",
             samples);
      }
      uint8_t* data = static_cast<uint8_t*>((*tensor)->data) + (*tensor)->byte_offset;
      if (i < input_count) {
        inputs.push_back(data);
      } else {
        outputs.push_back(data);
      }
    }
    return {subgraph_.Run(inputs, outputs, samples, cycle_mode), samples};
  }

  Trace RunZeros() {
    std::vector<std::vector<uint8_t>> zeros;
    std::vector<const uint8_t*> inputs;
    for (const TensorSlot& slot : artefact_.inputs)
      zeros.emplace_back(static_cast<size_t>(Subgraph::CarrierBytes(slot)));
    for (const std::vector<uint8_t>& zero : zeros) inputs.push_back(zero.data());
    return subgraph_.Run(inputs, {}, 1, true);
  }

  Subgraph subgraph_;
  const Artefact& artefact_;
};

ffi::Module CreateModule(ffi::Bytes bytes) {
  return Guarded([&] { return ffi::Module(ffi::make_object<QaccelModule>(bytes)); });
}

int64_t IsaVersion() { return isa::kVersion; }

// What tvm-ffi looks up where it loads a module that was saved. Nothing else is registered: each name takes memory in every program
// that links this library, and Python finds the rest by its symbol.
TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::Function::SetGlobal("ffi.Module.load_from_bytes.qaccel", ffi::Function::FromTyped(CreateModule));
}

}  // namespace

}  // namespace qaccel

TVM_FFI_DLL_EXPORT_TYPED_FUNC(qaccel_module_create, qaccel::CreateModule);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(qaccel_isa_version, qaccel::IsaVersion);
