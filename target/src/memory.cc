#include "memory.h"

#include <algorithm>
#include <cstring>

namespace qaccel {

namespace {

constexpr int64_t kWord = 64;
constexpr uint64_t kAll = ~uint64_t{0};
constexpr size_t kRecentMax = 4096;

int64_t Words(int64_t bits) { return (bits + kWord - 1) / kWord; }

// The bits [begin, end) of word `index`, of which there is at least one.
uint64_t Mask(int64_t index, int64_t begin, int64_t end) {
  const int64_t from = std::max<int64_t>(0, begin - index * kWord), to = std::min(kWord, end - index * kWord);
  return kAll >> (kWord - (to - from)) << from;
}

// The first of the words [begin, end) that is not all ones, or `end`. A whole piece at a time, so that it vectorises.
QACCEL_CLONES int64_t FirstOpenWord(const uint64_t* words, int64_t begin, int64_t end) {
  constexpr int64_t kPiece = 64;
  for (; begin + kPiece <= end; begin += kPiece) {
    uint64_t every = kAll;
    for (int64_t i = begin; i < begin + kPiece; ++i) every &= words[i];
    if (every != kAll) break;
  }
  while (begin < end && words[begin] == kAll) ++begin;
  return begin;
}

// Whether any of the values is above the limit. Without an exit, so that it vectorises: runs are short.
QACCEL_CLONES bool AnyAbove(const uint32_t* values, int64_t count, uint32_t limit) {
  uint32_t above = 0;
  for (int64_t i = 0; i < count; ++i) above |= values[i] > limit;
  return above;
}

}  // namespace

Memory::Memory(const char* name, uint8_t* data, int64_t size)
    : name_(name), data_(data), size_(size), defined_(Zeroed<uint64_t>(Words(size))) {}

void Memory::Define(int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > size_)
    Fail("range ", begin, "..", end, " is outside ", name_, " of ", size_, " bytes");
  SetDefined(begin, end);
}

void Memory::Protect(int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > size_)
    Fail("range ", begin, "..", end, " is outside ", name_, " of ", size_, " bytes");
  if (begin < end) read_only_.emplace_back(begin, end);
}

void Memory::Clear() {
  constexpr int64_t kLarge = int64_t{1} << 26;  // beyond, new pages are cheaper than touching all of the old ones
  if (defined_end_ > kLarge) {
    defined_ = Zeroed<uint64_t>(Words(size_));
  } else {
    std::memset(defined_.get(), 0, static_cast<size_t>(Words(defined_end_)) * sizeof(uint64_t));
  }
  defined_end_ = 0;
  for (Accesses* all : {written_, read_}) {
    for (Accesses* accesses = all; accesses != all + kEngines; ++accesses) {
      accesses->recent.clear();
      accesses->folded.reset();
      accesses->folded_last = 0;
    }
  }
  peak_ = 0;
  ++version_;
}

int64_t Memory::FirstUndefined(int64_t begin, int64_t end) const {
  const uint64_t* words = defined_.get();
  const int64_t last = Words(end);
  for (int64_t index = begin / kWord; index < last; ++index) {
    const uint64_t holes = ~words[index] & Mask(index, begin, end);
    if (holes) return index * kWord + __builtin_ctzll(holes);
    index = FirstOpenWord(words, index + 1, last) - 1;
  }
  return end;
}

void Memory::SetDefined(int64_t begin, int64_t end) {
  if (begin == end) return;
  defined_end_ = std::max(defined_end_, end);
  uint64_t* words = defined_.get();
  const int64_t first = begin / kWord, last = (end - 1) / kWord;
  words[first] |= Mask(first, begin, end);
  if (first == last) return;
  std::fill(words + first + 1, words + last, kAll);
  words[last] |= Mask(last, begin, end);
}

// Whether every byte from the first to the last of the view is defined, gaps included; false where the gaps are too
// wide to look.
bool Memory::DefinedThroughout(const View& view) const {
  const int64_t end = view.End();
  return (end - view.addr) / kWord <= 4 * view.rows * view.pixels && FirstUndefined(view.addr, end) == end;
}

void Memory::CheckInside(const View& view, const char* what) const {
  if (view.addr < 0 || view.End() > size_) {
    Fail(what, " bytes ", view.addr, "..", view.End() - 1, " of ", name_, ", which has ", size_);
  }
}

bool Memory::Protected(const View& view) const {
  for (const auto& [first, last] : read_only_) {
    if (view.addr >= first && view.End() <= last) return true;
  }
  return false;
}

void Memory::CheckWritable(const View& view) const {
  bool near = false;
  for (const auto& [first, last] : read_only_) near |= view.addr < last && first < view.End();
  if (!near) return;
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    for (const auto& [first, last] : read_only_) {
      if (begin < last && first < begin + bytes) {
        Fail("writes byte ", std::max(begin, first), " of ", name_, ", which is read-only (", first, "..", last - 1,
             ")");
      }
    }
  });
}

void Memory::DropSettled(Accesses& accesses, uint32_t settled) const {
  std::vector<Access>& recent = accesses.recent;
  recent.erase(recent.begin(), std::find_if(recent.begin(), recent.end(),
                                            [&](const Access& access) { return access.ordinal > settled; }));
}

void Memory::Fold(Accesses& accesses) const {
  if (!accesses.folded) accesses.folded = Zeroed<uint32_t>(size_);
  for (const Access& access : accesses.recent) {
    ForEachRun(access.view, [&](int64_t begin, int64_t bytes) {
      std::fill_n(accesses.folded.get() + begin, bytes, access.ordinal);
    });
    accesses.folded_last = access.ordinal;
  }
  accesses.recent.clear();
}

void Memory::Record(Accesses& accesses, const View& view, int engine, const Actor& actor) const {
  if (accesses.recent.size() >= kRecentMax) {
    DropSettled(accesses, actor.settled[engine]);
    if (accesses.recent.size() > kRecentMax / 2) Fold(accesses);
  }
  accesses.recent.push_back({view, view.End(), actor.ordinal});
}

template <typename Found>
void Memory::FindAfter(Accesses& accesses, uint32_t known, uint32_t settled, const View& view, Found found) const {
  const int64_t end = view.End();
  for (size_t i = accesses.recent.size(); i > 0; --i) {
    const Access& access = accesses.recent[i - 1];
    if (access.ordinal <= known) break;
    if (access.view.addr < end && view.addr < access.end && MayOverlap(access.view, view)) {
      DropSettled(accesses, settled);
      Fold(accesses);
      break;
    }
  }
  if (accesses.folded_last <= known) return;
  const uint32_t* folded = accesses.folded.get();
  ForEachRun(view, [&](int64_t begin, int64_t bytes) {
    if (!AnyAbove(folded + begin, bytes, known)) return;
    const uint32_t* at = std::find_if(folded + begin, folded + begin + bytes, [&](uint32_t n) { return n > known; });
    found(at - folded, *at);
  });
}

void Memory::CheckOrdered(Accesses& accesses, int engine, const View& view, const Actor& actor, const char* now,
                          const char* earlier) const {
  FindAfter(accesses, actor.clock[engine], actor.settled[engine], view, [&](int64_t at, uint32_t ordinal) {
    Fault race(
        Text("race: ", now, " byte ", at, " of ", name_, ", unordered with the instruction that ", earlier, " it"));
    race.other_engine = engine;
    race.other_ordinal = ordinal;
    throw race;
  });
}

void Memory::Read(const View& view, const Actor& actor) {
  CheckInside(view, "reads");
  peak_ = std::max(peak_, view.End());
  if (!DefinedThroughout(view)) {
    ForEachRun(view, [&](int64_t begin, int64_t bytes) {
      const int64_t hole = FirstUndefined(begin, begin + bytes);
      if (hole < begin + bytes) Fail("reads byte ", hole, " of ", name_, ", which nothing has written");
    });
  }
  if (Protected(view)) return;  // never written, so there is nothing to race with
  const int self = static_cast<int>(actor.engine);
  for (int engine = 0; engine < kEngines; ++engine) {
    if (engine != self) CheckOrdered(written_[engine], engine, view, actor, "reads", "writes");
  }
  Record(read_[self], view, self, actor);
}

void Memory::Write(const View& view, const Actor& actor) {
  CheckInside(view, "writes");
  peak_ = std::max(peak_, view.End());
  ++version_;
  CheckWritable(view);
  const int self = static_cast<int>(actor.engine);
  for (int engine = 0; engine < kEngines; ++engine) {
    if (engine == self) continue;
    CheckOrdered(written_[engine], engine, view, actor, "writes", "writes");
    CheckOrdered(read_[engine], engine, view, actor, "writes", "reads");
  }
  if (!DefinedThroughout(view)) {
    ForEachRun(view, [&](int64_t begin, int64_t bytes) { SetDefined(begin, begin + bytes); });
  }
  Record(written_[self], view, self, actor);
}

void Memory::CheckUnread(const View& view, const Actor& actor) {
  const int self = static_cast<int>(actor.engine);
  FindAfter(read_[self], actor.ordinal - 1, actor.settled[self], view, [&](int64_t at, uint32_t) {
    Fail("writes byte ", at, " of ", name_, ", which it reads as well");
  });
}

}  // namespace qaccel
