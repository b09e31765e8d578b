#include "touches.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "common.h"

namespace qaccel {

namespace {

struct Free {
  void operator()(int32_t* data) const { std::free(data); }
};

// Marks by granule. calloc: of a large DRAM only what is touched takes memory.
class Marks {
 public:
  explicit Marks(int64_t granules)
      : data_(static_cast<int32_t*>(std::calloc(static_cast<size_t>(std::max<int64_t>(granules, 1)), 4))) {
    if (!data_) throw std::bad_alloc();
  }
  int32_t* At(int64_t granule) const { return data_.get() + granule; }

 private:
  std::unique_ptr<int32_t, Free> data_;
};

struct Memory {
  Memory(int64_t granules, int64_t engines) : writer(granules) {
    for (int64_t engine = 0; engine < engines; ++engine) readers.emplace_back(granules);
    read.resize(readers.size());
  }
  Marks writer;
  std::vector<Marks> readers;
  std::vector<bool> read;  // by engine: whether it reads anything of this memory
};

// The same bytes in fewer, longer runs where neighbours touch or overlap.
TouchedBox Merged(TouchedBox box) {
  if (box.pixel_stride <= box.run_bytes) {
    box.run_bytes += (box.pixels - 1) * box.pixel_stride;
    box.pixels = 1;
  }
  if (box.pixels == 1 && box.row_stride <= box.run_bytes) {
    box.run_bytes += (box.rows - 1) * box.row_stride;
    box.rows = 1;
  }
  return box;
}

// Marks that are compared at once: a loop of fixed length, without a way out of it, becomes vector instructions.
constexpr int64_t kBlock = 32;

bool Uniform(const int32_t* at, int32_t mark) {
  int32_t other = 0;
  for (int64_t k = 0; k < kBlock; ++k) other |= at[k] ^ mark;
  return other == 0;
}

// Calls visit(first granule, granules) for every run.
template <typename Visit>
void EachRun(const TouchedBox& box, int64_t granule, const Visit& visit) {
  for (int64_t r = 0; r < box.rows; ++r) {
    for (int64_t p = 0; p < box.pixels; ++p) {
      const int64_t begin = box.start + r * box.row_stride + p * box.pixel_stride;
      visit(begin / granule, (begin + box.run_bytes - 1) / granule - begin / granule + 1);
    }
  }
}

// Sizes and strides that cannot overflow, and the end within the memory.
bool Fits(const TouchedBox& box, int64_t size_bytes) {
  constexpr int64_t kMost = int64_t{1} << 31;
  for (int64_t value : {box.rows, box.pixels, box.run_bytes}) {
    if (value < 1 || value > kMost) return false;
  }
  for (int64_t value : {box.start, box.row_stride, box.pixel_stride}) {
    if (value < 0 || value > 2 * kMost) return false;
  }
  const int64_t row_bytes = (box.pixels - 1) * box.pixel_stride;
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max() / 4;
  if (box.pixel_stride && box.pixels - 1 > kLargest / box.pixel_stride) return false;
  if (box.row_stride && box.rows - 1 > kLargest / box.row_stride) return false;
  return box.start + (box.rows - 1) * box.row_stride + row_bytes + box.run_bytes <= size_bytes;
}

}  // namespace

LastTouches FindLastTouches(const TouchedBox* boxes, int64_t count, const std::vector<int64_t>& sizes, int64_t engines,
                            int64_t granule_bytes) {
  std::vector<Memory> memories;
  for (int64_t size : sizes) memories.emplace_back((size + granule_bytes - 1) / granule_bytes, engines);
  for (int64_t i = 0; i < count; ++i) {
    const TouchedBox& box = boxes[i];
    const bool known = box.memory >= 0 && box.memory < static_cast<int64_t>(sizes.size());
    if (!known || box.engine < 0 || box.engine >= engines || box.mark < 1 ||
        box.mark > std::numeric_limits<int32_t>::max() || !Fits(box, sizes[static_cast<size_t>(box.memory)])) {
      Fail("access ", i, " lies outside of its memory");
    }
    if (!box.write) memories[static_cast<size_t>(box.memory)].read[static_cast<size_t>(box.engine)] = true;
  }
  LastTouches found;
  found.writer_ends.reserve(static_cast<size_t>(count));
  found.readers.resize(static_cast<size_t>(count * engines));
  std::vector<TouchedBox> merged;
  std::vector<int32_t> marks;
  for (int64_t first = 0; first < count;) {
    int64_t end = first;
    merged.clear();
    while (end < count && boxes[end].mark == boxes[first].mark) merged.push_back(Merged(boxes[end++]));
    auto record = [&](const TouchedBox& box) {
      const Memory& memory = memories[static_cast<size_t>(box.memory)];
      const Marks& target = box.write ? memory.writer : memory.readers[static_cast<size_t>(box.engine)];
      EachRun(box, granule_bytes, [&](int64_t begin, int64_t granules) {
        std::fill_n(target.At(begin), granules, static_cast<int32_t>(box.mark));
      });
    };
    for (const TouchedBox& box : merged) {
      if (!box.write && !box.in_place) record(box);
    }
    for (int64_t i = first; i < end; ++i) {
      const TouchedBox& box = merged[static_cast<size_t>(i - first)];
      const Memory& memory = memories[static_cast<size_t>(box.memory)];
      marks.clear();
      EachRun(box, granule_bytes, [&](int64_t begin, int64_t granules) {
        const int32_t* at = memory.writer.At(begin);
        for (int64_t k = 0; k < granules;) {
          const int32_t mark = at[k];
          if (marks.empty() || marks.back() != mark) marks.push_back(mark);
          while (k + kBlock <= granules && Uniform(at + k, mark)) k += kBlock;
          while (k < granules && at[k] == mark) ++k;
        }
      });
      std::sort(marks.begin(), marks.end());
      marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
      found.writers.insert(found.writers.end(), marks.begin(), marks.end());
      found.writer_ends.push_back(static_cast<int64_t>(found.writers.size()));
      if (!box.write) continue;
      for (int64_t engine = 0; engine < engines; ++engine) {
        if (!memory.read[static_cast<size_t>(engine)]) continue;
        int32_t greatest = 0;
        EachRun(box, granule_bytes, [&](int64_t begin, int64_t granules) {
          const int32_t* at = memory.readers[static_cast<size_t>(engine)].At(begin);
          for (int64_t k = 0; k < granules; ++k) greatest = std::max(greatest, at[k]);
        });
        found.readers[static_cast<size_t>(i * engines + engine)] = greatest;
      }
    }
    for (const TouchedBox& box : merged) {
      if (box.write || box.in_place) record(box);
    }
    first = end;
  }
  return found;
}

}  // namespace qaccel
