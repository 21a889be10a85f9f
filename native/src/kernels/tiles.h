// What the kernels whose lanes are output positions have in common besides lanes.h: how they share registers and the L1
// cache, and what that costs.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/lanes.h"
#include "kernels/plan.h"

namespace sift {

// Of the L1 cache for a block's inputs: all but 8 KB, for weights and sums. Of 48 KB, 40 were 5 % faster than 24.
size_t input_bytes();

// Cycles, from timings of all tilings of ResNet-18's layers and their widened forms.
struct Cycles {
  explicit Cycles(const Lanes& lanes) : load(lanes.width > 8 ? 0.4 : 0.1), one(lanes.width > 8 ? 0.4 : 0.5) {}

  // A vector of sums, with an input from the L1 cache: in a trio, one that the others may need. `team` is an index into
  // kTeams, `density` the share of weights that are kept.
  double multiply(size_t team, double density) const;

  double load, one;    // of a vector, and the multiplication itself
  double tap = 0.4;    // for each tap of a tile
  double spill = 2.4;  // a vector of sums, into registers and out
  // For each team in a block: of the three loops of a trio the ends are hard to foresee.
  double visit(size_t team) const { return team == kTrio ? 15.0 : 3.0; }
};

// Plans for tiles of one row of `columns` vectors, whose inputs have no order in space: columns, the team as an index
// into kTeams, and the inputs of a block, with the cycles estimated for one vector.
std::vector<Estimate> teams(const Lanes& lanes, size_t columns, size_t inputs, size_t outputs, size_t kept);

}  // namespace sift
