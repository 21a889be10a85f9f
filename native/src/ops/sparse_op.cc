#include "ops/sparse_op.h"

#include <algorithm>

#include "formats/bitmask.h"

namespace sift {
namespace {

// 2^40 weights are 4 TB: beyond any machine, and far from where arithmetic on counts could overflow.
constexpr size_t kMaxWeights = size_t{1} << 40;

// No layer needs more around it, nor larger strides, and to find the halos of an image takes long.
constexpr int64_t kMaxReading = 256;

}  // namespace

void check_range(const char* attribute, const std::vector<int64_t>& values, int64_t least) {
  for (const int64_t value : values) {
    if (value < least || value > kMaxExtent) {
      throw Refused(ort::kInvalidGraph, std::string("attribute ") + attribute + " " + to_string(values) +
                                            " has an entry outside " + std::to_string(least) + " … " +
                                            std::to_string(kMaxExtent));
    }
  }
}

Arrangement arrangement_of_image(const NodeInfo& node) {
  const auto arranged = node.optional_integers("arranged", 6);
  if (arranged.empty()) return {};
  check_range("arranged", arranged, 0);
  Arrangement result{arranged[0] != 0, arranged[1] != 0, {{arranged[2], arranged[3], arranged[4], arranged[5]}}};
  const auto readers = node.optional_integers("arranged_strides", 2);
  if (!readers.empty()) {
    check_range("arranged_strides", readers, 1);
    result.reading.stride_h = readers[0], result.reading.stride_w = readers[1];
  }
  const auto [halo, down, across] = result.reading;
  if (std::max({halo.top, halo.left, halo.bottom, halo.right, down, across}) > kMaxReading) result.y = false;
  return result;
}

std::optional<StoredWay> stored_way(const NodeInfo& node) {
  const std::optional<std::string> text = node.optional_text("plan");
  if (!text) return std::nullopt;
  try {
    StoredWay way = parse_way(*text);
    return way.cpu == cpu() ? std::optional(std::move(way)) : std::nullopt;
  } catch (const std::invalid_argument& why) {
    throw Refused(ort::kInvalidGraph, why.what());
  }
}

Values values_of(const Tensor& values) {
  switch (values.type) {
    case ort::kFloat:
      return {values.data, ValueType::kFloat};
    case ort::kFloat16:
      return {values.data, ValueType::kFloat16};
    case ort::kBFloat16:
      return {values.data, ValueType::kBFloat16};
  }
  throw Refused(ort::kInvalidGraph,
                "values must be float32, float16 or bfloat16, not of ONNX's type " + std::to_string(values.type));
}

Parameters::Parameters(const NodeInfo& node, const std::vector<int64_t>& weight_shape)
    : rows(static_cast<size_t>(weight_shape[0])), columns(1), has_bias(node.has_input(kBias)) {
  for (size_t i = 1; i < weight_shape.size(); ++i) {
    const auto extent = static_cast<size_t>(weight_shape[i]);
    if (extent > kMaxWeights / rows / columns) {
      throw Refused(ort::kInvalidGraph, "attribute weight_shape " + to_string(weight_shape) + " is too large");
    }
    columns *= extent;
  }
  const Tensor bitmask = node.constant(kBitmask, "bitmask"), values = node.constant(kValues, "values");
  for (const Tensor* tensor : {&bitmask, &values}) {
    if (tensor->dimensions.size() != 1) {
      throw Refused(ort::kInvalidGraph, std::string(tensor == &bitmask ? "bitmask" : "values") +
                                            " must have one dimension, not shape " + to_string(tensor->dimensions));
    }
  }
  values_of(values);
  const std::string why =
      why_invalid(static_cast<const uint8_t*>(bitmask.data), bitmask.size(), values.size(), rows * columns);
  if (!why.empty()) throw Refused(ort::kInvalidGraph, why);
  if (!has_bias) return;
  const Tensor bias = node.constant(kBias, "bias");
  if (bias.dimensions != std::vector<int64_t>{weight_shape[0]}) {
    throw Refused(ort::kInvalidGraph, "bias has shape " + to_string(bias.dimensions) + " where weight_shape " +
                                          to_string(weight_shape) + " needs " + to_string({weight_shape[0]}));
  }
}

}  // namespace sift
