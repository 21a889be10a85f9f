#include "kernels/teams.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace sift {
namespace {

constexpr size_t kInputBytes = 24 * 1024;  // of the L1 cache for a block's inputs

size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

Teams cheapest_teams(const Lanes& lanes, size_t columns, size_t inputs, size_t outputs, size_t kept) {
  const double multiply = lanes.width > 8 ? 0.8 : 0.6, tap = 0.4, spill = 2.4, visit = 3.0;
  const size_t most = std::clamp<size_t>(kInputBytes / (columns * lanes.width * sizeof(float)), 1, inputs);
  const size_t block = ceil_div(inputs, ceil_div(inputs, most));
  const auto vectors = static_cast<double>(columns), sums = static_cast<double>(outputs * ceil_div(inputs, block));
  Teams best{0, block, std::numeric_limits<double>::infinity()};
  for (size_t team = 0; team < std::size(kTeams); ++team) {
    if (!lanes.accumulate[1][columns][team]) continue;
    const auto together = static_cast<double>(kTeams[team]);
    // A sum waits 4 cycles for the one before it; the other channels of a team fill them.
    const double each = std::max(vectors * multiply + tap, 4.0 / together);
    const double cycles = (static_cast<double>(kept) * each + sums * (vectors * spill + visit / together)) / vectors;
    if (cycles < best.cycles) best = {team, block, cycles};
  }
  return best;
}

}  // namespace sift
