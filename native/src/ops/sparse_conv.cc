#include "kernels/arranged.h"
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
    const auto arranged = node.optional_integers("arranged", 6);
    if (arranged.empty()) return;
    check_range("arranged", arranged, 0);
    arrangement = {arranged[0] != 0, arranged[1] != 0, {arranged[2], arranged[3], arranged[4], arranged[5]}};
    const Halo halo = base_.halo();
    if (arrangement.x && (strides != std::vector<int64_t>{1, 1} || base_.bottom != halo.bottom ||
                          base_.right != halo.right || halo.bottom < 0 || halo.right < 0)) {
      throw Refused(ort::kInvalidGraph, "attribute arranged is for an X of the size of Y, with a stride of 1");
    }
  }

  Problem problem(const std::vector<int64_t>& x) const {
    if (x.size() != 4 || x[1] != base_.channels) {
      throw Refused(ort::kInvalidArgument, "X has shape " + to_string(x) + " where [N, " +
                                               std::to_string(base_.channels) + ", H, W] is needed");
    }
    if (x[2] > kMaxExtent || x[3] > kMaxExtent) {
      throw Refused(ort::kInvalidArgument, "X of shape " + to_string(x) + " is larger than " +
                                               std::to_string(kMaxExtent) + " pixels along an axis");
    }
    ConvShape shape = base_;
    shape.images = x[0], shape.height = x[2], shape.width = x[3];
    const int64_t out_h = shape.out_height(), out_w = shape.out_width();
    if (out_h < 1 || out_w < 1) {
      throw Refused(ort::kInvalidArgument,
                    "X of shape " + to_string(x) + ", padded, is smaller than the dilated kernel");
    }
    return {shape, static_cast<size_t>(x[0]), {x[0], shape.filters, out_h, out_w}};
  }

  // An image has four axes.
  static Meaning residual(const Tensor& tensor, size_t lanes) { return open_arranged(tensor, lanes); }

  // Tells the shape which tensors are arranged.
  void arrange(ConvShape& shape, const Meaning& x, const std::optional<Meaning>& residual, size_t lanes) const {
    shape.arranged_x = x.arranged;
    shape.arranged_y = arrangement.y;
    shape.halo_y = arrangement.halo;
    if (x.arranged) {
      if (!(x.halo == shape.halo())) throw Refused(ort::kInvalidArgument, "X was arranged for another kernel");
      check_floats(x, floats(shape, shape.channels, x.halo, lanes));
    }
    if (residual && residual->arranged) {
      shape.arranged_residual = true, shape.halo_residual = residual->halo;
      check_floats(*residual, floats(shape, shape.filters, residual->halo, lanes));
    }
  }

  static size_t arranged_floats(const ConvShape& shape, size_t lanes) {
    return floats(shape, shape.filters, shape.halo_y, lanes);
  }
  const std::vector<int64_t> weight_shape;
  Arrangement arrangement;

 private:
  // Of an arranged image of Y's height and width.
  static size_t floats(const ConvShape& s, int64_t channels, const Halo& halo, size_t lanes) {
    return ArrangedImage(lanes, s.images, channels, s.out_height(), s.out_width(), halo)
        .floats(static_cast<size_t>(s.images));
  }

  ConvShape base_{};
};

}  // namespace

const std::vector<const ort::CustomOp*>& sparse_convs() { return SparseOp<SparseConv>::variants(); }

}  // namespace sift
