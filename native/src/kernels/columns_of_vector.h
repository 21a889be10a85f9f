// The functions of columns.h, for whatever `Vector` and `Pick` are. Include it after SIFT_TARGET_BEGIN and their
// headers.
//
// A Pick is one step's picks: `Pick(picks)` reads them, `pick.add(values, window, sums)` adds each lane's weight times
// the input it picks to its sum, and nothing where it pauses, whatever the inputs. A Pick::Window is kLength inputs;
// kTokens becomes Columns::tokens.
#pragma once

#include <utility>

#include "kernels/columns.h"

namespace sift {
namespace {

template <size_t Tokens>
void sum_columns(const ColumnArgs& a) {
  constexpr size_t kWidth = Vector::kWidth;
  constexpr size_t kPicksAhead = 512, kValuesAhead = 4 * kPicksAhead;  // bytes, for the prefetch
  const uint8_t* picks = a.picks;
  const float* values = a.values;
  Vector sums[Tokens][kSteps];
#pragma GCC unroll 4
  for (size_t t = 0; t < Tokens; ++t) {
#pragma GCC unroll 2
    for (size_t s = 0; s < kSteps; ++s) sums[t][s] = Vector::zero();
  }
  for (const uint16_t* window = a.windows; window != a.windows_end; ++window) {
    __builtin_prefetch(picks + kPicksAhead);
#pragma GCC unroll 2
    for (size_t i = 0; i < kSteps * kWidth; i += 16) {
      __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kValuesAhead);
    }
    const Pick pick[kSteps] = {Pick(picks), Pick(picks + kWidth)};
#pragma GCC unroll 4
    for (size_t t = 0; t < Tokens; ++t) {
      const Pick::Window inputs(a.x + t * a.x_pitch + *window * kWindowUnit);
#pragma GCC unroll 2
      for (size_t s = 0; s < kSteps; ++s) {
        sums[t][s] = pick[s].add(Vector::load(values + s * kWidth), inputs, sums[t][s]);
      }
    }
    picks += kSteps * kWidth;
    values += kSteps * kWidth;
  }
#pragma GCC unroll 4
  for (size_t t = 0; t < Tokens; ++t) (sums[t][0] + sums[t][1]).store_unaligned(a.sums + t * kWidth);
}

template <size_t... Tokens>
constexpr Columns columns_of_vector(std::index_sequence<Tokens...>) {
  return {Pick::kLength, Pick::kTokens, {nullptr, sum_columns<Tokens + 1>...}};
}

constexpr Columns columns_of_vector() {
  static_assert(kSteps == 2 && Pick::kLength <= kLongestWindow);
  return columns_of_vector(std::make_index_sequence<kMaxTokensTogether>());
}

}  // namespace
}  // namespace sift
