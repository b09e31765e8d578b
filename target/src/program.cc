#include "program.h"

#include <utility>

#include "forward.h"

namespace qaccel {

namespace {

// One producing and one consuming engine for each semaphore: the first to use it on either side.
class SemaphoreUse {
 public:
  void Check(const isa::Common& common, isa::Engine engine) {
    static_assert(std::size(decltype(common.wait){}) == std::size(decltype(common.signal){}));
    for (size_t i = 0; i < std::size(common.wait); ++i) {
      for (size_t j = 0; j < std::size(common.signal); ++j) {
        const int64_t wait = common.wait[i], signal = common.signal[j];
        if (j < i && wait != 0 && wait == common.wait[j]) Fail("waits for semaphore ", wait, " twice");
        if (j < i && common.signal[i] != 0 && common.signal[i] == signal) Fail("signals semaphore ", signal, " twice");
        if (wait != 0 && wait == signal) Fail("both waits for and signals semaphore ", wait);
      }
    }
    for (const int64_t number : common.wait) Claim(number, engine, consumers_, "waits for", "consumer");
    for (const int64_t number : common.signal) Claim(number, engine, producers_, "signals", "producer");
  }

 private:
  static void Claim(int64_t number, isa::Engine engine, int (&owners)[isa::kSemaphoreCount + 1], const char* verb,
                    const char* role) {
    if (number == 0) return;
    int& owner = owners[number];
    if (owner == 0) owner = static_cast<int>(engine) + 1;
    if (owner != static_cast<int>(engine) + 1) {
      Fail(verb, " semaphore ", number, ", whose ", role, " is ", isa::name(static_cast<isa::Engine>(owner - 1)));
    }
  }

  int producers_[isa::kSemaphoreCount + 1] = {}, consumers_[isa::kSemaphoreCount + 1] = {};
};

}  // namespace

const isa::Common& Program::common(int index) const {
  return std::visit([](const auto& ins) -> const isa::Common& { return ins; }, instructions[index]);
}

isa::Engine Program::engine(int index) const {
  return std::visit([](const auto& ins) { return ins.kEngine; }, instructions[index]);
}

const char* Program::name(int index) const {
  return std::visit([](const auto& ins) { return isa::name(ins.kOpcode); }, instructions[index]);
}

std::string Program::Where(int index) const {
  const auto layer = static_cast<size_t>(common(index).layer);
  std::string where = Text("instruction ", index, " (", name(index), "), layer ", layer);
  if (layer < layer_names.size()) where += " '" + layer_names[layer] + "'";
  return where;
}

Program DecodeProgram(std::string_view bytes, std::vector<std::string> layer_names) {
  if (bytes.size() % isa::kInstructionBytes != 0) {
    Fail("machine error: program of ", bytes.size(), " bytes is not a multiple of ", isa::kInstructionBytes);
  }
  const size_t count = bytes.size() / isa::kInstructionBytes;
  // Everything counts instructions in 31 bits.
  if (count >= (size_t{1} << 31)) Fail("machine error: program of ", bytes.size(), " bytes is too long");
  Program program;
  program.layer_names = std::move(layer_names);
  program.instructions.resize(count);
  SemaphoreUse semaphores;
  ForwardUse forwards;
  for (size_t i = 0; i < count; ++i) {
    const auto* word = reinterpret_cast<const uint8_t*>(bytes.data()) + i * isa::kInstructionBytes;
    const char* error = nullptr;
    if (!isa::decode(word, program.instructions[i], error)) {
      Fail("machine error: instruction ", i, " (opcode ", int{word[0]}, "): ", error);
    }
    const int index = static_cast<int>(i);
    try {
      semaphores.Check(program.common(index), program.engine(index));
      if (program.engine(index) == isa::Engine::Compute) forwards.Check(program.instructions[i]);
    } catch (const Fault& fault) {
      Fail("machine error: ", program.Where(index), ": ", fault.what());
    }
    program.on_engine[static_cast<int>(program.engine(index))].push_back(index);
  }
  if (forwards.Open()) Fail("machine error: the program ends before what its last CONV or DEPTHWISE forwards is taken");
  return program;
}

}  // namespace qaccel
