#include "kernels/tiles.h"

#include <algorithm>
#include <iterator>

#include "kernels/ceil_div.h"

#ifdef __unix__
#include <unistd.h>
#endif

namespace sift {

size_t input_bytes() {
  static const size_t bytes = [] {
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const long cache = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    if (cache >= 16 * 1024 && cache <= 256 * 1024) return static_cast<size_t>(cache) - 8 * 1024;
#endif
    return size_t{24 * 1024};
  }();
  return bytes;
}

double Cycles::multiply(size_t team, double density) const {
  if (team != kTrio || density <= 0) return one + load;
  const double none = (1 - density) * (1 - density) * (1 - density);
  return one + load * (1 - none) / (3 * density);
}

std::vector<Estimate> teams(const Lanes& lanes, size_t columns, size_t inputs, size_t outputs, size_t kept) {
  const Cycles each(lanes);
  const size_t most = std::clamp<size_t>(input_bytes() / (columns * lanes.width * sizeof(float)), 1, inputs);
  const size_t block = ceil_div(inputs, ceil_div(inputs, most));
  const auto vectors = static_cast<double>(columns), sums = static_cast<double>(outputs * ceil_div(inputs, block));
  std::vector<Estimate> found;
  for (size_t team = 0; team < std::size(kTeams); ++team) {
    if (!lanes.accumulate[1][columns][team]) continue;
    const auto together = static_cast<double>(kTeams[team]);
    // A sum waits 4 cycles for the one before it; the other channels of a team fill them, those of a trio in any order.
    const double chains = team == kTrio ? 4.0 : together;
    const double density = static_cast<double>(kept) / static_cast<double>(inputs * outputs);
    const double taps =
        static_cast<double>(kept) * std::max(vectors * each.multiply(team, density) + each.tap, 4.0 / chains);
    const double cycles = (taps + sums * (vectors * each.spill + each.visit(team) / together)) / vectors;
    found.emplace_back(cycles,
                       Plan{static_cast<uint32_t>(columns), static_cast<uint32_t>(team), static_cast<uint32_t>(block)});
  }
  return found;
}

}  // namespace sift
