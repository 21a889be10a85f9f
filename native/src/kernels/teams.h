// How the registers and the L1 cache are shared where a tile is one row of vectors, and inputs have no order in space.
#pragma once

#include <cstddef>

#include "kernels/lanes.h"

namespace sift {

struct Teams {
  size_t team;    // index into kTeams
  size_t block;   // inputs a block
  double cycles;  // estimated, for one vector
};

// The cheapest for tiles of `columns` vectors, by an estimate of cycles as in ConvPatches::cost.
Teams cheapest_teams(const Lanes& lanes, size_t columns, size_t inputs, size_t outputs, size_t kept);

}  // namespace sift
