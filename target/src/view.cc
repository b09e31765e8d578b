#include "view.h"

#include <numeric>

namespace qaccel {

namespace {

// Whether [a, a + m) and [b, b + n) have nothing in common modulo `period`.
bool Apart(int64_t a, int64_t m, int64_t b, int64_t n, int64_t period) {
  if (period == 0) return a + m <= b || b + n <= a;
  const int64_t distance = ((b - a) % period + period) % period;
  return m <= distance && n <= period - distance;
}

int64_t Step(int64_t count, int64_t stride) { return count > 1 ? stride : 0; }

int64_t RowExtent(const View& view) { return (view.pixels - 1) * view.pixel_stride + view.bytes; }

}  // namespace

bool MayOverlap(const View& a, const View& b) {
  if (a.End() <= b.addr || b.End() <= a.addr) return false;
  // All pixels, or all rows, begin at multiples of the strides' common divisor from the first.
  const int64_t rows = std::gcd(Step(a.rows, a.row_stride), Step(b.rows, b.row_stride));
  const int64_t pixels = std::gcd(Step(a.pixels, a.pixel_stride), Step(b.pixels, b.pixel_stride));
  return !Apart(a.addr, RowExtent(a), b.addr, RowExtent(b), rows) &&
         !Apart(a.addr, a.bytes, b.addr, b.bytes, std::gcd(rows, pixels));
}

bool OverlapsItself(const View& view) {
  int64_t counts[2] = {view.pixels, view.rows}, strides[2] = {view.pixel_stride, view.row_stride};
  // The smaller stride steps from pixel to pixel, the larger one over all of these: nothing overlaps, and so it is
  // mostly.
  const int first = counts[0] == 1 || (counts[1] > 1 && strides[1] < strides[0]) ? 1 : 0;
  if (counts[first] > 1 && strides[first] < view.bytes) return true;
  const int64_t extent = (counts[first] - 1) * strides[first] + view.bytes;
  const int second = 1 - first;
  if (counts[second] == 1 || strides[second] >= extent) return false;
  // Else they interleave. Two pixels overlap if i steps of one stride come within a pixel of j steps of the other.
  for (int64_t i = 1; i < counts[second]; ++i) {
    const int64_t distance = i * strides[second], j = distance / strides[first], rest = distance % strides[first];
    if (j < counts[first] && rest < view.bytes) return true;
    if (j + 1 < counts[first] && strides[first] - rest < view.bytes) return true;
    if (j >= counts[first]) break;
  }
  return false;
}

std::vector<std::pair<int64_t, int64_t>> InterleavedRuns(const View& view) {
  const int64_t span = view.End() - view.addr;
  std::vector<uint8_t> covered(static_cast<size_t>(span), 0);
  std::fill(covered.begin(), covered.begin() + view.bytes, uint8_t{1});
  // One stride after the other: a byte is covered if one of the `count` bytes at multiples of the stride below it is.
  std::vector<int64_t> nearest(static_cast<size_t>(span));
  for (const auto& [count, stride] :
       {std::pair{view.pixels, view.pixel_stride}, std::pair{view.rows, view.row_stride}}) {
    if (count == 1 || stride == 0) continue;
    for (int64_t x = 0; x < span; ++x) {
      nearest[x] = covered[x] ? x : x >= stride ? nearest[x - stride] : -1;
      covered[x] = nearest[x] >= 0 && nearest[x] >= x - (count - 1) * stride;
    }
  }
  std::vector<std::pair<int64_t, int64_t>> runs;
  for (int64_t x = 0; x < span; ++x) {
    if (!covered[x]) continue;
    const int64_t begin = x;
    while (x < span && covered[x]) ++x;
    runs.emplace_back(view.addr + begin, view.addr + x);
  }
  return runs;
}

}  // namespace qaccel
