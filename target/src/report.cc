#include "report.h"

#include <algorithm>
#include <limits>
#include <map>
#include <sstream>

#include "machine.h"

namespace qaccel {

namespace {

using isa::Engine;

// What a cycle counts as, by what COMPUTE does or waits for.
enum Stall { kCompute, kActivationLoad, kWeightLoad, kDecode, kStore, kWait, kStalls };
constexpr const char* kStallNames[kStalls] = {"compute", "activation_load", "weight_load", "decode", "store", "wait"};

struct Segment {
  int64_t begin, end;
  Stall stall;
};

struct LayerTotals {
  int64_t cycles = 0, macs = 0, instructions = 0;
  int64_t stalls[kStalls] = {};
  int64_t weight_bytes = 0, read_bytes = 0, written_bytes = 0;
};

class Attribution {
 public:
  Attribution(const Program& program, const Trace& trace) : program_(program), trace_(trace) {}

  // Segments that cover every cycle once, in order.
  std::vector<Segment> Segments(int64_t cycles) {
    int64_t now = 0;
    for (const int index : program_.on_engine[static_cast<int>(Engine::Compute)]) {
      const int64_t start = trace_.start[index];
      const int64_t ready = std::clamp(trace_.token_from[index] < 0 ? now : trace_.token_ready[index], now, start);
      Waiting(now, ready, trace_.token_from[index]);
      Add(ready, start, kWait);
      Add(start, trace_.end[index], kCompute);
      now = trace_.end[index];
    }
    // No COMPUTE instruction is left.
    ForBusy(Engine::Store, now, cycles, [&](int64_t begin, int64_t end, int storing) {
      if (storing >= 0) return Add(begin, end, kStore);
      ForBusy(Engine::Load, begin, end,
              [&](int64_t from, int64_t to, int loading) { Add(from, to, loading >= 0 ? kActivationLoad : kWait); });
    });
    return std::move(segments_);
  }

 private:
  void Add(int64_t begin, int64_t end, Stall stall) {
    if (begin < end) segments_.push_back({begin, end, stall});
  }

  // COMPUTE waits for a token of that engine.
  void Waiting(int64_t begin, int64_t end, int from) {
    if (from == static_cast<int>(Engine::Loadw)) {
      ForBusy(Engine::Loadw, begin, end, [&](int64_t b, int64_t e, int index) {
        Add(b, e, index >= 0 && trace_.decode_bound[index] ? kDecode : kWeightLoad);
      });
    } else {
      Add(begin, end,
          from == static_cast<int>(Engine::Load)    ? kActivationLoad
          : from == static_cast<int>(Engine::Store) ? kStore
                                                    : kWait);
    }
  }

  // Cuts [begin, end) where the engine begins or ends an instruction: visit(from, to, its index or -1).
  template <typename Visit>
  void ForBusy(Engine engine, int64_t begin, int64_t end, Visit visit) const {
    const std::vector<int>& all = program_.on_engine[static_cast<int>(engine)];
    auto next = std::upper_bound(all.begin(), all.end(), begin,
                                 [&](int64_t time, int index) { return time < trace_.end[index]; });
    while (begin < end) {
      const int64_t start = next == all.end() ? end : std::min(end, trace_.start[*next]);
      if (begin < start) visit(begin, start, -1);
      begin = std::max(begin, start);
      if (begin >= end) break;
      const int64_t stop = std::min(end, trace_.end[*next]);
      visit(begin, stop, *next);
      begin = stop;
      ++next;
    }
  }

  const Program& program_;
  const Trace& trace_;
  std::vector<Segment> segments_;
};

// By instruction: whether it fetches for a layer behind that of the next COMPUTE.
std::vector<bool> FetchedAhead(const Program& program) {
  std::vector<bool> ahead(program.size(), false);
  int64_t next = std::numeric_limits<int64_t>::max();
  for (size_t i = program.size(); i-- > 0;) {
    const Engine engine = program.engine(static_cast<int>(i));
    const int64_t layer = program.common(static_cast<int>(i)).layer;
    if (engine == Engine::Compute) next = layer;
    ahead[i] = (engine == Engine::Load || engine == Engine::Loadw) && layer > next;
  }
  return ahead;
}

// A layer is one run of instructions in the program, or several where it is worked on by stripes. A run's interval begins where the
// last instruction of the runs before it ends; what is fetched ahead takes no time from the layers that it passes.
void AddCycles(const Program& program, const Trace& trace, std::map<int64_t, LayerTotals>& layers) {
  const std::vector<Segment> segments = Attribution(program, trace).Segments(trace.Cycles());
  const std::vector<bool> ahead = FetchedAhead(program);
  size_t at = 0;
  int64_t now = 0;
  const auto until_end_of = [&](size_t i) {
    LayerTotals& totals = layers[program.common(static_cast<int>(i)).layer];
    while (now < trace.end[i]) {
      const int64_t stop = std::min(trace.end[i], segments[at].end);
      totals.stalls[segments[at].stall] += stop - now;
      totals.cycles += stop - now;
      now = stop;
      if (now == segments[at].end) ++at;
    }
  };
  for (size_t i = 0; i < program.size(); ++i) {
    if (!ahead[i]) until_end_of(i);
  }
  for (size_t i = 0; i < program.size(); ++i) until_end_of(i);  // what nothing waits for may end last
}

void WriteDramBytes(std::ostringstream& out, const LayerTotals& totals) {
  out << "\"macs\":" << totals.macs << ",\"instructions\":" << totals.instructions
      << ",\"dram_bytes\":{\"weights\":" << totals.weight_bytes << ",\"activations_read\":" << totals.read_bytes
      << ",\"activations_written\":" << totals.written_bytes
      << ",\"program\":" << totals.instructions * isa::kInstructionBytes << "}";
}

template <typename Value>
void WriteArray(std::ostringstream& out, const char* name, size_t count, Value value) {
  out << "\"" << name << "\":[";
  for (size_t i = 0; i < count; ++i) out << (i ? "," : "") << value(i);
  out << "]";
}

}  // namespace

std::string ReportJson(const Program& program, const Trace& trace, bool cycle_mode, bool with_trace) {
  std::map<int64_t, LayerTotals> layers;
  LayerTotals sum;
  for (size_t i = 0; i < program.size(); ++i) {
    const Work work = std::visit([](const auto& ins) { return WorkOf(ins); }, program.instructions[i]);
    for (LayerTotals* totals : {&layers[program.common(static_cast<int>(i)).layer], &sum}) {
      ++totals->instructions;
      totals->macs += work.macs;
      totals->weight_bytes += work.weight_bytes;
      totals->read_bytes += work.read_bytes;
      totals->written_bytes += work.written_bytes;
    }
  }
  if (cycle_mode) AddCycles(program, trace, layers);
  for (const auto& [layer, totals] : layers) sum.cycles += totals.cycles;

  std::ostringstream out;
  out << "{";
  if (cycle_mode) out << "\"cycles\":" << sum.cycles << ",";
  WriteDramBytes(out, sum);
  out << ",\"peak_sram_bytes\":" << trace.peak_sram_bytes << ",\"layers\":[";
  const char* separator = "";
  for (const auto& [layer, totals] : layers) {
    out << separator << "{\"layer\":" << layer << ",";
    separator = ",";
    if (cycle_mode) {
      out << "\"cycles\":" << totals.cycles << ",\"stalls\":{";
      for (int stall = 0; stall < kStalls; ++stall)
        out << (stall ? ",\"" : "\"") << kStallNames[stall] << "\":" << totals.stalls[stall];
      out << "},";
    }
    WriteDramBytes(out, totals);
    out << "}";
  }
  out << "]";
  if (cycle_mode && with_trace) {
    out << ",\"trace\":{";
    WriteArray(out, "start", program.size(), [&](size_t i) { return trace.start[i]; });
    out << ",";
    WriteArray(out, "end", program.size(), [&](size_t i) { return trace.end[i]; });
    out << ",";
    WriteArray(out, "engine", program.size(),
               [&](size_t i) { return static_cast<int>(program.engine(static_cast<int>(i))); });
    out << ",";
    WriteArray(out, "layer", program.size(), [&](size_t i) { return program.common(static_cast<int>(i)).layer; });
    out << "}";
  }
  out << "}";
  return out.str();
}

}  // namespace qaccel
