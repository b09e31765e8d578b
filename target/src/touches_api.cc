// Last touches for Python, which finds the function by its symbol.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <vector>

#include "common.h"
#include "guard.h"
#include "touches.h"

namespace qaccel {

namespace {

namespace ffi = tvm::ffi;

constexpr int64_t kColumns = sizeof(TouchedBox) / sizeof(int64_t);

const int64_t* Numbers(const ffi::TensorView& tensor) {
  if (tensor.device().device_type != kDLCPU || tensor.ndim() != 1 || tensor.dtype().code != kDLInt ||
      tensor.dtype().bits != 64 || tensor.dtype().lanes != 1 || !tensor.IsContiguous()) {
    Fail("needed is a contiguous int64 vector on the CPU");
  }
  return reinterpret_cast<const int64_t*>(static_cast<const uint8_t*>(tensor.data_ptr()) + tensor.byte_offset());
}

template <typename T>
ffi::Bytes AsBytes(const std::vector<T>& values) {
  return ffi::Bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// `boxes`: the fields of TouchedBox, one access after the other. Gives the vectors of LastTouches as bytes.
ffi::Array<ffi::Bytes> LastTouchesOf(ffi::TensorView boxes, ffi::TensorView sizes, int64_t engines,
                                     int64_t granule_bytes) {
  return Guarded([&] {
    const auto* first = reinterpret_cast<const TouchedBox*>(Numbers(boxes));
    const int64_t* size = Numbers(sizes);
    const auto found = FindLastTouches(first, boxes.size(0) / kColumns, {size, size + sizes.size(0)}, engines, granule_bytes);
    return ffi::Array<ffi::Bytes>{AsBytes(found.writer_ends), AsBytes(found.writers), AsBytes(found.readers)};
  });
}

}  // namespace

}  // namespace qaccel

TVM_FFI_DLL_EXPORT_TYPED_FUNC(qaccel_last_touches, qaccel::LastTouchesOf);
