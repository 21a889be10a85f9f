// Sparse linear layer, family "panels": vector lanes are tokens.
//
// Y[token][output] = activation(bias[output] + sum of weight * X[token][input] + residual[token][output]) over the kept
// weights. X is transposed into panels [input][token] of one tile of tokens each, and the sums are transposed back,
// where they are not arranged (see arranged.h): in panels.
#pragma once

#include "formats/bitmask.h"
#include "kernels/lanes.h"
#include "kernels/plan.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/taps.h"
#include "kernels/workers.h"

namespace sift {

class LinearPanels {
 public:
  static bool supports(const LinearShape&, const Lanes&) { return true; }

  // The same for all token counts that share one width of panels.
  static LinearShape representative(LinearShape shape, const Lanes& lanes);

  // As of ConvPatches. Panels for few tokens are narrow; shape.tokens counts for no more than how narrow.
  static std::vector<Plan> plans(const LinearShape& shape, const Lanes& lanes, size_t kept);
  LinearPanels(const LinearShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan);

  // x: [tokens][inputs], y: [tokens][outputs], or arranged, as the shape says; y then has no residual. Threads as in
  // ConvPatches::run.
  void run(const Epilogue& epilogue, const float* x, float* y, size_t tokens, Workers& workers, Scratch& scratch) const;

 private:
  const Lanes& lanes_;
  size_t inputs_, outputs_;
  size_t columns_;  // vectors in a panel's row
  size_t team_;     // index into kTeams
  size_t block_;    // inputs a block
  bool arranged_x_, arranged_y_;
  size_t part_;  // outputs a part
  Taps taps_;
};

}  // namespace sift
