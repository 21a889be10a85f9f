#include "kernels/max_pool.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dispatch/isa.h"
#include "ops/arranged_tensor.h"
#include "ops/node.h"
#include "ops/ops.h"
#include "ops/sparse_op.h"

namespace sift {
namespace {

constexpr const char* kName = "ArrangedMaxPool";

class MaxPool {
 public:
  explicit MaxPool(const NodeInfo& node) : api_(node.api()), scratch_(Scratch::shared()) {
    const auto kernel = node.integers("kernel_shape", 2), strides = node.integers("strides", 2);
    check_range("kernel_shape", kernel, 1);
    check_range("strides", strides, 1);
    base_.kernel_h = kernel[0], base_.kernel_w = kernel[1];
    base_.stride_h = strides[0], base_.stride_w = strides[1];
    arrangement_ = arrangement_of_image(node);
    usable_isas();  // a wrong SIFT_FORCE_ISA is an error now, not at the first run
  }

  void compute(OrtKernelContext* raw) {
    const RunContext context(api_, raw);
    const Lanes& lanes = lanes_of(usable_isas().front());
    const Tensor input = context.input(0);
    const Meaning x = arrangement_.x ? open_arranged(input, lanes.width) : as_it_is(input);
    PoolShape shape = shape_of(x.dimensions);
    const std::vector<int64_t> output{shape.images, shape.channels, shape.out_height(), shape.out_width()};
    SessionWorkers workers(context);
    if (!x.arranged || shape.images == 0) {  // where there are none, a header can say any size
      return max_pool(shape, x.data, context.output(0, output), workers);
    }
    const bool same = x.reading.stride_h == shape.stride_h && x.reading.stride_w == shape.stride_w;
    if (!same || !x.reading.halo.covers(shape.halo())) {
      throw Refused(ort::kInvalidArgument, "X was arranged for another kernel");
    }
    const ArrangedImage image(lanes.width, shape.images, shape.channels, shape.height, shape.width, x.reading);
    check_floats(x, image.floats(static_cast<size_t>(shape.images)));
    shape.reading_x = x.reading;
    shape.arranged_y = arrangement_.y, shape.reading_y = arrangement_.reading;
    const auto pool = prepared(shape, lanes);
    float* y = nullptr;
    if (pool->arranged_y()) {
      const size_t floats = kHeaderFloats + pool->y_floats();
      y = begin_arranged(context.output(0, {static_cast<int64_t>(floats)}), output, shape.reading_y, lanes.width);
    } else {
      y = context.output(0, output);
    }
    pool->run(x.data, y, workers, *scratch_);
  }

  static ort::CustomOp op();

 private:
  PoolShape shape_of(const std::vector<int64_t>& x) const {
    if (x.size() != 4 || x[2] < base_.kernel_h || x[3] < base_.kernel_w) {
      throw Refused(ort::kInvalidArgument, "X has shape " + to_string(x) + " where images [N, C, H, W] of " +
                                               to_string({base_.kernel_h, base_.kernel_w}) + " or more are needed");
    }
    PoolShape shape = base_;
    shape.images = x[0], shape.channels = x[1], shape.height = x[2], shape.width = x[3];
    return shape;
  }

  // For the shape lately met.
  std::shared_ptr<const ArrangedMaxPool> prepared(const PoolShape& shape, const Lanes& lanes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!latest_ || latest_->shape().tied() != shape.tied()) {
      latest_ = std::make_shared<const ArrangedMaxPool>(shape, lanes);
    }
    return latest_;
  }

  const ort::Api api_;
  const std::shared_ptr<Scratch> scratch_;
  PoolShape base_{};
  Arrangement arrangement_;
  std::mutex mutex_;
  std::shared_ptr<const ArrangedMaxPool> latest_;
};

ort::CustomOp MaxPool::op() {
  ort::CustomOp made = with_one_output();
  made.GetName = [](const ort::CustomOp*) { return kName; };
  made.GetInputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  made.GetInputType = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  made.GetInputCharacteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  made.CreateKernelV2 = [](const ort::CustomOp*, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
    return created(kName, table, info, [&](const NodeInfo& node, const std::string&) { *kernel = new MaxPool(node); });
  };
  made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    auto& self = *static_cast<MaxPool*>(kernel);
    return guarded(self.api_, "", [&] { self.compute(context); });  // onnxruntime itself names the node here
  };
  made.KernelDestroy = [](void* kernel) { delete static_cast<MaxPool*>(kernel); };
  return made;
}

}  // namespace

const ort::CustomOp& arranged_max_pool() {
  static const ort::CustomOp op = MaxPool::op();
  return op;
}

}  // namespace sift
