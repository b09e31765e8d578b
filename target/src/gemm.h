// Exact integer matrix products: acc[pixel, n] = sum over k of a[pixel, k] * w[k, n].
#pragma once

#include <cstdint>
#include <vector>

namespace qaccel {

// Weights as the kernels read them: 16-bit integers in panels of 16 columns, pairs of the reduction side by side.
// 16-bit weights are split in two planes, w = 256 * high + low, so that a few hundred products always fit a 32-bit sum.
struct PackedWeights {
  std::vector<int16_t> planes[2];  // [panel][pair][16][2]; the second only for 16-bit weights (low bytes)
  int64_t depth = 0, columns = 0, bits = 0;
  // What it was made from.
  int64_t addr = -1;
  uint64_t version = 0;

  int64_t pairs() const { return (depth + 1) / 2; }
  int64_t padded_depth() const { return pairs() * 2; }
  int64_t panels() const { return (columns + 15) / 16; }
  int64_t padded_columns() const { return panels() * 16; }
};

// Fills `packed` from rows of `row_bytes` bytes, one for each k.
void PackWeights(const uint8_t* rows, int64_t row_bytes, int64_t depth, int64_t columns, int64_t bits,
                 PackedWeights& packed);

// Whether 32 bits hold every sum of products with |a| <= largest.
bool SumsFit(int64_t largest, const PackedWeights& w);

// sums[pixels, 16 * panels] = a[pixels, padded_depth] * w, where they fit; the columns beyond the last are 0.
void MatrixProduct(const int16_t* a, int64_t pixels, const PackedWeights& w, int32_t* sums);

// acc[pixels, columns] += a[pixels, padded_depth] * w, with |a| <= largest. `products` is scratch.
void MatrixProduct(const int16_t* a, int64_t pixels, int64_t largest, const PackedWeights& w,
                   std::vector<int32_t>& products, int64_t* acc);

}  // namespace qaccel
