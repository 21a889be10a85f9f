#include "dispatch/peak.h"

#include <algorithm>
#include <chrono>

#include "dispatch/isa.h"
#include "kernels/lanes.h"

namespace sift {

double peak_gflops() {
  const Lanes& lanes = lanes_of(usable_isas().front());
  constexpr size_t kRounds = 50000;
  const double flops = 2.0 * static_cast<double>(kRounds * kChains * lanes.width);
  double best = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (auto now = begin; now - begin < std::chrono::milliseconds(30);) {
    volatile float sink = lanes.multiply(kRounds);
    (void)sink;
    const auto end = std::chrono::steady_clock::now();
    best = std::max(best, flops / static_cast<double>(std::chrono::nanoseconds(end - now).count()));
    now = end;
  }
  return best;
}

}  // namespace sift
