// What SparseConv and SparseLinear share: X, bitmask, values and an optional bias; weights checked when the session is
// created and repacked when a shape is first met.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "dispatch/kernel.h"
#include "ops/node.h"
#include "ops/report.h"

namespace sift {

enum Input : size_t { kX, kBitmask, kValues, kBias };

// The weight matrix and bias of a node, checked. The data stays onnxruntime's.
struct Parameters {
  // Refuses inputs that are not constant or do not fit `weight_shape`, whose first entry is the number of outputs.
  Parameters(const NodeInfo& node, const std::vector<int64_t>& weight_shape);

  size_t rows, columns;
  bool has_bias;
};

// Refuses an entry of `values` outside [least, kMaxExtent].
void check_range(const char* attribute, const std::vector<int64_t>& values, int64_t least);

// The kernel for each shape lately met, its weights repacked.
template <class Shape>
class Repacked {
 public:
  struct Entry {
    Shape shape;
    const Kernel<Shape>* kernel;
    std::unique_ptr<const Prepared> prepared;
  };

  std::shared_ptr<const Entry> get(const Shape& asked, const Parameters& parameters, const RunContext& context) {
    const Kernel<Shape>& kernel = choose(asked);
    const Shape shape = kernel.representative(asked);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& entry : recent_) {
      if (entry->kernel == &kernel && entry->shape.tied() == shape.tied()) return entry;
    }
    const Weights weights{parameters.rows, parameters.columns,
                          static_cast<const uint8_t*>(context.input(kBitmask).data),
                          static_cast<const float*>(context.input(kValues).data)};
    auto entry = std::make_shared<const Entry>(Entry{shape, &kernel, kernel.prepare(shape, weights)});
    if (recent_.size() == kShapes) recent_.erase(recent_.begin());
    recent_.push_back(entry);
    return entry;
  }

 private:
  static constexpr size_t kShapes =
      4;  // each holds a copy of the weights; image sizes rarely vary more within a session
  std::mutex mutex_;
  std::vector<std::shared_ptr<const Entry>> recent_;
};

// One op instance: `Op` reads its attributes and gives shapes, the rest is here.
template <class Op>
class SparseOp {
 public:
  SparseOp(const NodeInfo& node, const std::string& name)
      : api_(node.api()),
        op_(node),
        parameters_(node, op_.weight_shape),
        scratch_(Scratch::shared()),
        record_(name, Op::kName) {}

  void compute(OrtKernelContext* raw) {
    const RunContext context(api_, raw);
    const Tensor x = context.input(kX);
    const auto problem = op_.problem(x.dimensions);
    float* y = context.output(0, problem.output);
    if (problem.count == 0) return;
    const auto entry = repacked_.get(problem.shape, parameters_, context);
    const float* bias = parameters_.has_bias ? static_cast<const float*>(context.input(kBias).data) : nullptr;
    SessionWorkers workers(context);
    entry->prepared->run(bias, static_cast<const float*>(x.data), y, problem.count, workers, *scratch_);
    record_.ran(entry->kernel->name, sift::name(entry->kernel->isa));
  }

  static ort::CustomOp callbacks();

 private:
  static OrtStatus* create(const ort::CustomOp*, const OrtApi* table, const OrtKernelInfo* info, void** kernel);

  const ort::Api api_;
  const Op op_;
  const Parameters parameters_;
  const std::shared_ptr<Scratch> scratch_;
  Repacked<typename Op::Shape> repacked_;
  Record record_;
};

template <class Op>
OrtStatus* SparseOp<Op>::create(const ort::CustomOp*, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
  const NodeInfo node(table, info);
  std::string name;
  OrtStatus* status = guarded(node.api(), "", [&] { name = node.name(); });
  if (status) return status;
  return guarded(node.api(), Op::kName + (" node '" + name + "': "), [&] {
    usable_isas();  // a wrong SIFT_FORCE_ISA is an error now, not at the first run
    *kernel = new SparseOp(node, name);
  });
}

template <class Op>
ort::CustomOp SparseOp<Op>::callbacks() {
  ort::CustomOp op{};
  op.version = ort::kApiVersion;
  op.GetName = [](const ort::CustomOp*) { return Op::kName; };
  op.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the CPU's
  op.GetInputTypeCount = [](const ort::CustomOp*) -> size_t { return 4; };
  op.GetInputType = [](const ort::CustomOp*, size_t index) -> int {
    return index == kBitmask ? ort::kUint8 : ort::kFloat;
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) -> int {
    return index == kBias ? ort::kOptional : ort::kRequired;
  };
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return 0; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.GetOutputType = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op.GetStartVersion = [](const ort::CustomOp*) { return 1; };
  op.GetEndVersion = [](const ort::CustomOp*) { return INT32_MAX; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    auto& self = *static_cast<SparseOp*>(kernel);
    return guarded(self.api_, "", [&] { self.compute(context); });  // onnxruntime itself names the node here
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<SparseOp*>(kernel); };
  return op;
}

}  // namespace sift
