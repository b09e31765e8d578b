"""What CMakeLists.txt asks of Python: libraries, headers and the format of modules, with semicolons between."""

import tvm_ffi.libinfo
from tvm.libinfo import find_libtvm_runtime

from qaccel.machine.native import library_path
from qaccel.metadata.read import FORMAT

print(
    find_libtvm_runtime(), tvm_ffi.libinfo.find_libtvm_ffi(), library_path(), tvm_ffi.libinfo.find_include_path(),
    tvm_ffi.libinfo.find_dlpack_include_path(), FORMAT, sep=";",
)  # fmt: skip
