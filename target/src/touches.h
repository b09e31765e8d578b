// Which instruction last touched each byte, followed through a list of accesses in program order.
#pragma once

#include <cstdint>
#include <vector>

namespace qaccel {

// One access of an instruction: `run_bytes` bytes at start + r * row_stride + p * pixel_stride for r < rows, p < pixels.
// The accesses of an instruction follow each other. They are compared with those of earlier instructions, and a write with the
// reads of its own, but for reads `in_place`.
struct TouchedBox {
  int64_t mark;  // of the instruction: above 0, and greater for a later one
  int64_t engine;
  int64_t memory;
  int64_t write;
  int64_t in_place;
  int64_t start, rows, row_stride, pixels, pixel_stride, run_bytes;
};

// By access. `writers`: the different marks of the last writers of its bytes, ascending, 0 for bytes never written; those of access i
// end at `writer_ends[i]`. `readers`: of a write, by engine, the greatest mark of the last readers of its bytes; else 0.
struct LastTouches {
  std::vector<int64_t> writer_ends;
  std::vector<int32_t> writers;
  std::vector<int32_t> readers;  // [accesses, engines]
};

// Throws Error for an access outside of its memory; `sizes`: bytes of each. Bytes are told apart in granules of `granule_bytes`,
// a power of two.
LastTouches FindLastTouches(const TouchedBox* boxes, int64_t count, const std::vector<int64_t>& sizes, int64_t engines,
                            int64_t granule_bytes);

}  // namespace qaccel
