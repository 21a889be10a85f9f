// What the kernels whose lanes are output positions have in common besides lanes.h: how they share registers and the L1
// cache, and what that costs.
#pragma once

#include <cstddef>

#include "kernels/lanes.h"

namespace sift {

constexpr size_t kInputBytes = 24 * 1024;  // of the L1 cache for a block's inputs; the rest is weights and sums

// Cycles, from timings of all tilings of ResNet-18's layers and their widened forms.
struct Cycles {
  explicit Cycles(const Lanes& lanes) : multiply(lanes.width > 8 ? 0.8 : 0.6) {}

  double multiply;     // a vector of sums, with an input from the L1 cache
  double tap = 0.4;    // for each tap of a tile
  double spill = 2.4;  // a vector of sums, into registers and out
  double visit = 3.0;  // for each team in a block
};

// For tiles of one row of vectors, whose inputs have no order in space.
struct Teams {
  size_t team;    // index into kTeams
  size_t block;   // inputs a block
  double cycles;  // estimated, for one vector
};

// The cheapest for tiles of `columns` vectors.
Teams cheapest_teams(const Lanes& lanes, size_t columns, size_t inputs, size_t outputs, size_t kept);

}  // namespace sift
