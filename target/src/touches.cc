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

// Marks of a memory's granules. A block of granules that have one mark is kept as that mark, so that a long run costs one entry for
// each of its blocks; kMixed stands for a block whose granules have marks of their own. calloc: of a large DRAM only what is touched
// takes memory.
class Marks {
 public:
  explicit Marks(int64_t granules) : blocks_(Zeros(Blocks(granules))), granules_(Zeros(Blocks(granules) * kBlock)) {}

  // Gives `count` granules from `begin` a mark.
  void Fill(int64_t begin, int64_t count, int32_t mark) {
    EachPart(begin, count, [&](int64_t block, int64_t from, int64_t to) {
      if (to - from == kBlock) {
        blocks_[block] = mark;
        return;
      }
      const int32_t all = blocks_[block];
      if (all == mark) return;
      if (all != kMixed) std::fill_n(At(block), kBlock, all);
      blocks_[block] = kMixed;
      std::fill(At(block) + from, At(block) + to, mark);
    });
  }

  // Calls visit(mark) for every granule of them, once or oftener for neighbours of one mark.
  template <typename Visit>
  void Each(int64_t begin, int64_t count, const Visit& visit) const {
    EachPart(begin, count, [&](int64_t block, int64_t from, int64_t to) {
      if (blocks_[block] != kMixed) return visit(blocks_[block]);
      for (int64_t k = from; k < to; ++k) visit(At(block)[k]);
    });
  }

 private:
  static constexpr int64_t kBlock = 64;
  static constexpr int32_t kMixed = -1;  // marks are not negative

  static int64_t Blocks(int64_t granules) { return granules / kBlock + 1; }
  static std::unique_ptr<int32_t[], Free> Zeros(int64_t count) {
    std::unique_ptr<int32_t[], Free> data(static_cast<int32_t*>(std::calloc(static_cast<size_t>(count), 4)));
    if (!data) throw std::bad_alloc();
    return data;
  }

  int32_t* At(int64_t block) const { return granules_.get() + block * kBlock; }

  // Calls visit(block, from, to) for the granules of each block that lie in a run.
  template <typename Visit>
  static void EachPart(int64_t begin, int64_t count, const Visit& visit) {
    for (const int64_t end = begin + count; begin < end;) {
      const int64_t from = begin % kBlock, to = std::min(kBlock, from + end - begin);
      visit(begin / kBlock, from, to);
      begin += to - from;
    }
  }

  std::unique_ptr<int32_t[], Free> blocks_, granules_;
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

// Calls visit(first granule, granules) for every run; granules are of 1 << shift bytes.
template <typename Visit>
void EachRun(const TouchedBox& box, int shift, const Visit& visit) {
  for (int64_t r = 0; r < box.rows; ++r) {
    for (int64_t p = 0; p < box.pixels; ++p) {
      const int64_t begin = box.start + r * box.row_stride + p * box.pixel_stride;
      visit(begin >> shift, ((begin + box.run_bytes - 1) >> shift) - (begin >> shift) + 1);
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
  if (granule_bytes < 1 || (granule_bytes & (granule_bytes - 1))) Fail("granules of ", granule_bytes, " bytes");
  const int shift = __builtin_ctzll(static_cast<unsigned long long>(granule_bytes));
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
      Memory& memory = memories[static_cast<size_t>(box.memory)];
      Marks& target = box.write ? memory.writer : memory.readers[static_cast<size_t>(box.engine)];
      EachRun(box, shift,
              [&](int64_t begin, int64_t granules) { target.Fill(begin, granules, static_cast<int32_t>(box.mark)); });
    };
    for (const TouchedBox& box : merged) {
      if (!box.write && !box.in_place) record(box);
    }
    for (int64_t i = first; i < end; ++i) {
      const TouchedBox& box = merged[static_cast<size_t>(i - first)];
      const Memory& memory = memories[static_cast<size_t>(box.memory)];
      marks.clear();
      EachRun(box, shift, [&](int64_t begin, int64_t granules) {
        memory.writer.Each(begin, granules, [&](int32_t mark) {
          if (marks.empty() || marks.back() != mark) marks.push_back(mark);
        });
      });
      std::sort(marks.begin(), marks.end());
      marks.erase(std::unique(marks.begin(), marks.end()), marks.end());
      found.writers.insert(found.writers.end(), marks.begin(), marks.end());
      found.writer_ends.push_back(static_cast<int64_t>(found.writers.size()));
      if (!box.write) continue;
      for (int64_t engine = 0; engine < engines; ++engine) {
        if (!memory.read[static_cast<size_t>(engine)]) continue;
        int32_t greatest = 0;
        EachRun(box, shift, [&](int64_t begin, int64_t granules) {
          memory.readers[static_cast<size_t>(engine)].Each(
              begin, granules, [&](int32_t mark) { greatest = std::max(greatest, mark); });
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
