// AVX2 and FMA. Every function here carries its target itself: a per-file -mavx2 would leak into any inline function
// this file shares with a baseline one, and the linker keeps only one copy of those.
#include "kernels/tile.h"

#ifdef SIFT_HAS_AVX2

#include <immintrin.h>

#define SIFT_AVX2 __attribute__((target("avx2,fma")))
#define SIFT_UNROLL _Pragma("GCC unroll 16")

namespace sift {
namespace {

constexpr size_t kWidth = 8;

// Independent sums a row needs so that additions of 4 cycles' latency, two a cycle, do not wait for each other.
constexpr size_t chains(size_t vectors) { return vectors <= 3 ? 4 : vectors <= 6 ? 2 : 1; }

template <size_t Vectors>
SIFT_AVX2 void tile(const TileArgs& args) {
  constexpr size_t kChains = chains(Vectors);
  const Tap* tap = args.taps;
  for (const Run* run = args.runs; run != args.runs + args.run_count; ++run) {
    float* sums = args.sums + run->row * args.pitch;
    // Indexed loops: g++ 12 keeps an array that a range-for touched on the stack, which was 2.8 times slower.
    __m256 sum[kChains][Vectors];
    SIFT_UNROLL
    for (size_t v = 0; v < Vectors; ++v) sum[0][v] = _mm256_loadu_ps(sums + v * kWidth);
    SIFT_UNROLL
    for (size_t c = 1; c < kChains; ++c) {
      SIFT_UNROLL
      for (size_t v = 0; v < Vectors; ++v) sum[c][v] = _mm256_setzero_ps();
    }
    const Tap* end = tap + run->taps;
    for (const Tap* last = end - run->taps % kChains; tap != last; tap += kChains) {
      SIFT_UNROLL
      for (size_t c = 0; c < kChains; ++c) {
        const float* input = args.input + tap[c].offset;
        const __m256 weight = _mm256_broadcast_ss(&tap[c].weight);
        SIFT_UNROLL
        for (size_t v = 0; v < Vectors; ++v) {
          sum[c][v] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(input + v * kWidth), sum[c][v]);
        }
      }
    }
    for (; tap != end; ++tap) {
      const float* input = args.input + tap->offset;
      const __m256 weight = _mm256_broadcast_ss(&tap->weight);
      SIFT_UNROLL
      for (size_t v = 0; v < Vectors; ++v) {
        sum[0][v] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(input + v * kWidth), sum[0][v]);
      }
    }
    SIFT_UNROLL
    for (size_t c = 1; c < kChains; ++c) {
      SIFT_UNROLL
      for (size_t v = 0; v < Vectors; ++v) sum[0][v] = _mm256_add_ps(sum[0][v], sum[c][v]);
    }
    SIFT_UNROLL
    for (size_t v = 0; v < Vectors; ++v) _mm256_storeu_ps(sums + v * kWidth, sum[0][v]);
  }
}

SIFT_AVX2 void transpose8(const float* from, size_t from_pitch, float* to, size_t to_pitch) {
  __m256 row[8], pair[8];
  SIFT_UNROLL
  for (size_t i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(from + i * from_pitch);
  SIFT_UNROLL
  for (size_t i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
  }
  SIFT_UNROLL
  for (size_t i = 0; i < 2; ++i) {
    const __m256 *low = pair + 4 * i, *high = low + 2;
    row[4 * i] = _mm256_shuffle_ps(low[0], high[0], 0x44);
    row[4 * i + 1] = _mm256_shuffle_ps(low[0], high[0], 0xEE);
    row[4 * i + 2] = _mm256_shuffle_ps(low[1], high[1], 0x44);
    row[4 * i + 3] = _mm256_shuffle_ps(low[1], high[1], 0xEE);
  }
  SIFT_UNROLL
  for (size_t i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_pitch, _mm256_permute2f128_ps(row[i], row[4 + i], 0x20));
    _mm256_storeu_ps(to + (4 + i) * to_pitch, _mm256_permute2f128_ps(row[i], row[4 + i], 0x31));
  }
}

void transpose(const float* from, size_t from_pitch, float* to, size_t to_pitch, size_t rows, size_t columns) {
  const size_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
  for (size_t r = 0; r < whole_rows; r += 8) {
    for (size_t c = 0; c < whole_columns; c += 8) {
      transpose8(from + r * from_pitch + c, from_pitch, to + c * to_pitch + r, to_pitch);
    }
  }
  kScalarLanes.transpose(from + whole_columns, from_pitch, to + whole_columns * to_pitch, to_pitch, whole_rows,
                         columns - whole_columns);
  kScalarLanes.transpose(from + whole_rows * from_pitch, from_pitch, to + whole_rows, to_pitch, rows - whole_rows,
                         columns);
}

}  // namespace

const Lanes kAvx2Lanes = {kWidth,
                          {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>, tile<9>,
                           tile<10>, tile<11>, tile<12>, tile<13>, tile<14>},
                          transpose};

}  // namespace sift

#endif
