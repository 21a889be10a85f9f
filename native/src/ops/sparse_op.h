// What SparseConv and SparseLinear share: X, bitmask, values, an optional bias and the epilogue; weights checked when
// the session is created and repacked when a shape is first met.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dispatch/kernel.h"
#include "dispatch/ways.h"
#include "ops/arranged_tensor.h"
#include "ops/node.h"
#include "ops/report.h"

namespace sift {

enum Input : size_t { kX, kBitmask, kValues, kBias, kResidual };

// One of the ops that a layer has for each epilogue; onnxruntime knows the first part of it.
struct Variant : ort::CustomOp {
  std::string name;
  Activation activation;
  bool adds;  // a residual
};

// The suffix of an op's name, and by what attributes it is parametrised; null for none.
struct ActivationName {
  const char* suffix;
  const char* low;
  const char* high;
};
constexpr ActivationName kActivationNames[kActivations] = {
    {"", nullptr, nullptr},          {"Relu", nullptr, nullptr}, {"Clip", "min", "max"},
    {"LeakyRelu", "alpha", nullptr}, {"Silu", nullptr, nullptr}, {"Gelu", nullptr, nullptr},
    {"GeluTanh", nullptr, nullptr},
};

// The weight matrix and bias of a node, checked. The data stays onnxruntime's.
struct Parameters {
  // Refuses inputs that are not constant or do not fit `weight_shape`, whose first entry is the number of outputs.
  Parameters(const NodeInfo& node, const std::vector<int64_t>& weight_shape);

  size_t rows, columns;
  bool has_bias;
};

// The kept weights in the input `values`. Refuses a type that is none of theirs.
Values values_of(const Tensor& values);

// Refuses an entry of `values` outside [least, kMaxExtent].
void check_range(const char* attribute, const std::vector<int64_t>& values, int64_t least);

// Which of a node's tensors may be arranged: what its attribute `arranged` says.
struct Arrangement {
  bool x = false, y = false;
  Reading reading;  // of Y
};

// Of an op whose tensors are images.
Arrangement arrangement_of_image(const NodeInfo& node);

// What the node's attribute `plan` says, where that is for this processor. Refuses one that says nothing.
std::optional<StoredWay> stored_way(const NodeInfo& node);

// The kernel for each shape lately met, its weights repacked.
template <class Shape>
class Repacked {
 public:
  struct Entry {
    Shape shape;
    const Kernel<Shape>* usual;  // which the shape stands for all of
    bool stored;                 // whether the way is the stored one
    const Kernel<Shape>* kernel;
    std::unique_ptr<const Prepared> prepared;
  };

  explicit Repacked(std::optional<StoredWay> stored) : stored_(std::move(stored)) {}

  std::shared_ptr<const Entry> get(const Shape& asked, const Parameters& parameters, const RunContext& context) {
    const Kernel<Shape>& usual = choose(asked);
    const Shape shape = usual.representative(asked);
    const bool stored = stored_ && stored_->sizes == asked.sizes();
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& entry : recent_) {
      if (entry->stored == stored && entry->usual == &usual && entry->shape.tied() == shape.tied()) return entry;
    }
    const Weights weights{parameters.rows, parameters.columns,
                          static_cast<const uint8_t*>(context.input(kBitmask).data), values_of(context.input(kValues))};
    const Way<Shape> way = way_of(asked, count_kept(weights), stored ? &*stored_ : nullptr);
    auto prepared = way.kernel->prepare(way.kernel->representative(asked), weights, way.plan);
    auto entry = std::make_shared<const Entry>(Entry{shape, &usual, stored, way.kernel, std::move(prepared)});
    if (recent_.size() == kShapes) recent_.erase(recent_.begin());
    recent_.push_back(entry);
    return entry;
  }

 private:
  static constexpr size_t kShapes =
      4;  // each holds a copy of the weights; image sizes rarely vary more within a session
  const std::optional<StoredWay> stored_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<const Entry>> recent_;
};

// One op instance: `Layer` reads its attributes and gives shapes, the rest is here.
template <class Layer>
class SparseOp {
 public:
  SparseOp(const Variant& variant, const NodeInfo& node, const std::string& name)
      : api_(node.api()),
        variant_(variant),
        layer_(node),
        parameters_(node, layer_.weight_shape),
        scratch_(Scratch::shared()),
        repacked_(stored_way(node)),
        record_(name, variant.name.c_str()) {
    const ActivationName& attributes = kActivationNames[static_cast<int>(variant.activation)];
    epilogue_.activation = variant.activation;
    if (attributes.low) epilogue_.low = node.number(attributes.low);
    if (attributes.high) epilogue_.high = node.number(attributes.high);
  }

  void compute(OrtKernelContext* raw) {
    const RunContext context(api_, raw);
    const size_t lanes = lanes_of(usable_isas().front()).width;
    const Meaning x = layer_.arrangement.x ? open_arranged(context.input(kX), lanes) : as_it_is(context.input(kX));
    auto problem = layer_.problem(x.dimensions);
    Epilogue epilogue = epilogue_;
    if (parameters_.has_bias) epilogue.bias = static_cast<const float*>(context.input(kBias).data);
    std::optional<Meaning> residual;
    if (variant_.adds) {
      residual = layer_.residual(context.input(kResidual), lanes);
      if (residual->dimensions != problem.output) {
        throw Refused(ort::kInvalidArgument, "residual has shape " + to_string(residual->dimensions) +
                                                 " where the output has " + to_string(problem.output));
      }
      epilogue.residual = residual->data;
    }
    layer_.arrange(problem.shape, x, residual, lanes);
    float* y = nullptr;
    if (problem.shape.arranged_y) {
      const size_t floats = kHeaderFloats + layer_.arranged_floats(problem.shape, lanes);
      y = begin_arranged(context.output(0, {static_cast<int64_t>(floats)}), problem.output, layer_.arrangement.reading,
                         lanes);
    } else {
      y = context.output(0, problem.output);
    }
    if (problem.count == 0) return;
    const auto entry = repacked_.get(problem.shape, parameters_, context);
    SessionWorkers workers(context);
    entry->prepared->run(epilogue, x.data, y, problem.count, workers, *scratch_);
    record_.ran(entry->kernel->name, sift::name(entry->kernel->isa));
  }

  // The ops of this layer, one for each epilogue.
  static const std::vector<const ort::CustomOp*>& variants();

 private:
  static Variant variant(Activation activation, bool adds);
  static OrtStatus* create(const ort::CustomOp*, const OrtApi* table, const OrtKernelInfo* info, void** kernel);

  const ort::Api api_;
  const Variant& variant_;
  const Layer layer_;
  const Parameters parameters_;
  Epilogue epilogue_;  // but for its pointers
  const std::shared_ptr<Scratch> scratch_;
  Repacked<typename Layer::Shape> repacked_;
  Record record_;
};

template <class Layer>
OrtStatus* SparseOp<Layer>::create(const ort::CustomOp* op, const OrtApi* table, const OrtKernelInfo* info,
                                   void** kernel) {
  const auto& variant = static_cast<const Variant&>(*op);
  return created(variant.name, table, info, [&](const NodeInfo& node, const std::string& name) {
    usable_isas();  // a wrong SIFT_FORCE_ISA is an error now, not at the first run
    *kernel = new SparseOp(variant, node, name);
  });
}

template <class Layer>
Variant SparseOp<Layer>::variant(Activation activation, bool adds) {
  Variant op{with_one_output(), {}, activation, adds};
  op.name = std::string(Layer::kName) + (adds ? "Add" : "") + kActivationNames[static_cast<int>(activation)].suffix;
  op.GetName = [](const ort::CustomOp* self) { return static_cast<const Variant*>(self)->name.c_str(); };
  op.GetInputTypeCount = [](const ort::CustomOp* self) -> size_t {
    return static_cast<const Variant*>(self)->adds ? kResidual + 1 : kBias + 1;
  };
  op.GetInputType = [](const ort::CustomOp*, size_t index) -> int {
    return index == kBitmask ? ort::kUint8 : index == kValues ? ort::kUndefined : ort::kFloat;  // undefined: any
  };
  op.GetInputCharacteristic = [](const ort::CustomOp*, size_t index) -> int {
    return index == kBias ? ort::kOptional : ort::kRequired;
  };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    auto& self = *static_cast<SparseOp*>(kernel);
    return guarded(self.api_, "", [&] { self.compute(context); });  // onnxruntime itself names the node here
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<SparseOp*>(kernel); };
  return op;
}

template <class Layer>
const std::vector<const ort::CustomOp*>& SparseOp<Layer>::variants() {
  static const auto& all = *new std::vector<Variant>([] {
    std::vector<Variant> made;
    for (int activation = 0; activation < kActivations; ++activation) {
      for (const bool adds : {false, true}) made.push_back(variant(static_cast<Activation>(activation), adds));
    }
    return made;
  }());
  static const auto& ops = *new std::vector<const ort::CustomOp*>([] {
    std::vector<const ort::CustomOp*> made;
    for (const Variant& op : all) made.push_back(&op);
    return made;
  }());
  return ops;
}

}  // namespace sift
