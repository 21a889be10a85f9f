#include <algorithm>
#include <stdexcept>

#include "dispatch/kernel.h"
#include "kernels/conv_patches.h"
#include "kernels/conv_points.h"
#include "kernels/linear_columns.h"
#include "kernels/linear_panels.h"

namespace sift {
namespace {

template <class Shape, class Family>
class PreparedFamily final : public Prepared {
 public:
  PreparedFamily(const Shape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan)
      : family_(shape, lanes, weights, plan) {}

  void run(const Epilogue& epilogue, const float* x, float* y, size_t count, Workers& workers,
           Scratch& scratch) const override {
    family_.run(epilogue, x, y, count, workers, scratch);
  }

 private:
  Family family_;
};

template <class Shape, class Family, const Lanes& lanes>
Kernel<Shape> row(const char* name, Isa isa) {
  return {name,
          isa,
          [](const Shape& shape) { return Family::supports(shape, lanes); },
          [](const Shape& shape) { return Family::representative(shape, lanes); },
          [](const Shape& shape, size_t kept) { return Family::plans(shape, lanes, kept); },
          [](const Shape& shape, const Weights& weights, const Plan& plan) -> std::unique_ptr<const Prepared> {
            return std::make_unique<PreparedFamily<Shape, Family>>(shape, lanes, weights, plan);
          }};
}

template <class Shape, class Family>
std::vector<Kernel<Shape>> rows(const char* name) {
  return {
#ifdef SIFT_HAS_X86
      row<Shape, Family, kAvx512Lanes>(name, Isa::kAvx512),
      row<Shape, Family, kAvx2Lanes>(name, Isa::kAvx2),
#endif
      row<Shape, Family, kPortableLanes>(name, Isa::kPortable),
  };
}

template <class Row>
std::vector<Row> joined(std::vector<Row> first, const std::vector<Row>& then) {
  first.insert(first.end(), then.begin(), then.end());
  return first;
}

}  // namespace

template <>
const std::vector<Kernel<ConvShape>>& kernels<ConvShape>() {
  static const auto table =
      joined(rows<ConvShape, ConvPoints>("conv_points"), rows<ConvShape, ConvPatches>("conv_patches"));
  return table;
}

template <>
const std::vector<Kernel<LinearShape>>& kernels<LinearShape>() {
  static const auto table =
      joined(rows<LinearShape, LinearColumns>("linear_columns"), rows<LinearShape, LinearPanels>("linear_panels"));
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
