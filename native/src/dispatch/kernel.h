// The one table of kernels. Ops dispatch from it, the tests check every row of it, the benchmark times every row of it.
#pragma once

#include <memory>
#include <vector>

#include "dispatch/isa.h"
#include "formats/bitmask.h"
#include "kernels/epilogue.h"
#include "kernels/plan.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/workers.h"

namespace sift {

// Weights repacked by a kernel for one shape. Immutable: any number of threads may run it at once.
class Prepared {
 public:
  virtual ~Prepared() = default;

  // y = activation(op(x) + bias + residual) for `count` images (convolution) or tokens (linear).
  virtual void run(const Epilogue& epilogue, const float* x, float* y, size_t count, Workers& workers,
                   Scratch& scratch) const = 0;
};

template <class Shape>
struct Kernel {
  const char* name;
  Isa isa;
  bool (*supports)(const Shape& shape);
  // One shape standing for all that can use the same Prepared.
  Shape (*representative)(const Shape& shape);
  // Ways to compute such a shape, cheapest first by the kernel's own estimate for `kept` weights; there is at least
  // one.
  std::vector<Plan> (*plans)(const Shape& shape, size_t kept);
  // `plan` is one of the shape's; it changes no result beyond rounding.
  //
  // Throws std::bad_alloc, or std::length_error where the shape is too large for the kernel.
  std::unique_ptr<const Prepared> (*prepare)(const Shape& shape, const Weights& weights, const Plan& plan);
};

// Preferred kernels first. Rows whose instruction set the processor lacks are there too: see available_isas.
template <class Shape>
const std::vector<Kernel<Shape>>& kernels();

template <>
const std::vector<Kernel<ConvShape>>& kernels<ConvShape>();
template <>
const std::vector<Kernel<LinearShape>>& kernels<LinearShape>();

// The first kernel among usable_isas() that supports `shape`. The portable kernels support every shape.
//
// Throws std::invalid_argument where there is none, or SIFT_FORCE_ISA is wrong.
template <class Shape>
const Kernel<Shape>& choose(const Shape& shape);

}  // namespace sift
