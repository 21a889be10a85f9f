// A vector of AVX2 with FMA. Include it after SIFT_TARGET_BEGIN, in the one source file of that instruction set.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace sift {
namespace {

struct Vector {
  static constexpr size_t kWidth = 8;
  static constexpr size_t kRegisters = 16;

  __m256 v;

  static Vector zero() { return {_mm256_setzero_ps()}; }
  static Vector broadcast(float value) { return {_mm256_set1_ps(value)}; }
  static Vector load(const float* from) { return {_mm256_load_ps(from)}; }  // aligned
  void store(float* to) const { _mm256_store_ps(to, v); }                   // aligned
  void store_unaligned(float* to) const { _mm256_storeu_ps(to, v); }

  // In a register from here on: g++ would load it anew for each use, in one instruction with that.
  void hold() { __asm__("" : "+x"(v)); }

  // Lanes begin … end - 1. Memory of the other lanes is not touched; a load sets them to 0.
  using Range = __m256i;
  static Range range(size_t begin, size_t end) { return _mm256_andnot_si256(first(begin), first(end)); }
  static Vector load(const float* from, Range range) { return {_mm256_maskload_ps(from, range)}; }
  void store(float* to, Range range) const { _mm256_maskstore_ps(to, range, v); }

  // a * b + c, rounded once.
  static Vector fma(Vector a, Vector b, Vector c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  // As the instruction does: `b` where either is NaN.
  static Vector max(Vector a, Vector b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Vector min(Vector a, Vector b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Vector abs(Vector a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
  static Vector where_less(Vector a, Vector b, Vector yes, Vector no) {
    return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
  }
  // a * 2^n for a whole n of -252 … 254, in two steps: 2^n itself may be no normal number.
  static Vector ldexp(Vector a, Vector n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
    return {_mm256_mul_ps(_mm256_mul_ps(a.v, power(half)), power(_mm256_sub_epi32(whole, half)))};
  }

  // Lane i of the result is lane from[i] of `a`, or 0 where that is negative.
  static Vector permute(Vector a, const int32_t* from) {
    const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(lanes, 31)), _mm256_permutevar8x32_ps(a.v, lanes))};
  }

  // Those lanes whose from[i] is -1 or more; the others stay as they are.
  void store_where(const int32_t* from, float* to) const {
    const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(-2)), v);
  }

  // Elements 0, 2, 4 … of the two.
  static Vector evens(Vector low, Vector high) {
    const __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(low.v, high.v, 0x88));
    return {_mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xD8))};
  }

  // The square of kWidth vectors, rows for columns.
  static void transpose(Vector* rows) {
    __m256 pair[8], quad[8];
#pragma GCC unroll 4
    for (size_t i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
      pair[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < 8; i += 4) {
      quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
      quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xEE);
      quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
      quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      rows[i].v = _mm256_permute2f128_ps(quad[i], quad[4 + i], 0x20);
      rows[4 + i].v = _mm256_permute2f128_ps(quad[i], quad[4 + i], 0x31);
    }
  }

 private:
  static __m256 power(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  static __m256i first(size_t count) {
    alignas(32) static const int32_t kOnes[2 * kWidth] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnes + kWidth - count));
  }
};

// Outside of the class: g++ 12 forgets the target of friends.
inline Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.v, b.v)}; }

}  // namespace
}  // namespace sift
