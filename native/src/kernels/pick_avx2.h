// Picks of AVX2: eight loads of one input each. A gather does the same, a third faster on processors where it is fast,
// and several times slower where microcode makes it safe; lookups in registers cannot beat the loads.
#pragma once

#include <cstring>

#include "kernels/columns.h"

namespace sift {
namespace {

struct Pick {
  static constexpr size_t kLength = 128;
  static constexpr size_t kTokens = 2;

  struct Window {
    explicit Window(const float* inputs) : x(inputs) {}
    const float* x;
  };

  explicit Pick(const uint8_t* picks) { std::memcpy(&bytes, picks, sizeof(bytes)); }

  Vector add(Vector values, const Window& window, Vector sums) const {
    const float* x = window.x - kKept;  // a pause reads what lies before the window
    const auto input = [&](int lane) { return _mm256_broadcast_ss(x + (bytes >> (8 * lane) & 0xFF)); };
    __m256 inputs = input(0);
    inputs = _mm256_blend_ps(inputs, input(1), 1 << 1);
    inputs = _mm256_blend_ps(inputs, input(2), 1 << 2);
    inputs = _mm256_blend_ps(inputs, input(3), 1 << 3);
    inputs = _mm256_blend_ps(inputs, input(4), 1 << 4);
    inputs = _mm256_blend_ps(inputs, input(5), 1 << 5);
    inputs = _mm256_blend_ps(inputs, input(6), 1 << 6);
    inputs = _mm256_blend_ps(inputs, input(7), 1 << 7);
    const __m256i kept = _mm256_srai_epi32(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes))), 31);
    return Vector::fma(values, {_mm256_and_ps(inputs, _mm256_castsi256_ps(kept))}, sums);
  }

  uint64_t bytes;
};

}  // namespace
}  // namespace sift
