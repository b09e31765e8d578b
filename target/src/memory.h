// DRAM, SRAM or weight buffer: bytes, and for each byte what the checks need to know about it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "common.h"
#include "view.h"

namespace qaccel {

struct Free {
  void operator()(void* block) const { std::free(block); }
};

// Zeroed memory whose pages cost nothing before they are touched.
template <typename T>
std::unique_ptr<T[], Free> Zeroed(int64_t count) {
  void* block = std::calloc(static_cast<size_t>(count > 0 ? count : 1), sizeof(T));
  if (!block) throw std::bad_alloc();
  return std::unique_ptr<T[], Free>(static_cast<T*>(block));
}

// The instruction that accesses: its number on its engine (from 1 on), and what happened before it.
struct Actor {
  isa::Engine engine = isa::Engine::Load;
  uint32_t ordinal = 0;
  Clock clock{};
};

class Memory {
 public:
  // `data` holds `size` bytes and outlives this.
  Memory(const char* name, uint8_t* data, int64_t size, std::vector<isa::Engine> writers,
         std::vector<isa::Engine> readers);

  const uint8_t* data() const { return data_; }
  uint8_t* data() { return data_; }
  int64_t size() const { return size_; }
  int64_t peak() const { return peak_; }         // highest byte touched + 1
  uint64_t version() const { return version_; }  // changes with every write

  // Before a program: bytes that hold data, and bytes that no instruction may write. Throws Fault if outside.
  void Define(int64_t begin, int64_t end);
  void Protect(int64_t begin, int64_t end);
  // Nothing is defined any more. Who accessed what is forgotten with `ForgetAccesses` only.
  void Clear();
  void ForgetAccesses();
  // The first byte of [begin, end) that holds nothing, or `end`.
  int64_t FirstUndefined(int64_t begin, int64_t end) const;

  // One access of an instruction. Throws Fault if it leaves the memory, reads what nothing has written, writes what is
  // read-only, or races with an earlier access of another engine.
  void Read(const View& view, const Actor& actor);
  void Write(const View& view, const Actor& actor);
  // Only whether the view lies inside; `what` begins the error.
  void CheckInside(const View& view, const char* what) const;
  // Throws Fault if the view holds a byte that the same instruction has read.
  void CheckUnread(const View& view, const Actor& actor) const;

 private:
  // Who touched each byte last, one per engine; absent where an engine never does. Blocks that one instruction touched as a
  // whole hold its ordinal once, their bytes are filled in when something touches a part.
  struct Marks {
    std::unique_ptr<uint32_t[], Free> ordinals;  // by byte, of the blocks that are split
    std::unique_ptr<uint32_t[], Free> highest;   // by block: no byte of it has a higher one
    std::unique_ptr<uint8_t[], Free> split;      // by block
    uint32_t last = 0;                           // highest of all
  };

  void Allocate(Marks& marks) const;
  bool MayBeAbove(const Marks& marks, int64_t begin, int64_t end, uint32_t limit) const;
  int64_t FirstAbove(const Marks& marks, int64_t begin, int64_t end, uint32_t limit) const;
  void CheckOrdered(const Marks& marks, int engine, const View& view, const Actor& actor, const char* now,
                    const char* earlier) const;
  void SetDefined(int64_t begin, int64_t bytes);
  bool Protected(int64_t begin, int64_t bytes) const;
  void Mark(Marks& marks, int64_t begin, int64_t bytes, uint32_t ordinal) const;
  void MarkPart(Marks& marks, int64_t begin, int64_t end, uint32_t ordinal) const;

  const char* name_;
  uint8_t* data_;
  int64_t size_;
  int64_t peak_ = 0;
  uint64_t version_ = 1;
  std::unique_ptr<uint8_t[], Free> defined_;        // by byte, of the blocks that are not
  mutable std::unique_ptr<uint8_t[], Free> whole_;  // by block: all of its bytes are known to be defined
  std::vector<std::pair<int64_t, int64_t>> read_only_;
  Marks written_[kEngines], read_[kEngines];
};

}  // namespace qaccel
