// The codecs for Python, which finds the functions by their symbols.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "codec.h"
#include "guard.h"

namespace qaccel {

namespace {

namespace ffi = tvm::ffi;

template <typename T>
const T* Vector(const ffi::TensorView& tensor, const char* what) {
  if (tensor.device().device_type != kDLCPU || tensor.ndim() != 1 || tensor.dtype().code != kDLInt ||
      tensor.dtype().bits != 8 * sizeof(T) || tensor.dtype().lanes != 1 || !tensor.IsContiguous()) {
    TVM_FFI_THROW(ValueError) << what << " must be a contiguous int" << 8 * sizeof(T) << " vector on the CPU";
  }
  return reinterpret_cast<const T*>(static_cast<const uint8_t*>(tensor.data_ptr()) + tensor.byte_offset());
}

void CheckShape(const TileShape& tile) {
  if (tile.count < 1 || tile.row_weights < 1) Fail("a tile of ", tile.count, " weights in rows of ", tile.row_weights);
  if (!IsWidth(tile.bits)) Fail("weights of ", tile.bits, " bits");
}

// `weights`: the tiles one after the other; `shapes`: count, row_weights and bits of each. Threads share the tiles.
ffi::Array<ffi::Bytes> EncodeStreams(ffi::TensorView weights, ffi::TensorView shapes, int64_t lanes,
                                     int64_t table_bytes, int64_t threads) {
  const auto* values = Vector<int32_t>(weights, "weights");
  const auto* numbers = Vector<int64_t>(shapes, "shapes");
  return Guarded([&] {
    std::vector<TileShape> tiles;
    std::vector<const int32_t*> begins;
    int64_t end = 0;
    for (int64_t i = 0; i + 3 <= shapes.size(0); i += 3) {
      tiles.push_back({numbers[i], numbers[i + 1], numbers[i + 2]});
      CheckShape(tiles.back());
      begins.push_back(values + end);
      end += tiles.back().count;
    }
    if (end != weights.size(0)) Fail("tiles of ", end, " weights, ", weights.size(0), " given");
    std::vector<std::string> streams(tiles.size());
    std::vector<std::exception_ptr> errors(tiles.size());
    std::atomic<size_t> next{0};
    auto work = [&] {
      for (size_t i = next++; i < tiles.size(); i = next++) {
        try {
          streams[i] = EncodeStream(begins[i], tiles[i], {lanes, table_bytes});
        } catch (...) {
          errors[i] = std::current_exception();
        }
      }
    };
    std::vector<std::thread> helpers;
    const auto wanted = std::min<size_t>(static_cast<size_t>(std::max<int64_t>(1, threads)), tiles.size());
    for (size_t k = 1; k < wanted; ++k) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
    ffi::Array<ffi::Bytes> result;
    for (size_t i = 0; i < tiles.size(); ++i) {
      if (errors[i]) std::rethrow_exception(errors[i]);
      result.push_back(ffi::Bytes(streams[i]));
    }
    return result;
  });
}

// Weights packed as the weight buffer has them, the codec's code, and the decoder's cycles.
ffi::Array<ffi::Any> DecodeOne(ffi::Bytes stream, int64_t count, int64_t row_weights, int64_t bits, int64_t lanes,
                               int64_t table_bytes) {
  return Guarded([&] {
    const TileShape tile{count, row_weights, bits};
    CheckShape(tile);
    std::string packed(static_cast<size_t>(ChannelBytes(count, bits)), '\0');
    const Decoded decoded =
        DecodeStream(reinterpret_cast<const uint8_t*>(stream.data()), static_cast<int64_t>(stream.size()), tile,
                     {lanes, table_bytes}, reinterpret_cast<uint8_t*>(packed.data()));
    return ffi::Array<ffi::Any>{ffi::Bytes(packed), static_cast<int64_t>(decoded.codec), decoded.cycles};
  });
}

}  // namespace

}  // namespace qaccel

TVM_FFI_DLL_EXPORT_TYPED_FUNC(qaccel_encode_streams, qaccel::EncodeStreams);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(qaccel_decode_stream, qaccel::DecodeOne);
