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
    arrangement = arrangement_of_image(node);
    if (arrangement.x && !base_.same_size()) {
      throw Refused(ort::kInvalidGraph, "attribute arranged is for an X of the size of Y times the strides");
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

  // Tells the shape which tensors are arranged: Y where as many images share the lanes of those that read it.
  void arrange(ConvShape& shape, const Meaning& x, const std::optional<Meaning>& residual, size_t lanes) const {
    const Grid grid(lanes, shape.images, shape.out_height(), shape.out_width());
    shape.arranged_x = x.arranged;
    shape.reading_y = arrangement.reading;
    shape.arranged_y = arrangement.y && image_of_y(shape, shape.reading_y, lanes).images == grid.images;
    if (x.arranged) {
      shape.reading_x = x.reading;
      const bool same = x.reading.stride_h == shape.stride_h && x.reading.stride_w == shape.stride_w;
      if (!same || !x.reading.halo.covers(shape.halo())) {
        throw Refused(ort::kInvalidArgument, "X was arranged for another kernel");
      }
      const ArrangedImage image(lanes, shape.images, shape.channels, shape.height, shape.width, x.reading);
      check_floats(x, image.floats(static_cast<size_t>(shape.images)));
    }
    if (residual && residual->arranged) {
      shape.arranged_residual = true, shape.reading_residual = residual->reading;
      if (residual->reading.stride_h != 1 || residual->reading.stride_w != 1) {
        throw Refused(ort::kInvalidArgument, "the residual was arranged for strides");
      }
      check_floats(*residual, image_of_y(shape, residual->reading, lanes).floats(static_cast<size_t>(shape.images)));
    }
  }

  static size_t arranged_floats(const ConvShape& shape, size_t lanes) {
    return image_of_y(shape, shape.reading_y, lanes).floats(static_cast<size_t>(shape.images));
  }

  const std::vector<int64_t> weight_shape;
  Arrangement arrangement;

 private:
  static ArrangedImage image_of_y(const ConvShape& s, const Reading& reading, size_t lanes) {
    return {lanes, s.images, s.filters, s.out_height(), s.out_width(), reading};
  }

  ConvShape base_{};
};

}  // namespace

const std::vector<const ort::CustomOp*>& sparse_convs() { return SparseOp<SparseConv>::variants(); }

}  // namespace sift
