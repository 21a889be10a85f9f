// Sparse linear layer, family "rows": vector lanes are tokens.
//
// Y[token][output] = bias[output] + sum of weight * X[token][input] over the kept weights. X is transposed into panels
// [input][token] of one tile of tokens each, and the sums are transposed back.
#pragma once

#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/taps.h"
#include "kernels/workers.h"

namespace sift {

class LinearRows {
 public:
  // Panels for few tokens are narrow; shape.tokens counts for no more than how narrow.
  LinearRows(const LinearShape& shape, const Lanes& lanes);

  // The same for all token counts that share one width of panels.
  static LinearShape representative(LinearShape shape, const Lanes& lanes);

  TapLayout layout() const;

  // x: [tokens][inputs], y: [tokens][outputs], bias: [outputs] or null; threads as in ConvRows::run.
  void run(const Taps& taps, const float* bias, const float* x, float* y, size_t tokens, Workers& workers,
           Scratch& scratch) const;

 private:
  const Lanes& lanes_;
  size_t inputs_, outputs_;
  size_t pitch_;  // floats from a panel's row to the next: the widest tile
  size_t block_;  // inputs a block
  size_t part_;   // outputs a part
};

}  // namespace sift
