// How a kernel computes one shape: a few numbers that it alone understands.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace sift {

using Plan = std::vector<uint32_t>;

// A plan and its estimated cost, in any unit.
using Estimate = std::pair<double, Plan>;

// The plans, cheapest first; of two that cost the same the earlier one.
inline std::vector<Plan> ranked(std::vector<Estimate> estimates) {
  std::stable_sort(estimates.begin(), estimates.end(),
                   [](const Estimate& a, const Estimate& b) { return a.first < b.first; });
  std::vector<Plan> plans;
  for (Estimate& estimate : estimates) plans.push_back(std::move(estimate.second));
  return plans;
}

}  // namespace sift
