#include "simulate.h"

#include <algorithm>

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

// What lies in SRAM once an instruction has run; `at` is its place among the bytes that are kept.
struct Snapshot {
  int64_t instruction, addr, bytes, at;
};

std::vector<Snapshot> SnapshotsOf(const Json& options, int64_t instructions, const Config& hw, int64_t kept_bytes) {
  std::vector<Snapshot> snapshots;
  int64_t end = 0;
  if (options.Find("snapshots")) {
    for (const Json& each : options.ArrayAt("snapshots")) {
      bool good = each.array.size() == 3;
      for (const Json& number : each.array) good = good && number.kind == Json::Kind::kInteger && number.integer >= 0;
      if (!good) Fail("snapshots must be a list of [instruction, address, bytes]");
      const int64_t instruction = each.array[0].integer, addr = each.array[1].integer, bytes = each.array[2].integer;
      if (instruction >= instructions || addr > hw.sram_bytes || bytes > hw.sram_bytes - addr) {
        Fail("snapshot [", instruction, ", ", addr, ", ", bytes, "] is outside the program or SRAM");
      }
      snapshots.push_back({instruction, addr, bytes, end});
      end += bytes;
    }
  }
  if (end != kept_bytes) Fail("snapshots take ", end, " bytes, and there is room for ", kept_bytes);
  return snapshots;
}

void Keep(const Snapshot& snapshot, const Memory& sram, uint8_t* kept) {
  const int64_t last = snapshot.addr + snapshot.bytes, hole = sram.FirstUndefined(snapshot.addr, last);
  if (hole < last) Fail("snapshot: nothing has written byte ", hole, " of SRAM after instruction ", snapshot.instruction);
  std::copy_n(sram.data() + snapshot.addr, snapshot.bytes, kept + snapshot.at);
}

}  // namespace

std::string Simulate(std::string_view hw_json, std::string_view program_bytes, Bytes dram,
                     std::string_view options_json, Bytes kept) {
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
  Machine machine(hw, dram.data, dram.size);
  ForRanges(options, "initialised", [&](int64_t begin, int64_t end) { machine.dram.Define(begin, end); });
  ForRanges(options, "read_only", [&](int64_t begin, int64_t end) { machine.dram.Protect(begin, end); });
  const bool cycles = mode == "cycle";
  const std::vector<Snapshot> snapshots = SnapshotsOf(options, static_cast<int64_t>(program.size()), hw, kept.size);
  if (cycles && !snapshots.empty()) Fail("snapshots are for functional mode");
  const auto keep = [&](int index) {
    for (const Snapshot& each : snapshots) {
      if (each.instruction == index) Keep(each, machine.sram, kept.data);
    }
  };
  const Trace trace = cycles ? RunCycles(program, machine, program_addr) : RunFunctional(program, machine, keep);
  return ReportJson(program, trace, cycles, with_trace);
}

}  // namespace qaccel
