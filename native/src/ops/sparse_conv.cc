#include "ops/ops.h"
#include "ops/sparse_op.h"

namespace sift {
namespace {

struct SparseConv {
  static constexpr const char* kName = "SparseConv";
  using Shape = ConvShape;

  struct Problem {
    ConvShape shape;
    size_t count;
    std::vector<int64_t> output;
  };

  explicit SparseConv(const NodeInfo& node) : weight_shape(node.integers("weight_shape", 4)) {
    const auto strides = node.integers("strides", 2), dilations = node.integers("dilations", 2);
    const auto pads = node.integers("pads", 4);
    const int64_t groups = node.integer("group");
    check_range("weight_shape", weight_shape, 1);
    check_range("strides", strides, 1);
    check_range("dilations", dilations, 1);
    check_range("pads", pads, 0);
    check_range("group", {groups}, 1);
    if (weight_shape[0] % groups != 0) {
      throw Refused(ort::kInvalidGraph, "attribute group " + std::to_string(groups) + " does not divide the " +
                                            std::to_string(weight_shape[0]) + " output channels");
    }
    check_range("weight_shape[1] times group", {weight_shape[1] * groups}, 1);
    base_.channels = weight_shape[1] * groups;
    base_.filters = weight_shape[0];
    base_.kernel_h = weight_shape[2], base_.kernel_w = weight_shape[3];
    base_.stride_h = strides[0], base_.stride_w = strides[1];
    base_.dilation_h = dilations[0], base_.dilation_w = dilations[1];
    base_.top = pads[0], base_.left = pads[1], base_.bottom = pads[2], base_.right = pads[3];
    base_.groups = groups;
  }

  Problem problem(const std::vector<int64_t>& x) const {
    if (x.size() != 4 || x[1] != base_.channels) {
      throw Refused(ort::kInvalidArgument, "X has shape " + to_string(x) + " where [N, " +
                                               std::to_string(base_.channels) + ", H, W] is needed");
    }
    ConvShape shape = base_;
    shape.images = x[0], shape.height = x[2], shape.width = x[3];
    const int64_t out_h = shape.out_height(), out_w = shape.out_width();
    if (x[2] > kMaxExtent || x[3] > kMaxExtent || out_h < 1 || out_w < 1) {
      throw Refused(ort::kInvalidArgument,
                    "X of shape " + to_string(x) + ", padded, is smaller than the dilated kernel");
    }
    return {shape, static_cast<size_t>(x[0]), {x[0], shape.filters, out_h, out_w}};
  }

  const std::vector<int64_t> weight_shape;

 private:
  ConvShape base_{};
};

}  // namespace

const std::vector<const ort::CustomOp*>& sparse_convs() { return SparseOp<SparseConv>::variants(); }

}  // namespace sift
