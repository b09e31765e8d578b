#include "memory.h"

#include <algorithm>
#include <cstring>

namespace qaccel {

namespace {

// Whether any of the values is above the limit. A whole block at a time, so that it vectorises.
QACCEL_CLONES bool AnyAbove(const uint32_t* values, int64_t count, uint32_t limit) {
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    uint32_t above = 0;
    for (int64_t i = begin; i < end; ++i) above |= values[i] > limit;
    if (above) return true;
  }
  return false;
}

}  // namespace

Memory::Memory(const char* name, uint8_t* data, int64_t size, std::vector<isa::Engine> writers,
               std::vector<isa::Engine> readers)
    : name_(name), data_(data), size_(size), defined_(Zeroed<uint8_t>(size)) {
  for (const isa::Engine engine : writers) written_[static_cast<int>(engine)].ordinals = Zeroed<uint32_t>(size);
  for (const isa::Engine engine : readers) read_[static_cast<int>(engine)].ordinals = Zeroed<uint32_t>(size);
}

void Memory::Define(int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > size_)
    Fail("range ", begin, "..", end, " is outside ", name_, " of ", size_, " bytes");
  std::memset(defined_.get() + begin, 1, static_cast<size_t>(end - begin));
}

void Memory::Protect(int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > size_)
    Fail("range ", begin, "..", end, " is outside ", name_, " of ", size_, " bytes");
  if (begin < end) read_only_.emplace_back(begin, end);
}

void Memory::Clear() {
  constexpr int64_t kLarge = int64_t{1} << 26;  // beyond, new pages are cheaper than touching all of the old ones
  if (size_ > kLarge) {
    defined_ = Zeroed<uint8_t>(size_);
  } else {
    std::memset(defined_.get(), 0, static_cast<size_t>(size_));
  }
  peak_ = 0;
  ++version_;
}

void Memory::ForgetAccesses() {
  for (Marks* all : {written_, read_}) {
    for (Marks* marks = all; marks != all + kEngines; ++marks) {
      if (marks->ordinals) marks->ordinals = Zeroed<uint32_t>(size_);
      marks->last = 0;
    }
  }
}

int64_t Memory::FirstUndefined(int64_t begin, int64_t end) const {
  const void* hole = begin < end ? std::memchr(defined_.get() + begin, 0, static_cast<size_t>(end - begin)) : nullptr;
  return hole ? static_cast<const uint8_t*>(hole) - defined_.get() : end;
}

void Memory::CheckInside(const View& view, const char* what) const {
  if (view.addr < 0 || view.End() > size_) {
    Fail(what, " bytes ", view.addr, "..", view.End() - 1, " of ", name_, ", which has ", size_);
  }
}

bool Memory::Protected(int64_t begin, int64_t bytes) const {
  for (const auto& [first, last] : read_only_) {
    if (begin >= first && begin + bytes <= last) return true;
  }
  return false;
}

void Memory::Mark(Marks& marks, int64_t begin, int64_t bytes, uint32_t ordinal) {
  std::fill_n(marks.ordinals.get() + begin, bytes, ordinal);
  marks.last = std::max(marks.last, ordinal);
}

void Memory::CheckOrdered(const Marks& marks, int engine, int64_t begin, int64_t bytes, const Actor& actor,
                          const char* now, const char* earlier) const {
  const uint32_t known = actor.clock[engine];
  if (marks.last <= known || !AnyAbove(marks.ordinals.get() + begin, bytes, known)) return;
  int64_t at = begin;
  while (marks.ordinals[at] <= known) ++at;
  Fault race(
      Text("race: ", now, " byte ", at, " of ", name_, ", unordered with the instruction that ", earlier, " it"));
  race.other_engine = engine;
  race.other_ordinal = marks.ordinals[at];
  throw race;
}

void Memory::Read(const View& view, const Actor& actor) {
  CheckInside(view, "reads");
  peak_ = std::max(peak_, view.End());
  const int self = static_cast<int>(actor.engine);
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    const int64_t hole = FirstUndefined(begin, begin + bytes);
    if (hole < begin + bytes) Fail("reads byte ", hole, " of ", name_, ", which nothing has written");
    if (Protected(begin, bytes)) return;  // never written, so there is nothing to race with
    for (int engine = 0; engine < kEngines; ++engine) {
      if (engine != self && written_[engine].ordinals)
        CheckOrdered(written_[engine], engine, begin, bytes, actor, "reads", "writes");
    }
    Mark(read_[self], begin, bytes, actor.ordinal);
  });
}

void Memory::Write(const View& view, const Actor& actor) {
  CheckInside(view, "writes");
  peak_ = std::max(peak_, view.End());
  ++version_;
  const int self = static_cast<int>(actor.engine);
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    for (const auto& [first, last] : read_only_) {
      if (begin < last && first < begin + bytes) {
        Fail("writes byte ", std::max(begin, first), " of ", name_, ", which is read-only (", first, "..", last - 1,
             ")");
      }
    }
    for (int engine = 0; engine < kEngines; ++engine) {
      if (engine == self) continue;
      if (written_[engine].ordinals) CheckOrdered(written_[engine], engine, begin, bytes, actor, "writes", "writes");
      if (read_[engine].ordinals) CheckOrdered(read_[engine], engine, begin, bytes, actor, "writes", "reads");
    }
    std::memset(defined_.get() + begin, 1, static_cast<size_t>(bytes));
    Mark(written_[self], begin, bytes, actor.ordinal);
  });
}

void Memory::CheckUnread(const View& view, const Actor& actor) const {
  const Marks& marks = read_[static_cast<int>(actor.engine)];
  if (marks.last < actor.ordinal) return;
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    if (!AnyAbove(marks.ordinals.get() + begin, bytes, actor.ordinal - 1)) return;
    int64_t at = begin;
    while (marks.ordinals[at] < actor.ordinal) ++at;
    Fail("writes byte ", at, " of ", name_, ", which it reads as well");
  });
}

}  // namespace qaccel
