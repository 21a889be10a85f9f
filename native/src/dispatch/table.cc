#include <algorithm>
#include <stdexcept>

#include "dispatch/kernel.h"
#include "formats/pack_taps.h"
#include "kernels/conv_rows.h"
#include "kernels/linear_rows.h"

namespace sift {
namespace {

template <class Rows>
class PreparedRows final : public Prepared {
 public:
  template <class Shape>
  PreparedRows(const Shape& shape, const Lanes& lanes, const Weights& weights)
      : rows_(shape, lanes), taps_(pack_taps(weights, rows_.layout())) {}

  void run(const float* bias, const float* x, float* y, size_t count, Workers& workers,
           Scratch& scratch) const override {
    rows_.run(taps_, bias, x, y, count, workers, scratch);
  }

 private:
  Rows rows_;
  Taps taps_;
};

template <class Shape>
bool any(const Shape&) {
  return true;
}

template <const Lanes& lanes>
Kernel<ConvShape> conv_rows(Isa isa) {
  return {"conv_rows", isa, any<ConvShape>, [](const ConvShape& shape) { return shape; },
          [](const ConvShape& shape, const Weights& weights) -> std::unique_ptr<const Prepared> {
            return std::make_unique<PreparedRows<ConvRows>>(shape, lanes, weights);
          }};
}

template <const Lanes& lanes>
Kernel<LinearShape> linear_rows(Isa isa) {
  return {"linear_rows", isa, any<LinearShape>,
          [](const LinearShape& shape) { return LinearRows::representative(shape, lanes); },
          [](const LinearShape& shape, const Weights& weights) -> std::unique_ptr<const Prepared> {
            return std::make_unique<PreparedRows<LinearRows>>(shape, lanes, weights);
          }};
}

}  // namespace

template <>
const std::vector<Kernel<ConvShape>>& kernels<ConvShape>() {
  static const std::vector<Kernel<ConvShape>> table = {
#ifdef SIFT_HAS_AVX2
      conv_rows<kAvx2Lanes>(Isa::kAvx2),
#endif
      conv_rows<kScalarLanes>(Isa::kScalar),
  };
  return table;
}

template <>
const std::vector<Kernel<LinearShape>>& kernels<LinearShape>() {
  static const std::vector<Kernel<LinearShape>> table = {
#ifdef SIFT_HAS_AVX2
      linear_rows<kAvx2Lanes>(Isa::kAvx2),
#endif
      linear_rows<kScalarLanes>(Isa::kScalar),
  };
  return table;
}

template <class Shape>
const Kernel<Shape>& choose(const Shape& shape) {
  const std::vector<Isa>& usable = usable_isas();
  for (const Kernel<Shape>& kernel : kernels<Shape>()) {
    if (std::count(usable.begin(), usable.end(), kernel.isa) && kernel.supports(shape)) return kernel;
  }
  throw std::invalid_argument("no kernel for " + join(usable) + " supports this shape");
}

template const Kernel<ConvShape>& choose(const ConvShape& shape);
template const Kernel<LinearShape>& choose(const LinearShape& shape);

}  // namespace sift
