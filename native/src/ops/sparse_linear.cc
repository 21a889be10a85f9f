#include "kernels/arranged.h"
#include "ops/ops.h"
#include "ops/sparse_op.h"

namespace sift {
namespace {

struct SparseLinear {
  static constexpr const char* kName = "SparseLinear";
  using Shape = LinearShape;

  struct Problem {
    LinearShape shape;
    size_t count;
    std::vector<int64_t> output;
  };

  explicit SparseLinear(const NodeInfo& node) : weight_shape(node.integers("weight_shape", 2)) {
    check_range("weight_shape", weight_shape, 1);
    const auto arranged = node.optional_integers("arranged", 2);
    if (arranged.empty()) return;
    arrangement = {arranged[0] != 0, arranged[1] != 0, {}};
    if (arrangement.y && node.has_input(kResidual)) {
      throw Refused(ort::kInvalidGraph, "attribute arranged is not for the Y of a layer with a residual");
    }
  }

  Problem problem(std::vector<int64_t> x) const {
    const int64_t inputs = weight_shape[1], outputs = weight_shape[0];
    if (x.empty() || x.back() != inputs) {
      throw Refused(ort::kInvalidArgument,
                    "X has shape " + to_string(x) + " where [..., " + std::to_string(inputs) + "] is needed");
    }
    x.back() = 1;
    const size_t tokens = Tensor{x, nullptr}.size();
    x.back() = outputs;
    return {{inputs, outputs, static_cast<int64_t>(tokens)}, tokens, x};
  }

  static Meaning residual(const Tensor& tensor, size_t) { return as_it_is(tensor); }

  // Tells the shape which tensors are arranged. Those of few tokens never are.
  void arrange(LinearShape& shape, const Meaning& x, const std::optional<Meaning>&, size_t lanes) const {
    shape.arranged_x = x.arranged;
    if (x.arranged) check_floats(x, floats(shape.tokens, shape.inputs, lanes));
    shape.arranged_y = arrangement.y && shape.tokens >= ArrangedTokens::kLeast && x.dimensions.size() > 1 &&
                       x.dimensions.size() <= kMaxArrangedRank;
  }

  static size_t arranged_floats(const LinearShape& shape, size_t lanes) {
    return floats(shape.tokens, shape.outputs, lanes);
  }

  const std::vector<int64_t> weight_shape;
  Arrangement arrangement;

 private:
  static size_t floats(int64_t tokens, int64_t features, size_t lanes) {
    return ArrangedTokens(lanes, tokens, features).floats(static_cast<size_t>(tokens));
  }
};

}  // namespace

const std::vector<const ort::CustomOp*>& sparse_linears() { return SparseOp<SparseLinear>::variants(); }

}  // namespace sift
