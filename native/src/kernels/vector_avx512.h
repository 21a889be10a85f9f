// A vector of AVX-512. Include it after SIFT_TARGET_BEGIN, in the one source file of that instruction set.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace sift {
namespace {

struct Vector {
  static constexpr size_t kWidth = 16;
  static constexpr size_t kRegisters = 32;

  __m512 v;

  static Vector zero() { return {_mm512_setzero_ps()}; }
  static Vector broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vector load(const float* from) { return {_mm512_load_ps(from)}; }  // aligned
  void store(float* to) const { _mm512_store_ps(to, v); }                   // aligned
  void store_unaligned(float* to) const { _mm512_storeu_ps(to, v); }

  // In a register from here on: g++ would load it anew for each use, in one instruction with that.
  void hold() { __asm__("" : "+v"(v)); }

  // Lanes begin … end - 1. Memory of the other lanes is not touched; a load sets them to 0.
  using Range = __mmask16;
  static Range range(size_t begin, size_t end) { return static_cast<Range>((1u << end) - (1u << begin)); }
  static Vector load(const float* from, Range range) { return {_mm512_maskz_loadu_ps(range, from)}; }
  void store(float* to, Range range) const { _mm512_mask_storeu_ps(to, range, v); }

  // a * b + c, rounded once.
  static Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  // As the instruction does: `b` where either is NaN.
  static Vector max(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vector min(Vector a, Vector b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Vector abs(Vector a) { return {_mm512_abs_ps(a.v)}; }
  static Vector where_less(Vector a, Vector b, Vector yes, Vector no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
  }
  // a * 2^n for a whole n of -252 … 254.
  static Vector ldexp(Vector a, Vector n) { return {_mm512_scalef_ps(a.v, n.v)}; }

  // Lane i of the result is lane from[i] of `a`, or 0 where that is negative.
  static Vector permute(Vector a, const int32_t* from) {
    const __m512i lanes = _mm512_loadu_si512(from);
    return {_mm512_maskz_permutexvar_ps(_mm512_cmpge_epi32_mask(lanes, _mm512_setzero_si512()), lanes, a.v)};
  }

  // Those lanes whose from[i] is -1 or more; the others stay as they are.
  void store_where(const int32_t* from, float* to) const {
    _mm512_mask_storeu_ps(to, _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(from), _mm512_set1_epi32(-2)), v);
  }

  // Elements 0, 2, 4 … of the two.
  static Vector evens(Vector low, Vector high) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return {_mm512_permutex2var_ps(low.v, even, high.v)};
  }

  // The square of kWidth vectors, rows for columns.
  static void transpose(Vector* rows) {
    __m512 pair[16], quad[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
      pair[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
      pair[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) {
      quad[i] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0x44);
      quad[i + 1] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0xEE);
      quad[i + 2] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
      quad[i + 3] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      const __m512 low = _mm512_shuffle_f32x4(quad[i], quad[4 + i], 0x88);
      const __m512 high = _mm512_shuffle_f32x4(quad[i], quad[4 + i], 0xDD);
      const __m512 low2 = _mm512_shuffle_f32x4(quad[8 + i], quad[12 + i], 0x88);
      const __m512 high2 = _mm512_shuffle_f32x4(quad[8 + i], quad[12 + i], 0xDD);
      rows[i].v = _mm512_shuffle_f32x4(low, low2, 0x88);
      rows[8 + i].v = _mm512_shuffle_f32x4(low, low2, 0xDD);
      rows[4 + i].v = _mm512_shuffle_f32x4(high, high2, 0x88);
      rows[12 + i].v = _mm512_shuffle_f32x4(high, high2, 0xDD);
    }
  }
};

// Outside of the class: g++ 12 forgets the target of friends.
inline Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }

}  // namespace
}  // namespace sift
