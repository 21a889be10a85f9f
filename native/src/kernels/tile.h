// The inner loop of every kernel of the "rows" family, and the only part of it that exists once per instruction set.
//
// A tile is a run of consecutive positions (pixels of a flattened plane, or tokens). For each row of the weight matrix
// the tile's sums are loaded, every tap adds weight * input[offset + position] to them, and they are stored again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sift {

// One kept weight: where its input lies, in floats from the tile's first position, and its value.
struct Tap {
  int32_t offset;
  float weight;
};

// The taps of one row within one block of input channels. Rows without taps have no run.
struct Run {
  uint32_t row;
  uint32_t taps;
};

struct TileArgs {
  const Run* runs;
  size_t run_count;
  const Tap* taps;     // of all runs, one after the other
  const float* input;  // at the tile's first position in the block's first channel
  float* sums;         // [row][pitch]
  size_t pitch;        // floats, at least the tile's width
};

using TileFunction = void (*)(const TileArgs&);
using TransposeFunction = void (*)(const float* from, size_t from_pitch, float* to, size_t to_pitch, size_t rows,
                                   size_t columns);

constexpr size_t kMaxVectors = 14;  // 16 registers less one for the weight, one spare

// What one instruction set brings.
struct Lanes {
  size_t width;                        // floats in a vector
  TileFunction tile[kMaxVectors + 1];  // by number of vectors; [0] is unused
  TransposeFunction transpose;         // to[c][r] = from[r][c] for r < rows, c < columns
};

extern const Lanes kScalarLanes;
#if defined(__x86_64__) && defined(__GNUC__)
#define SIFT_HAS_AVX2 1
extern const Lanes kAvx2Lanes;
#endif

}  // namespace sift
