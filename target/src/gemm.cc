#include "gemm.h"

#include <algorithm>
#include <cstring>

#include "common.h"
#include "elements.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define QACCEL_X86 1
#endif

namespace qaccel {

namespace {

constexpr int kColumns = 16;  // of a panel
constexpr bool kLittleEndian = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

// out[rows, 16] = a[rows, 2 * pairs] * w[pairs, 16, 2] for one panel; a's rows begin `stride` apart, out's
// `out_stride`.
using Kernel = void (*)(const int16_t* a, int64_t stride, int64_t rows, const int16_t* w, int64_t pairs, int32_t* out,
                        int64_t out_stride);

void KernelPlain(const int16_t* a, int64_t stride, int64_t rows, const int16_t* w, int64_t pairs, int32_t* out,
                 int64_t out_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    int32_t sums[kColumns] = {};
    for (int64_t k = 0; k < pairs; ++k) {
      const int32_t first = a[row * stride + 2 * k], second = a[row * stride + 2 * k + 1];
      const int16_t* weights = w + k * kColumns * 2;
      for (int n = 0; n < kColumns; ++n) sums[n] += first * weights[2 * n] + second * weights[2 * n + 1];
    }
    std::memcpy(out + row * out_stride, sums, sizeof(sums));
  }
}

#ifdef QACCEL_X86

// A pair of activations in every lane.
inline int32_t Pair(const int16_t* a) {
  int32_t pair;
  std::memcpy(&pair, a, sizeof(pair));
  return pair;
}

template <int kRows>
__attribute__((target("avx2"))) inline void BlockAvx2(const int16_t* a, int64_t stride, const int16_t* w, int64_t pairs,
                                                      int32_t* out, int64_t out_stride) {
  __m256i sums[kRows][2];
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < pairs; ++k) {
    const auto* weights = reinterpret_cast<const __m256i*>(w + k * kColumns * 2);
    const __m256i w0 = _mm256_loadu_si256(weights), w1 = _mm256_loadu_si256(weights + 1);
    for (int row = 0; row < kRows; ++row) {
      const __m256i pair = _mm256_set1_epi32(Pair(a + row * stride + 2 * k));
      sums[row][0] = _mm256_add_epi32(sums[row][0], _mm256_madd_epi16(pair, w0));
      sums[row][1] = _mm256_add_epi32(sums[row][1], _mm256_madd_epi16(pair, w1));
    }
  }
  for (int row = 0; row < kRows; ++row) {
    auto* target = reinterpret_cast<__m256i*>(out + row * out_stride);
    _mm256_storeu_si256(target, sums[row][0]);
    _mm256_storeu_si256(target + 1, sums[row][1]);
  }
}

__attribute__((target("avx2"))) void KernelAvx2(const int16_t* a, int64_t stride, int64_t rows, const int16_t* w,
                                                int64_t pairs, int32_t* out, int64_t out_stride) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4)
    BlockAvx2<4>(a + row * stride, stride, w, pairs, out + row * out_stride, out_stride);
  for (; row < rows; ++row) BlockAvx2<1>(a + row * stride, stride, w, pairs, out + row * out_stride, out_stride);
}

template <int kRows>
__attribute__((target("avx512f,avx512bw"))) inline void BlockAvx512(const int16_t* a, int64_t stride, const int16_t* w,
                                                                    int64_t pairs, int32_t* out, int64_t out_stride) {
  __m512i sums[kRows];
  for (auto& row : sums) row = _mm512_setzero_si512();
  for (int64_t k = 0; k < pairs; ++k) {
    const __m512i weights = _mm512_loadu_si512(w + k * kColumns * 2);
    for (int row = 0; row < kRows; ++row) {
      const __m512i pair = _mm512_set1_epi32(Pair(a + row * stride + 2 * k));
      sums[row] = _mm512_add_epi32(sums[row], _mm512_madd_epi16(pair, weights));
    }
  }
  for (int row = 0; row < kRows; ++row) _mm512_storeu_si512(out + row * out_stride, sums[row]);
}

__attribute__((target("avx512f,avx512bw"))) void KernelAvx512(const int16_t* a, int64_t stride, int64_t rows,
                                                              const int16_t* w, int64_t pairs, int32_t* out,
                                                              int64_t out_stride) {
  int64_t row = 0;
  for (; row + 12 <= rows; row += 12)
    BlockAvx512<12>(a + row * stride, stride, w, pairs, out + row * out_stride, out_stride);
  for (; row + 4 <= rows; row += 4)
    BlockAvx512<4>(a + row * stride, stride, w, pairs, out + row * out_stride, out_stride);
  for (; row < rows; ++row) BlockAvx512<1>(a + row * stride, stride, w, pairs, out + row * out_stride, out_stride);
}
#endif

Kernel PickKernel() {
#ifdef QACCEL_X86
  if (__builtin_cpu_supports("avx512bw")) return KernelAvx512;
  if (__builtin_cpu_supports("avx2")) return KernelAvx2;
#endif
  return KernelPlain;
}

// Pairs of rows of the reduction, [2 * pairs, padded columns], interleaved into their places in the panels.
template <typename Part>
inline __attribute__((always_inline)) void InterleaveAs(const int16_t* __restrict rows, int64_t pairs, int64_t panels,
                                                        int16_t* __restrict out, int64_t panel_size, Part part) {
  const int64_t width = panels * kColumns;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int16_t* first = rows + 2 * pair * width + panel * kColumns;
      int16_t* target = out + panel * panel_size + pair * kColumns * 2;
      uint32_t both[kColumns];  // so that it vectorises
      for (int n = 0; n < kColumns; ++n) {
        const uint32_t one = static_cast<uint16_t>(part(first[n]));
        const uint32_t other = static_cast<uint16_t>(part(first[width + n]));
        both[n] = kLittleEndian ? one | other << 16 : one << 16 | other;
      }
      std::memcpy(target, both, sizeof(both));
    }
  }
}

QACCEL_CLONES void InterleaveWhole(const int16_t* rows, int64_t pairs, int64_t panels, int16_t* out,
                                   int64_t panel_size) {
  InterleaveAs(rows, pairs, panels, out, panel_size, [](int16_t value) { return value; });
}

QACCEL_CLONES void InterleaveHigh(const int16_t* rows, int64_t pairs, int64_t panels, int16_t* out,
                                  int64_t panel_size) {
  InterleaveAs(rows, pairs, panels, out, panel_size, [](int16_t value) { return static_cast<int16_t>(value >> 8); });
}

QACCEL_CLONES void InterleaveLow(const int16_t* rows, int64_t pairs, int64_t panels, int16_t* out,
                                 int64_t panel_size) {
  InterleaveAs(rows, pairs, panels, out, panel_size, [](int16_t value) { return static_cast<int16_t>(value & 255); });
}

// acc[pixels, columns] += products[pixels, stride] * factor
QACCEL_CLONES void Accumulate(const int32_t* __restrict products, int64_t pixels, int64_t columns, int64_t stride,
                              int64_t factor, int64_t* __restrict acc) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel, products += stride, acc += columns) {
    for (int64_t n = 0; n < columns; ++n) acc[n] += products[n] * factor;
  }
}

// So many products fit 32 bits, whatever their values. Never below 2: one is at most 2^15 * 2^8.
int64_t ChunkOf(int64_t largest, const PackedWeights& w, int plane) {
  const int64_t weight_largest = w.bits == 16 && plane == 1 ? 255 : -LowestOf(std::min<int64_t>(w.bits, 8));
  return INT32_MAX / (std::max<int64_t>(largest, 1) * weight_largest) & ~int64_t{1};
}

// products[pixels, padded columns] = a * one plane of w, for depths [begin, end).
void PlaneProduct(const int16_t* a, int64_t pixels, const PackedWeights& w, int plane, int64_t begin, int64_t end,
                  int32_t* products) {
  static const Kernel kernel = PickKernel();
  const int64_t depth = w.padded_depth();
  for (int64_t panel = 0; panel < w.panels(); ++panel) {
    kernel(a + begin, depth, pixels, w.planes[plane].data() + (panel * depth + begin) * kColumns, (end - begin) / 2,
           products + panel * kColumns, w.padded_columns());
  }
}

}  // namespace

void PackWeights(const uint8_t* rows, int64_t row_bytes, int64_t depth, int64_t columns, int64_t bits,
                 PackedWeights& packed) {
  packed.depth = depth;
  packed.columns = columns;
  packed.bits = bits;
  const int64_t width = packed.padded_columns(), panel_size = packed.pairs() * kColumns * 2;
  const int planes = bits == 16 ? 2 : 1;
  for (int plane = 0; plane < planes; ++plane)
    packed.planes[plane].resize(static_cast<size_t>(packed.panels() * panel_size));
  // Some rows at a time, padded with zeros to whole panels and pairs.
  constexpr int64_t kPairs = 32;
  std::vector<int16_t> part(static_cast<size_t>(2 * std::min(kPairs, packed.pairs()) * width));
  for (int64_t first = 0; first < packed.pairs(); first += kPairs) {
    const int64_t pairs = std::min(kPairs, packed.pairs() - first), count = std::min(2 * pairs, depth - 2 * first);
    const uint8_t* source = rows + 2 * first * row_bytes;
    if (width == columns) {
      UnpackPixels(source, row_bytes, count, columns, bits, 0, part.data());
    } else {
      for (int64_t row = 0; row < count; ++row)
        Unpack(source + row * row_bytes, columns, bits, 0, part.data() + row * width);
    }
    if (count < 2 * pairs) std::fill_n(part.begin() + count * width, width, int16_t{0});
    for (int plane = 0; plane < planes; ++plane) {
      const auto interleave = planes == 1 ? InterleaveWhole : plane == 0 ? InterleaveHigh : InterleaveLow;
      interleave(part.data(), pairs, packed.panels(), packed.planes[plane].data() + first * kColumns * 2, panel_size);
    }
  }
}

bool SumsFit(int64_t largest, const PackedWeights& w) {
  return w.bits <= 8 && w.padded_depth() <= ChunkOf(largest, w, 0);
}

void MatrixProduct(const int16_t* a, int64_t pixels, const PackedWeights& w, int32_t* sums) {
  PlaneProduct(a, pixels, w, 0, 0, w.padded_depth(), sums);
}

void MatrixProduct(const int16_t* a, int64_t pixels, int64_t largest, const PackedWeights& w,
                   std::vector<int32_t>& products, int64_t* acc) {
  products.resize(std::max(products.size(), static_cast<size_t>(pixels * w.padded_columns())));
  for (int plane = 0; plane < (w.bits == 16 ? 2 : 1); ++plane) {
    const int64_t depth = w.padded_depth(), chunk = ChunkOf(largest, w, plane);
    for (int64_t begin = 0; begin < depth; begin += chunk) {
      PlaneProduct(a, pixels, w, plane, begin, std::min(depth, begin + chunk), products.data());
      Accumulate(products.data(), pixels, w.columns, w.padded_columns(), w.bits == 16 && plane == 0 ? 256 : 1, acc);
    }
  }
}

}  // namespace qaccel
