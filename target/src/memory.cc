#include "memory.h"

#include <algorithm>
#include <cstring>

namespace qaccel {

namespace {

constexpr int kBlockShift = 3;  // what most runs are a multiple of
constexpr int64_t kBlock = int64_t{1} << kBlockShift;

int64_t Blocks(int64_t bytes) { return (bytes + kBlock - 1) >> kBlockShift; }

// Whether any of the values is above the limit. A whole piece at a time, so that it vectorises.
QACCEL_CLONES bool AnyAbove(const uint32_t* values, int64_t count, uint32_t limit) {
  constexpr int64_t kPiece = 1024;
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = std::min(count, begin + kPiece);
    uint32_t above = 0;
    for (int64_t i = begin; i < end; ++i) above |= values[i] > limit;
    if (above) return true;
  }
  return false;
}

}  // namespace

Memory::Memory(const char* name, uint8_t* data, int64_t size, std::vector<isa::Engine> writers,
               std::vector<isa::Engine> readers)
    : name_(name), data_(data), size_(size), defined_(Zeroed<uint8_t>(size)), whole_(Zeroed<uint8_t>(Blocks(size))) {
  for (const isa::Engine engine : writers) Allocate(written_[static_cast<int>(engine)]);
  for (const isa::Engine engine : readers) Allocate(read_[static_cast<int>(engine)]);
}

void Memory::Allocate(Marks& marks) const {
  marks.ordinals = Zeroed<uint32_t>(size_);
  marks.highest = Zeroed<uint32_t>(Blocks(size_));
  marks.split = Zeroed<uint8_t>(Blocks(size_));
  marks.last = 0;
}

void Memory::Define(int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > size_)
    Fail("range ", begin, "..", end, " is outside ", name_, " of ", size_, " bytes");
  SetDefined(begin, end - begin);
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
  std::memset(whole_.get(), 0, static_cast<size_t>(Blocks(size_)));
  peak_ = 0;
  ++version_;
}

void Memory::ForgetAccesses() {
  for (Marks* all : {written_, read_}) {
    for (Marks* marks = all; marks != all + kEngines; ++marks) {
      if (marks->ordinals) Allocate(*marks);
    }
  }
}

int64_t Memory::FirstUndefined(int64_t begin, int64_t end) const {
  for (int64_t at = begin; at < end;) {
    const int64_t block = at >> kBlockShift, last = Blocks(end);
    const void* part = std::memchr(whole_.get() + block, 0, static_cast<size_t>(last - block));
    if (!part) return end;
    // The first block that is not known to be whole: its bytes, and if all of it is asked for, what follows from them.
    const int64_t open = static_cast<const uint8_t*>(part) - whole_.get(), first = open << kBlockShift;
    const int64_t from = std::max(at, first), stop = std::min(end, first + kBlock);
    const void* hole = std::memchr(defined_.get() + from, 0, static_cast<size_t>(stop - from));
    if (hole) return static_cast<const uint8_t*>(hole) - defined_.get();
    if (from == first && stop == first + kBlock) whole_[open] = 1;
    at = stop;
  }
  return end;
}

void Memory::SetDefined(int64_t begin, int64_t bytes) {
  const int64_t end = begin + bytes, first = Blocks(begin), last = end >> kBlockShift;
  if (first >= last) {
    std::memset(defined_.get() + begin, 1, static_cast<size_t>(bytes));
    return;
  }
  std::memset(defined_.get() + begin, 1, static_cast<size_t>((first << kBlockShift) - begin));
  std::memset(whole_.get() + first, 1, static_cast<size_t>(last - first));
  std::memset(defined_.get() + (last << kBlockShift), 1, static_cast<size_t>(end - (last << kBlockShift)));
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

void Memory::MarkPart(Marks& marks, int64_t begin, int64_t end, uint32_t ordinal) const {
  if (begin == end) return;
  const int64_t block = begin >> kBlockShift, first = block << kBlockShift;
  if (!marks.split[block]) {
    std::fill_n(marks.ordinals.get() + first, std::min(kBlock, size_ - first), marks.highest[block]);
    marks.split[block] = 1;
  }
  std::fill_n(marks.ordinals.get() + begin, end - begin, ordinal);
  marks.highest[block] = std::max(marks.highest[block], ordinal);
}

void Memory::Mark(Marks& marks, int64_t begin, int64_t bytes, uint32_t ordinal) const {
  marks.last = std::max(marks.last, ordinal);
  const int64_t end = begin + bytes, first = Blocks(begin), last = end >> kBlockShift;
  if (first > last) {  // within one block
    MarkPart(marks, begin, end, ordinal);
    return;
  }
  MarkPart(marks, begin, first << kBlockShift, ordinal);
  std::fill_n(marks.highest.get() + first, last - first, ordinal);
  std::memset(marks.split.get() + first, 0, static_cast<size_t>(last - first));
  MarkPart(marks, last << kBlockShift, end, ordinal);
}

bool Memory::MayBeAbove(const Marks& marks, int64_t begin, int64_t end, uint32_t limit) const {
  const int64_t first = begin >> kBlockShift;
  return begin < end && AnyAbove(marks.highest.get() + first, Blocks(end) - first, limit);
}

int64_t Memory::FirstAbove(const Marks& marks, int64_t begin, int64_t end, uint32_t limit) const {
  for (int64_t at = begin; at < end;) {
    const int64_t block = at >> kBlockShift, stop = std::min(end, (block + 1) << kBlockShift);
    if (marks.highest[block] > limit) {
      if (!marks.split[block]) return at;
      for (int64_t i = at; i < stop; ++i) {
        if (marks.ordinals[i] > limit) return i;
      }
    }
    at = stop;
  }
  return end;
}

void Memory::CheckOrdered(const Marks& marks, int engine, const View& view, const Actor& actor, const char* now,
                          const char* earlier) const {
  const uint32_t known = actor.clock[engine];
  if (!marks.ordinals || marks.last <= known || !MayBeAbove(marks, view.addr, view.End(), known)) return;
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    const int64_t at = FirstAbove(marks, begin, begin + bytes, known);
    if (at == begin + bytes) return;
    Fault race(
        Text("race: ", now, " byte ", at, " of ", name_, ", unordered with the instruction that ", earlier, " it"));
    race.other_engine = engine;
    const int64_t block = at >> kBlockShift;
    race.other_ordinal = marks.split[block] ? marks.ordinals[at] : marks.highest[block];
    throw race;
  });
}

void Memory::Read(const View& view, const Actor& actor) {
  CheckInside(view, "reads");
  peak_ = std::max(peak_, view.End());
  const int self = static_cast<int>(actor.engine);
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    const int64_t hole = FirstUndefined(begin, begin + bytes);
    if (hole < begin + bytes) Fail("reads byte ", hole, " of ", name_, ", which nothing has written");
  });
  // Protected bytes are never written, so there is nothing to race with.
  for (int engine = 0; engine < kEngines; ++engine) {
    if (engine != self) CheckOrdered(written_[engine], engine, view, actor, "reads", "writes");
  }
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    if (!Protected(begin, bytes)) Mark(read_[self], begin, bytes, actor.ordinal);
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
  });
  for (int engine = 0; engine < kEngines; ++engine) {
    if (engine == self) continue;
    CheckOrdered(written_[engine], engine, view, actor, "writes", "writes");
    CheckOrdered(read_[engine], engine, view, actor, "writes", "reads");
  }
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    SetDefined(begin, bytes);
    Mark(written_[self], begin, bytes, actor.ordinal);
  });
}

void Memory::CheckUnread(const View& view, const Actor& actor) const {
  const Marks& marks = read_[static_cast<int>(actor.engine)];
  if (marks.last < actor.ordinal || !MayBeAbove(marks, view.addr, view.End(), actor.ordinal - 1)) return;
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    const int64_t at = FirstAbove(marks, begin, begin + bytes, actor.ordinal - 1);
    if (at < begin + bytes) Fail("writes byte ", at, " of ", name_, ", which it reads as well");
  });
}

}  // namespace qaccel
