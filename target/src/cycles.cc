// Cycle mode: the events of the manual in order of time. Within a cycle, completions come first, then dispatch and
// starts until nothing changes, then the DRAM channel picks a burst.
#include <algorithm>
#include <limits>

#include "core.h"
#include "dram_channel.h"
#include "machine.h"

namespace qaccel {

namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int64_t kLatest = int64_t{1} << 61;
constexpr int kRequesters = kEngines + 1;  // instruction fetch first, then the engines that use DRAM in their order

class Clockwork {
 public:
  Clockwork(const Program& program, Machine& machine, int64_t program_addr)
      : core_(program, machine),
        machine_(machine),
        hw_(machine.hw),
        program_addr_(program_addr),
        arrival_(program.size(), kNever) {
    Trace& trace = core_.trace();
    trace.start.assign(program.size(), 0);
    trace.end.assign(program.size(), 0);
    trace.token_ready.assign(program.size(), 0);
    trace.token_from.assign(program.size(), -1);
    trace.decode_bound.assign(program.size(), false);
    std::fill(std::begin(end_), std::end(end_), kNever);
    BeginFetch();
  }

  Trace Run() {
    while (true) {
      while (Settle()) {
      }
      if (core_.Done()) break;
      Serve();
      Advance();
    }
    core_.CheckEnd();
    return core_.trace();
  }

 private:
  // Instruction fetch.
  void BeginFetch() {
    if (fetched_ < arrival_.size()) {
      const int64_t addr = program_addr_ + static_cast<int64_t>(fetched_) * isa::kInstructionBytes;
      transfers_[0] = Transfer(Flat(addr, isa::kInstructionBytes), hw_.dram_bytes_per_cycle, hw_.dram_burst_beats);
    }
  }
  bool FetchRequests() const {
    return fetched_ < arrival_.size() &&
           static_cast<int64_t>(fetched_) - core_.dispatched() < hw_.instruction_buffer_entries;
  }

  // One round of completions, dispatch and starts at now_. True if anything changed.
  bool Settle() {
    bool changed = false;
    for (int engine = 0; engine < kEngines; ++engine) {
      if (core_.Running(engine) >= 0 && end_[engine] <= now_ && core_.Complete(engine, now_)) {
        end_[engine] = kNever;
        changed = true;
      }
    }
    if (DispatchTime() <= now_) {
      core_.Dispatch();
      dispatch_free_ = now_ + 1;
      changed = true;
    }
    for (int engine = 0; engine < kEngines; ++engine) {
      if (!core_.CanStart(engine)) continue;
      Begin(engine, core_.Start(engine, now_));
      changed = true;
    }
    return changed;
  }

  int64_t DispatchTime() const {
    return core_.CanDispatch() ? std::max(arrival_[core_.dispatched()], dispatch_free_) : kNever;
  }

  void Begin(int engine, int index) {
    Duration duration;
    try {
      duration = std::visit([&](const auto& ins) { return DurationOf(machine_, ins); },
                            core_.program().instructions[index]);
    } catch (const Fault& fault) {
      Fail("machine error: ", core_.program().Where(index), ": ", fault.what());
    }
    const int64_t working = now_ + duration.start_up;
    units_end_[engine] = working + duration.units;
    core_.trace().decode_bound[index] = duration.decode_bound;
    if (duration.transfers) {
      transfers_[engine + 1] = Transfer(duration.dram, hw_.dram_bytes_per_cycle, hw_.dram_burst_beats);
      request_[engine + 1] = working;
    } else {
      End(engine, index, units_end_[engine]);
    }
  }

  void End(int engine, int index, int64_t time) {
    end_[engine] = time;
    core_.trace().end[index] = time;
  }

  bool Requests(int requester) const {
    return requester == 0 ? FetchRequests() : request_[requester] <= now_ && !transfers_[requester].done();
  }

  // Gives the free channel to the next requester in turn.
  void Serve() {
    if (channel_free_ > now_) return;
    for (int i = 1; i <= kRequesters; ++i) {
      const int requester = (last_served_ + i) % kRequesters;
      if (!Requests(requester)) continue;
      last_served_ = requester;
      channel_free_ = now_ + transfers_[requester].TakeBurst();
      if (!transfers_[requester].done()) return;
      const int64_t arrived = channel_free_ + hw_.dram_latency_cycles;
      if (requester == 0) {
        arrival_[fetched_++] = arrived;
        BeginFetch();
        return;
      }
      const int engine = requester - 1, index = core_.Running(engine);
      request_[requester] = kNever;
      core_.trace().decode_bound[index] =
          engine == static_cast<int>(isa::Engine::Loadw) && units_end_[engine] > arrived;
      End(engine, index, std::max(arrived, units_end_[engine]));
      return;
    }
  }

  // To the next time at which something can happen.
  void Advance() {
    int64_t next = kNever;
    auto consider = [&](int64_t time) {
      if (time > now_) next = std::min(next, time);
    };
    bool waiting = FetchRequests();
    for (int engine = 0; engine < kEngines; ++engine) {
      consider(end_[engine]);
      if (request_[engine + 1] == kNever) continue;
      consider(request_[engine + 1]);
      waiting = true;
    }
    if (waiting) consider(channel_free_);
    consider(DispatchTime());
    if (next == kNever) core_.Deadlock();
    if (next > kLatest) Fail("machine error: the program takes more than 2^61 cycles");
    now_ = next;
  }

  Core core_;
  const Machine& machine_;
  const Config& hw_;
  int64_t program_addr_;
  int64_t now_ = 0;
  std::vector<int64_t> arrival_;  // of instructions at the dispatcher
  size_t fetched_ = 0;
  int64_t dispatch_free_ = 0;
  int64_t end_[kEngines], units_end_[kEngines] = {};
  Transfer transfers_[kRequesters];
  int64_t request_[kRequesters] = {kNever, kNever, kNever, kNever, kNever};
  int64_t channel_free_ = 0;
  int last_served_ = kRequesters - 1;  // so that instruction fetch is first
};

}  // namespace

Trace RunCycles(const Program& program, Machine& machine, int64_t program_addr) {
  return Clockwork(program, machine, program_addr).Run();
}

}  // namespace qaccel
