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

  const std::vector<int64_t> weight_shape;
};

}  // namespace

const std::vector<const ort::CustomOp*>& sparse_linears() { return SparseOp<SparseLinear>::variants(); }

}  // namespace sift
