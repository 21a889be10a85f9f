// Picks in plain C++.
#pragma once

#include "kernels/columns.h"

namespace sift {
namespace {

struct Pick {
  static constexpr size_t kLength = 128;
  static constexpr size_t kTokens = 1;

  struct Window {
    explicit Window(const float* inputs) : x(inputs) {}
    const float* x;
  };

  explicit Pick(const uint8_t* step) : picks(step) {}

  Vector add(Vector values, const Window& window, Vector sums) const {
    const float* x = window.x - kKept;  // a pause reads what lies before the window
    return Vector::fma(values, Vector::each([&](size_t i) { return picks[i] & kKept ? x[picks[i]] : 0.0f; }), sums);
  }

  const uint8_t* picks;
};

}  // namespace
}  // namespace sift
