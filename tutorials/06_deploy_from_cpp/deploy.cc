// Runs a module that `tvmc compile -o MODULE.so` wrote, without Python: inputs from files or zeros, outputs and cycles
// printed.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <cinttypes>
#include <cstdio>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "npy.h"

namespace deploy {

namespace {

constexpr int kPooledAllocator = 2;  // of TVM's virtual machine
constexpr int64_t kValuesShown = 8;

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  DLDataType dtype;
};

#ifdef DEPLOY_STATIC
// The module that was linked into this program: static/CMakeLists.txt.
ffi::Module Load(const std::string&) {
  return ffi::Function::GetGlobalRequired("ffi.SystemLib")().cast<ffi::Module>();
}
#else
// The system's loader looks for a name without a folder among its own libraries.
ffi::Module Load(const std::string& path) {
  return ffi::Module::LoadFromFile(path.find('/') == std::string::npos ? "./" + path : path);
}
#endif

ffi::Function Get(const ffi::Module& module, const char* name) {
  const ffi::Optional<ffi::Function> function = module->GetFunction(name, /*query_imports=*/true);
  if (!function.has_value()) throw std::runtime_error(std::string("the module has no function ") + name);
  return *function;
}

// Parts of a JSON value, which throw where it is of another kind. Functions of their own: each of these conversions is much code.
ffi::json::Object ObjectOf(const ffi::Any& value) { return value.cast<ffi::json::Object>(); }
ffi::json::Array ArrayOf(const ffi::Any& value) { return value.cast<ffi::json::Array>(); }
ffi::String TextOf(const ffi::Any& value) { return value.cast<ffi::String>(); }
int64_t IntegerOf(const ffi::Any& value) { return value.cast<int64_t>(); }
ffi::Any Entry(const ffi::Any& object, const char* name) { return ObjectOf(object).at(ffi::String(name)); }

std::vector<TensorSpec> Specs(const ffi::Any& metadata, const char* kind) {
  std::vector<TensorSpec> specs;
  for (const ffi::Any& entry : ArrayOf(Entry(metadata, kind))) {
    TensorSpec spec{TextOf(Entry(entry, "name")), {}, ffi::StringToDLDataType(TextOf(Entry(entry, "dtype")))};
    for (const ffi::Any& size : ArrayOf(Entry(entry, "shape"))) spec.shape.push_back(IntegerOf(size));
    specs.push_back(spec);
  }
  return specs;
}

// What /proc/cpuinfo says that programs on this machine may use, of the first CPU: x86 calls it flags, ARM Features. Empty
// where it does not tell.
std::set<std::string> CpuFlags() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

// Throws where the module's code may use what this CPU does not have: it would die of an illegal instruction.
void CheckCpu(const ffi::Any& metadata, const std::string& path) {
  const std::set<std::string> flags = CpuFlags();
  std::string missing;
  for (const auto& [name, flag] : ObjectOf(Entry(metadata, "cpu_features"))) {
    if (flags.empty() || flags.count(TextOf(flag))) continue;
    missing += (missing.empty() ? "" : ", ") + std::string(TextOf(name));
  }
  if (missing.empty()) return;
  throw std::runtime_error("'" + path + "' was compiled for a CPU with " + missing +
                           ", which this machine does not have; compile it for this one, or with -mcpu= for one that is "
                           "like both");
}

// A compiled network, ready to run. What it says of itself is a JSON text that it carries.
class Network {
 public:
  explicit Network(const std::string& path)
      : library_(Load(path)), vm_(Get(library_, "vm_load_executable")().cast<ffi::Module>()) {
    Get(vm_, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    const ffi::Any metadata = ffi::json::Parse(TextOf(Get(vm_, "qaccel_metadata")()));
    const int64_t format = IntegerOf(Entry(metadata, "format"));
    if (format != QACCEL_MODULE_FORMAT) {
      throw std::runtime_error("'" + path + "' has module format " + std::to_string(format) + ", this program runs " +
                               std::to_string(QACCEL_MODULE_FORMAT) + "; compile the model again");
    }
    CheckCpu(metadata, path);
    inputs_ = Specs(metadata, "inputs");
    outputs_ = Specs(metadata, "outputs");
  }

  const std::vector<TensorSpec>& inputs() const { return inputs_; }
  const std::vector<TensorSpec>& outputs() const { return outputs_; }

  std::vector<ffi::Tensor> Run(const std::vector<ffi::Tensor>& inputs) const {
    const std::vector<ffi::AnyView> arguments(inputs.begin(), inputs.end());
    ffi::Any result;
    Get(vm_, "main").CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    if (const auto one = result.try_cast<ffi::Tensor>()) return {*one};
    std::vector<ffi::Tensor> outputs;
    for (const ffi::Any& each : result.cast<ffi::Array<ffi::Any>>()) outputs.push_back(each.cast<ffi::Tensor>());
    return outputs;
  }

  // Cycles of one run of each of the accelerator's programs together, counted by the simulator in its cycle mode.
  int64_t Cycles() const {
    int64_t cycles = 0;
    std::vector<ffi::Module> left{library_};
    while (!left.empty()) {
      const ffi::Module module = left.back();
      left.pop_back();
      for (const ffi::Any& each : module->imports()) left.push_back(each.cast<ffi::Module>());
      if (std::string(module->kind()) != "qaccel") continue;
      cycles += Get(module, "cycles")().cast<int64_t>();
    }
    return cycles;
  }

 private:
  ffi::Module library_, vm_;
  std::vector<TensorSpec> inputs_, outputs_;
};

double ValueAt(const ffi::Tensor& tensor, int64_t index) {
  const void* data = tensor.data_ptr();
  const DLDataType type = tensor.dtype();
  if (type.code == kDLFloat && type.bits == 32) return static_cast<const float*>(data)[index];
  if (type.code == kDLFloat && type.bits == 64) return static_cast<const double*>(data)[index];
  if (type.code == kDLInt && type.bits == 8) return static_cast<const int8_t*>(data)[index];
  if (type.code == kDLInt && type.bits == 32) return static_cast<const int32_t*>(data)[index];
  if (type.code == kDLInt && type.bits == 64) {
    return static_cast<double>(static_cast<const int64_t*>(data)[index]);
  }
  if (type.bits == 8) return static_cast<const uint8_t*>(data)[index];
  throw std::runtime_error("no text for values of type " + std::string(ffi::DLDataTypeToString(type)));
}

void Print(const TensorSpec& spec, const ffi::Tensor& tensor) {
  std::printf("%s %s [", spec.name.c_str(), ffi::DLDataTypeToString(tensor.dtype()).c_str());
  for (size_t axis = 0; axis < tensor.shape().size(); ++axis) {
    std::printf("%s%" PRId64, axis ? ", " : "", tensor.shape()[axis]);
  }
  std::printf("]");
  const int64_t count = tensor.numel();
  for (int64_t i = 0; i < count && i < kValuesShown; ++i) std::printf(" %.6g", ValueAt(tensor, i));
  std::printf(count > kValuesShown ? " ...\n" : "\n");
}

// The most memory that this process has held, in bytes; Linux alone tells.
int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return 1024 * kilobytes;
  }
  return 0;
}

// Arguments: the module, then NAME=FILE for inputs (.npy, or bytes as they lie in memory), and --outputs DIR for .npy
// files.
void Main(const std::vector<std::string>& arguments) {
  const Network network(arguments.at(0));
  std::map<std::string, std::string> files;
  std::string folder;
  for (size_t i = 1; i < arguments.size(); ++i) {
    const size_t equals = arguments[i].find('=');
    if (arguments[i] == "--outputs" && i + 1 < arguments.size()) {
      folder = arguments[++i];
    } else if (equals != std::string::npos) {
      files[arguments[i].substr(0, equals)] = arguments[i].substr(equals + 1);
    } else {
      throw std::runtime_error("'" + arguments[i] + "' is neither NAME=FILE nor --outputs DIR");
    }
  }
  std::vector<ffi::Tensor> inputs;
  for (const TensorSpec& spec : network.inputs()) {
    inputs.push_back(Zeros(spec.shape, spec.dtype));
    const auto given = files.find(spec.name);
    if (given == files.end()) {
      std::printf("note: no %s=FILE; it is zeros\n", spec.name.c_str());
      continue;
    }
    ReadFile(given->second, inputs.back());
    files.erase(given);
  }
  if (!files.empty()) throw std::runtime_error("the network has no input '" + files.begin()->first + "'");

  const std::vector<ffi::Tensor> outputs = network.Run(inputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    Print(network.outputs().at(i), outputs[i]);
    if (!folder.empty()) WriteFile(folder + "/output_" + std::to_string(i) + ".npy", outputs[i]);
  }
  std::printf("cycles %" PRId64 "\n", network.Cycles());
  std::printf("memory %" PRId64 " B at most\n", PeakBytes());
}

}  // namespace

}  // namespace deploy

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
#ifdef DEPLOY_STATIC
  arguments.insert(arguments.begin(), "the module in this program");
#endif
  if (arguments.empty()) {
    std::fprintf(stderr, "usage: deploy MODULE.so [NAME=FILE ...] [--outputs DIR]\n");
    return 2;
  }
  try {
    deploy::Main(arguments);
  } catch (const tvm::ffi::Error& error) {
    const std::string message = error.message();  // TVM's may go on for many lines
    std::fprintf(stderr, "error: %s\n", message.substr(0, message.find('\n')).c_str());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
