#include "simulate.h"

#include "json.h"
#include "report.h"

namespace qaccel {

namespace {

constexpr int64_t kDramBytesMax = int64_t{1} << 32;  // what addresses reach

template <typename Visit>
void ForRanges(const Json& options, const char* name, Visit visit) {
  if (!options.Find(name)) return;
  for (const Json& range : options.ArrayAt(name)) {
    if (range.array.size() != 2 || range.array[0].kind != Json::Kind::kInteger ||
        range.array[1].kind != Json::Kind::kInteger) {
      Fail(name, " must be a list of [start, end]");
    }
    visit(range.array[0].integer, range.array[1].integer);
  }
}

}  // namespace

std::string Simulate(std::string_view hw_json, std::string_view program_bytes, uint8_t* dram, int64_t dram_bytes,
                     std::string_view options_json) {
  const Json options = Json::Parse(options_json);
  const std::string mode = options.Find("mode") ? options.StringAt("mode") : "functional";
  if (mode != "functional" && mode != "cycle") Fail("mode is '", mode, "', must be 'functional' or 'cycle'");
  const int64_t program_addr =
      options.Find("program_addr") ? options.IntegerAt("program_addr", 0, kDramBytesMax - 1) : 0;
  const bool with_trace = options.Find("trace") && options.At("trace").integer != 0;
  std::vector<std::string> layers;
  if (options.Find("layers")) {
    for (const Json& layer : options.ArrayAt("layers")) layers.push_back(layer.string);
  }
  const Config hw = ParseConfig(Json::Parse(hw_json));
  const Program program = DecodeProgram(program_bytes, std::move(layers));
  Machine machine(hw, dram, dram_bytes);
  ForRanges(options, "initialised", [&](int64_t begin, int64_t end) { machine.dram.Define(begin, end); });
  ForRanges(options, "read_only", [&](int64_t begin, int64_t end) { machine.dram.Protect(begin, end); });
  const bool cycles = mode == "cycle";
  const Trace trace = cycles ? RunCycles(program, machine, program_addr) : RunFunctional(program, machine);
  return ReportJson(program, trace, cycles, with_trace);
}

}  // namespace qaccel
