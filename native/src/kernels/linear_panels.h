// Sparse linear layer, family "panels": vector lanes are tokens.
//
// Y[token][output] = activation(bias[output] + sum of weight * X[token][input] + residual[token][output]) over the kept
// weights. X is transposed into panels [input][token] of one tile of tokens each, and the sums are transposed back.
#pragma once

#include "formats/bitmask.h"
#include "kernels/lanes.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/taps.h"
#include "kernels/workers.h"

namespace sift {

class LinearPanels {
 public:
  static bool supports(const LinearShape&, const Lanes&) { return true; }

  // Panels for few tokens are narrow; shape.tokens counts for no more than how narrow.
  LinearPanels(const LinearShape& shape, const Lanes& lanes, const Weights& weights);

  // The same for all token counts that share one width of panels.
  static LinearShape representative(LinearShape shape, const Lanes& lanes);

  // x: [tokens][inputs], y: [tokens][outputs]; threads as in ConvPatches::run.
  void run(const Epilogue& epilogue, const float* x, float* y, size_t tokens, Workers& workers, Scratch& scratch) const;

 private:
  const Lanes& lanes_;
  size_t inputs_, outputs_;
  size_t columns_ = 1;              // vectors in a panel's row
  size_t team_ = 0;                 // index into kTeams
  size_t block_ = 1;                // inputs a block
  size_t part_;                     // outputs a part
  std::vector<uint32_t> position_;  // by input, its first vector in the panel
  Taps taps_;
};

}  // namespace sift
