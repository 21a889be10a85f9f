#include "kernels/tiles.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "kernels/ceil_div.h"

namespace sift {
Teams cheapest_teams(const Lanes& lanes, size_t columns, size_t inputs, size_t outputs, size_t kept) {
  const Cycles each(lanes);
  const size_t most = std::clamp<size_t>(kInputBytes / (columns * lanes.width * sizeof(float)), 1, inputs);
  const size_t block = ceil_div(inputs, ceil_div(inputs, most));
  const auto vectors = static_cast<double>(columns), sums = static_cast<double>(outputs * ceil_div(inputs, block));
  Teams best{0, block, std::numeric_limits<double>::infinity()};
  for (size_t team = 0; team < std::size(kTeams); ++team) {
    if (!lanes.accumulate[1][columns][team]) continue;
    const auto together = static_cast<double>(kTeams[team]);
    // A sum waits 4 cycles for the one before it; the other channels of a team fill them.
    const double taps = static_cast<double>(kept) * std::max(vectors * each.multiply + each.tap, 4.0 / together);
    const double cycles = (taps + sums * (vectors * each.spill + each.visit / together)) / vectors;
    if (cycles < best.cycles) best = {team, block, cycles};
  }
  return best;
}

}  // namespace sift
