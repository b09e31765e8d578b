// Rows of pixels of bytes in one memory: what an instruction reads or writes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace qaccel {

struct View {
  int64_t addr;
  int64_t rows, row_stride;
  int64_t pixels, pixel_stride;
  int64_t bytes;  // of one pixel

  int64_t End() const { return addr + (rows - 1) * row_stride + (pixels - 1) * pixel_stride + bytes; }
  int64_t Pixel(int64_t row, int64_t pixel) const { return addr + row * row_stride + pixel * pixel_stride; }
  bool Dense() const { return pixel_stride == bytes || pixels == 1; }  // every row is one run
};

inline View Flat(int64_t addr, int64_t bytes) { return {addr, 1, 0, 1, 0, bytes}; }

inline bool SameView(const View& a, const View& b) {
  return a.addr == b.addr && a.rows == b.rows && a.pixels == b.pixels && a.bytes == b.bytes &&
         (a.rows == 1 || a.row_stride == b.row_stride) && (a.pixels == 1 || a.pixel_stride == b.pixel_stride);
}

// False only if the views share no byte. Decides for parts of one tensor, so for views whose pixels or rows lie at the
// same distances.
bool MayOverlap(const View& a, const View& b);

// Whether two pixels of the view share a byte.
bool OverlapsItself(const View& view);

// Runs [begin, end) of a view whose two strides interleave so that its runs overlap; each byte occurs once.
std::vector<std::pair<int64_t, int64_t>> InterleavedRuns(const View& view);

// Calls visit(begin, bytes) for runs that together are the bytes of the view. The work is bounded by the memory's size:
// repeated and touching pixels join, and interleaved ones are counted once.
template <typename Visit>
void ForEachRun(const View& view, Visit visit) {
  struct Loop {
    int64_t count, stride;
  };
  Loop inner{view.pixels, view.pixel_stride}, outer{view.rows, view.row_stride};
  if (inner.stride == 0) inner.count = 1;
  if (outer.stride == 0) outer.count = 1;
  if (outer.count > 1 && (inner.count == 1 || outer.stride < inner.stride)) std::swap(inner, outer);
  int64_t run = view.bytes;
  if (inner.count > 1 && inner.stride <= run) {
    run += (inner.count - 1) * inner.stride;
    inner = outer;
    outer.count = 1;
    if (inner.count > 1 && inner.stride <= run) {
      run += (inner.count - 1) * inner.stride;
      inner.count = 1;
    }
  }
  if (inner.count > 1 && outer.count > 1 && outer.stride < (inner.count - 1) * inner.stride + run &&
      inner.count * outer.count > 4096) {
    for (const auto& [begin, end] : InterleavedRuns(view)) visit(begin, end - begin);
    return;
  }
  for (int64_t i = 0; i < outer.count; ++i) {
    for (int64_t j = 0; j < inner.count; ++j) visit(view.addr + i * outer.stride + j * inner.stride, run);
  }
}

}  // namespace qaccel
