#include "core.h"

#include <algorithm>

namespace qaccel {

Core::Core(const Program& program, Machine& machine) : program_(program), machine_(machine) {
  std::fill(std::begin(running_), std::end(running_), -1);
}

bool Core::CanDispatch() const {
  if (dispatched_ == static_cast<int>(program_.size())) return false;
  const int engine = static_cast<int>(program_.engine(dispatched_));
  return queued_[engine] - started_[engine] < machine_.hw.queue_entries;
}

bool Core::CanStart(int engine) const {
  if (running_[engine] >= 0 || queued_[engine] == started_[engine]) return false;
  for (const int64_t number : program_.common(Head(engine)).wait) {
    if (number != 0 && tokens_[number].empty()) return false;
  }
  return true;
}

int Core::Start(int engine, int64_t now) {
  const int index = Head(engine);
  const isa::Common& common = program_.common(index);
  ++started_[engine];
  running_[engine] = index;
  Clock& clock = clocks_[engine];
  if (!trace_.start.empty()) {
    trace_.start[index] = now;
    for (const int64_t number : common.wait) {
      if (number == 0 || tokens_[number].front().time < trace_.token_ready[index]) continue;
      trace_.token_ready[index] = tokens_[number].front().time;
      trace_.token_from[index] = producer_[number];
    }
  }
  for (const int64_t number : common.wait) {
    if (number == 0) continue;
    for (int e = 0; e < kEngines; ++e) clock[e] = std::max(clock[e], tokens_[number].front().clock[e]);
    tokens_[number].pop_front();
  }
  ++clock[engine];
  machine_.actor.engine = static_cast<isa::Engine>(engine);
  machine_.actor.ordinal = clock[engine];
  machine_.actor.clock = clock;
  machine_.actor.settled = Settled(engine);
  for (const int64_t number : common.signal) {
    if (number != 0) owed_[engine].push_back(number);
  }
  try {
    std::visit([&](const auto& ins) { Execute(machine_, ins); }, program_.instructions[index]);
  } catch (const Fault& fault) {
    Report(index, fault);
  }
  return index;
}

Clock Core::Settled(int starting) const {
  Clock settled = clocks_[starting];
  --settled[starting];  // not the instruction itself
  for (int other = 0; other < kEngines; ++other) {
    if (started_[other] == static_cast<int>(program_.on_engine[other].size())) continue;  // nothing more to come
    for (int e = 0; e < kEngines; ++e) settled[e] = std::min(settled[e], clocks_[other][e]);
  }
  return settled;
}

bool Core::Complete(int engine, int64_t now) {
  std::vector<int64_t>& owed = owed_[engine];
  const auto given = [&](int64_t number) {
    if (static_cast<int64_t>(tokens_[number].size()) >= isa::kSemaphoreMaximum) return false;
    tokens_[number].push_back({clocks_[engine], now});
    producer_[number] = engine;
    return true;
  };
  owed.erase(std::remove_if(owed.begin(), owed.end(), given), owed.end());
  if (!owed.empty()) return false;
  running_[engine] = -1;
  ++completed_;
  return true;
}

void Core::Report(int index, const Fault& fault) const {
  std::string other;
  if (fault.other_ordinal != 0) {
    const auto engine = static_cast<size_t>(fault.other_engine);
    const size_t position = fault.other_ordinal - 1;
    other = Text(" (", program_.Where(program_.on_engine[engine][position]), ")");
  }
  Fail("machine error: ", program_.Where(index), ": ", fault.what(), other);
}

std::string Core::Waiting(int engine) const {
  const char* name = isa::name(static_cast<isa::Engine>(engine));
  if (running_[engine] >= 0) {
    return Text(name, ": ", program_.Where(running_[engine]), " cannot signal semaphore ", owed_[engine].front(),
                ", which is full");
  }
  if (queued_[engine] == started_[engine]) return Text(name, ": nothing queued");
  std::string text = Text(name, ": ", program_.Where(Head(engine)), " waits for");
  const char* separator = " semaphore ";
  for (const int64_t number : program_.common(Head(engine)).wait) {
    if (number == 0 || !tokens_[number].empty()) continue;
    text += Text(separator, number);
    separator = " and ";
  }
  return text;
}

void Core::Deadlock() const {
  std::string text = "machine error: deadlock: ";
  for (int engine = 0; engine < kEngines; ++engine) text += (engine ? "; " : "") + Waiting(engine);
  Fail(text);
}

void Core::CheckEnd() {
  for (size_t number = 1; number < std::size(tokens_); ++number) {
    if (!tokens_[number].empty()) {
      Fail("machine error: the program ends with ", tokens_[number].size(), " tokens left in semaphore ", number);
    }
  }
  if (machine_.accumulators.open) {
    Fail("machine error: the program ends with open accumulators of ", isa::name(machine_.accumulators.shape.opcode));
  }
  trace_.peak_sram_bytes = machine_.sram.peak();
}

Trace RunFunctional(const Program& program, Machine& machine, const std::function<void(int)>& executed) {
  Core core(program, machine);
  while (!core.Done()) {
    bool progress = false;
    while (core.CanDispatch()) {
      core.Dispatch();
      progress = true;
    }
    for (int engine = 0; engine < kEngines; ++engine) {
      if (core.Running(engine) >= 0) progress |= core.Complete(engine, 0);
      while (core.CanStart(engine)) {
        const int index = core.Start(engine, 0);
        if (executed) executed(index);
        progress = true;
        core.Complete(engine, 0);
      }
    }
    if (!progress) core.Deadlock();
  }
  core.CheckEnd();
  return core.trace();
}

}  // namespace qaccel
