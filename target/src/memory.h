// DRAM, SRAM or weight buffer: bytes, and what the checks need to know about them.
#pragma once

#include <sys/mman.h>

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

struct Release {
  size_t mapped = 0;  // bytes, of what does not come from calloc
  void operator()(void* block) const { mapped > 0 ? static_cast<void>(munmap(block, mapped)) : std::free(block); }
};
template <typename T>
using Pages = std::unique_ptr<T[], Release>;

// Zeroed memory whose pages cost nothing before they are touched. calloc may give a block that was in use before and touch all of it.
// Small ones are the system's own pages; of large ones it would take longer to have the pages made again.
template <typename T>
Pages<T> Zeroed(int64_t count) {
  constexpr size_t kSmallBytes = size_t{1} << 17;
  const auto wanted = static_cast<size_t>(count > 0 ? count : 1);
  void* block = nullptr;
  const size_t mapped = wanted <= kSmallBytes / sizeof(T) ? wanted * sizeof(T) : 0;
  if (mapped > 0) {
    block = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
  } else {
    block = std::calloc(wanted, sizeof(T));
    if (block == nullptr) throw std::bad_alloc();
  }
  return Pages<T>(static_cast<T*>(block), Release{mapped});
}

// The instruction that accesses: its number on its engine (from 1 on), what happened before it, and what happened
// before everything that is still to come.
struct Actor {
  isa::Engine engine = isa::Engine::Load;
  uint32_t ordinal = 0;
  Clock clock{};
  Clock settled{};
};

class Memory {
 public:
  // `data` holds `size` bytes and outlives this.
  Memory(const char* name, uint8_t* data, int64_t size);

  const uint8_t* data() const { return data_; }
  uint8_t* data() { return data_; }
  int64_t size() const { return size_; }
  int64_t peak() const { return peak_; }         // highest byte touched + 1
  uint64_t version() const { return version_; }  // changes with every write

  // Before a program: bytes that hold data, and bytes that no instruction may write. Throws Fault if outside.
  void Define(int64_t begin, int64_t end);
  void Protect(int64_t begin, int64_t end);
  // Nothing is defined any more, and nothing has accessed anything.
  void Clear();
  // The first byte of [begin, end) that holds nothing, or `end`.
  int64_t FirstUndefined(int64_t begin, int64_t end) const;

  // One access of an instruction. Throws Fault if it leaves the memory, reads what nothing has written, writes what is
  // read-only, or races with an earlier access of another engine.
  void Read(const View& view, const Actor& actor);
  void Write(const View& view, const Actor& actor);
  // Only whether the view lies inside; `what` begins the error.
  void CheckInside(const View& view, const char* what) const;
  // Throws Fault if the view holds a byte that the same instruction has read.
  void CheckUnread(const View& view, const Actor& actor);

 private:
  struct Access {
    View view;
    int64_t end;
    uint32_t ordinal;
  };
  // What one engine reads, or writes. The latest accesses are kept as they are: those that an instruction is not
  // ordered with are few, and hardly ever near its own. Where the views do not tell whether bytes are shared, and where
  // too many accesses pile up, they are folded into one number for each byte: the last instruction that touched it.
  struct Accesses {
    std::vector<Access> recent;                // oldest first
    Pages<uint32_t> folded;     // ordinals by byte; absent before there are any
    uint32_t folded_last = 0;                  // the highest of them
  };

  bool DefinedThroughout(const View& view) const;
  void SetDefined(int64_t begin, int64_t end);
  bool Protected(const View& view) const;
  void CheckWritable(const View& view) const;
  void Record(Accesses& accesses, const View& view, int engine, const Actor& actor) const;
  // Forgets what happened before everything that is still to come.
  void DropSettled(Accesses& accesses, uint32_t settled) const;
  void Fold(Accesses& accesses) const;
  // Calls found(byte, ordinal) if one of the accesses after `known` touched a byte of the view: for the first byte,
  // with the last of these accesses. `found` throws.
  template <typename Found>
  void FindAfter(Accesses& accesses, uint32_t known, uint32_t settled, const View& view, Found found) const;
  void CheckOrdered(Accesses& accesses, int engine, const View& view, const Actor& actor, const char* now,
                    const char* earlier) const;

  const char* name_;
  uint8_t* data_;
  int64_t size_;
  int64_t peak_ = 0;
  uint64_t version_ = 1;
  Pages<uint64_t> defined_;   // a bit for each byte
  int64_t defined_end_ = 0;                    // all from here on are 0
  std::vector<std::pair<int64_t, int64_t>> read_only_;
  Accesses written_[kEngines], read_[kEngines];
};

}  // namespace qaccel
