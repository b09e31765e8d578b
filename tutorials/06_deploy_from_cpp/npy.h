// NumPy's .npy files of version 1.0, little-endian and C-ordered: just what a deployed program needs of them.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace deploy {

namespace ffi = tvm::ffi;

constexpr char kMagic[] = "\x93NUMPY\x01";  // and a zero: version 1.0
constexpr size_t kTextAt = 10, kBlock = 64;  // where the description begins; what data are aligned to

// Memory of tensors, aligned as TVM's generated code expects it.
struct Allocator {
  void AllocData(DLTensor* tensor) {
    const size_t bytes = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(kBlock, (bytes / kBlock + 1) * kBlock);
    if (tensor->data == nullptr) throw std::bad_alloc();
    std::memset(tensor->data, 0, bytes);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

inline size_t BytesOf(const ffi::Tensor& tensor) { return ffi::GetDataSize(tensor); }

inline ffi::Tensor Zeros(const std::vector<int64_t>& shape, DLDataType dtype) {
  return ffi::Tensor::FromNDAlloc(Allocator(), ffi::ShapeView(shape.data(), shape.size()), dtype, DLDevice{kDLCPU, 0});
}

// How .npy calls a type, such as <f4 of float32.
inline std::string NpyType(DLDataType dtype) {
  const char kind = dtype.code == kDLFloat ? 'f' : dtype.code == kDLUInt ? 'u' : dtype.code == kDLBool ? 'b' : 'i';
  return (dtype.bits > 8 ? "<" : "|") + std::string(1, kind) + std::to_string(dtype.bits / 8);
}

// The dictionary in front of the data, as NumPy itself writes it.
inline std::string Description(ffi::ShapeView shape, DLDataType dtype) {
  std::string sizes;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    sizes += (axis ? ", " : "") + std::to_string(shape[axis]);
  }
  if (shape.size() == 1) sizes += ",";
  return "{'descr': '" + NpyType(dtype) + "', 'fortran_order': False, 'shape': (" + sizes + "), }";
}

// Fills the tensor from a file: .npy of its type and shape, anything else its bytes. Throws std::runtime_error of one
// line.
inline void ReadFile(const std::string& path, const ffi::Tensor& tensor) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("'" + path + "' cannot be read");
  const std::string contents((std::istreambuf_iterator<char>(file)), {});
  size_t begin = 0;
  if (contents.compare(0, sizeof(kMagic), kMagic, sizeof(kMagic)) == 0 && contents.size() > kTextAt) {
    begin = kTextAt + static_cast<uint8_t>(contents[8]) + 256 * static_cast<uint8_t>(contents[9]);
    const std::string wanted = Description(tensor.shape(), tensor.dtype());
    if (contents.compare(kTextAt, wanted.size(), wanted) != 0) {
      const std::string found = contents.substr(kTextAt, contents.find('}') + 1 - kTextAt);
      throw std::runtime_error("'" + path + "' is " + found + ", must be " + wanted);
    }
  }
  if (contents.size() - begin != BytesOf(tensor)) {
    throw std::runtime_error("'" + path + "' holds " + std::to_string(contents.size() - begin) + " bytes, must be " +
                             std::to_string(BytesOf(tensor)));
  }
  std::memcpy(tensor.data_ptr(), contents.data() + begin, BytesOf(tensor));
}

// Writes the tensor as .npy. Throws std::runtime_error of one line.
inline void WriteFile(const std::string& path, const ffi::Tensor& tensor) {
  std::string text = Description(tensor.shape(), tensor.dtype());
  text.append((2 * kBlock - 1 - (kTextAt + text.size()) % kBlock) % kBlock, ' ').append("\n");
  std::ofstream file(path, std::ios::binary);
  file.write(kMagic, sizeof(kMagic));
  file.put(static_cast<char>(text.size() % 256)).put(static_cast<char>(text.size() / 256));
  file << text;
  file.write(static_cast<const char*>(tensor.data_ptr()), static_cast<std::streamsize>(BytesOf(tensor)));
  if (!file.flush()) throw std::runtime_error("'" + path + "' cannot be written");
}

}  // namespace deploy
