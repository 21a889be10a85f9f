// Sparse convolution with a 1x1 kernel, family "points": vector lanes are neighbouring pixels.
//
// No tap reads beside its own pixel, so nothing has to be rearranged: a tile's inputs are copied into the L1 cache as
// they lie, and its sums are rows of the output.
#pragma once

#include "formats/bitmask.h"
#include "kernels/lanes.h"
#include "kernels/plan.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/taps.h"
#include "kernels/workers.h"

namespace sift {

class ConvPoints {
 public:
  // Strides, padding and arranged tensors are ConvPatches' affair.
  static bool supports(const ConvShape& shape, const Lanes& lanes);

  static ConvShape representative(ConvShape shape, const Lanes& lanes);

  // As of ConvPatches.
  static std::vector<Plan> plans(const ConvShape& shape, const Lanes& lanes, size_t kept);
  ConvPoints(const ConvShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan);

  // As ConvPatches::run.
  void run(const Epilogue& epilogue, const float* x, float* y, size_t images, Workers& workers, Scratch& scratch) const;

 private:
  const Lanes& lanes_;
  size_t channels_, filters_, pixels_;
  size_t columns_;  // vectors in a tile
  size_t team_, block_;
  size_t part_;  // filters
  Taps taps_;
};

}  // namespace sift
