// Queues, engines and semaphores: what functional and cycle mode share. The modes differ only in when they call these.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "machine.h"
#include "program.h"

namespace qaccel {

// What a finished run leaves. Times are empty in functional mode.
struct Trace {
  std::vector<int64_t> start, end;   // cycles, by instruction
  std::vector<int64_t> token_ready;  // by instruction: when the last token that it waited for was given
  std::vector<int> token_from;       // by instruction: engine that gave this token, -1 without one
  std::vector<bool> decode_bound;    // by instruction: LOADW that took longer to decode than to fetch
  int64_t peak_sram_bytes = 0;

  int64_t Cycles() const { return end.empty() ? 0 : *std::max_element(end.begin(), end.end()); }
};

class Core {
 public:
  Core(const Program& program, Machine& machine);

  const Program& program() const { return program_; }
  Machine& machine() { return machine_; }
  Trace& trace() { return trace_; }

  // The dispatcher. It has put instructions 0 to dispatched() - 1 into queues.
  int dispatched() const { return dispatched_; }
  bool CanDispatch() const;
  void Dispatch() { ++queued_[static_cast<int>(program_.engine(dispatched_++))]; }

  // The engines. Running() is the instruction that an engine executes, or -1.
  int Running(int engine) const { return running_[engine]; }
  bool CanStart(int engine) const;
  // Takes the tokens and executes the head of the queue. Returns its index. Throws Fault, complete, where it is an
  // error.
  int Start(int engine, int64_t now);
  // Gives the tokens of the running instruction, as far as they find room. True if the engine is idle afterwards.
  bool Complete(int engine, int64_t now);

  bool Done() const { return completed_ == static_cast<int>(program_.size()); }
  // Throws the error of a state in which nothing can progress.
  [[noreturn]] void Deadlock() const;
  // Throws Fault if tokens or accumulators are left over after the last instruction.
  void CheckEnd();

 private:
  struct Token {
    Clock clock;
    int64_t time;
  };

  int Head(int engine) const { return program_.on_engine[engine][static_cast<size_t>(started_[engine])]; }
  // What happened before the instruction that starts and before everything that starts later.
  Clock Settled(int starting) const;
  std::string Waiting(int engine) const;
  [[noreturn]] void Report(int index, const Fault& fault) const;

  const Program& program_;
  Machine& machine_;
  Trace trace_;
  int dispatched_ = 0, completed_ = 0;
  int queued_[kEngines] = {}, started_[kEngines] = {};  // instructions ever
  int running_[kEngines];
  std::vector<int64_t> owed_[kEngines];  // semaphores that the running instruction still has to signal
  Clock clocks_[kEngines] = {};
  std::deque<Token> tokens_[isa::kSemaphoreCount + 1];
  int producer_[isa::kSemaphoreCount + 1] = {};
};

// Runs a program to its end. Throws Fault, complete with "machine error: instruction ...", on every error of the
// manual. `executed` is called after each instruction, with its index.
Trace RunFunctional(const Program& program, Machine& machine, const std::function<void(int)>& executed = nullptr);
Trace RunCycles(const Program& program, Machine& machine, int64_t program_addr);

}  // namespace qaccel
