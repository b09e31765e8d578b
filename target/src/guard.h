// Exceptions of the simulator as tvm-ffi errors.
#pragma once

#include <tvm/ffi/error.h>

#include <exception>
#include <new>
#include <stdexcept>

namespace qaccel {

// Calls `body`; what it throws reaches Python as a RuntimeError of one line.
template <typename Body>
auto Guarded(Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const tvm::ffi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    TVM_FFI_THROW(RuntimeError) << "the simulator ran out of memory";
  } catch (const std::length_error&) {
    TVM_FFI_THROW(RuntimeError) << "the simulator ran out of memory";
  } catch (const std::exception& error) {
    TVM_FFI_THROW(RuntimeError) << error.what();
  }
  TVM_FFI_UNREACHABLE();
}

}  // namespace qaccel
