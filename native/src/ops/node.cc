#include "ops/node.h"

#include <cmath>

namespace sift {
namespace {

Tensor tensor(const ort::Api& api, const OrtValue* value) {
  Tensor result;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  struct Release {
    const ort::Api& api;
    OrtTensorTypeAndShapeInfo* info;
    ~Release() { api.ReleaseTensorTypeAndShapeInfo(info); }
  } const release{api, info};
  check(api.GetTensorElementType(info, &result.type));
  size_t rank = 0;
  check(api.GetDimensionsCount(info, &rank));
  result.dimensions.resize(rank);
  check(api.GetDimensions(info, result.dimensions.data(), rank));
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &result.data));
  return result;
}

// Calls read(buffer, &size) twice, as onnxruntime wants its strings read.
template <class Read>
std::string text(const Read& read) {
  size_t size = 0;
  check(read(nullptr, &size));
  std::string result(size, '\0');
  check(read(result.data(), &size));
  result.resize(size ? size - 1 : 0);  // the closing NUL
  return result;
}

}  // namespace

size_t Tensor::size() const {
  size_t product = 1;
  for (const int64_t dimension : dimensions) product *= static_cast<size_t>(dimension);
  return product;
}

std::string to_string(const std::vector<int64_t>& dimensions) {
  std::string result;
  for (const int64_t dimension : dimensions) result += (result.empty() ? "" : ", ") + std::to_string(dimension);
  return "[" + result + "]";
}

std::string NodeInfo::name() const {
  return text([&](char* out, size_t* size) { return api_.KernelInfo_GetNodeName(info_, out, size); });
}

int64_t NodeInfo::integer(const char* attribute) const {
  int64_t value = 0;
  if (OrtStatus* status = api_.KernelInfoGetAttribute_int64(info_, attribute, &value)) {
    api_.ReleaseStatus(status);
    throw Refused(ort::kInvalidGraph, std::string("attribute ") + attribute + " is missing or not an integer");
  }
  return value;
}

float NodeInfo::number(const char* attribute) const {
  float value = 0;
  OrtStatus* status = api_.KernelInfoGetAttribute_float(info_, attribute, &value);
  if (status || std::isnan(value)) {
    if (status) api_.ReleaseStatus(status);
    throw Refused(ort::kInvalidGraph, std::string("attribute ") + attribute + " is missing or not a number");
  }
  return value;
}

std::optional<std::string> NodeInfo::optional_text(const char* attribute) const {
  size_t size = 0;
  if (OrtStatus* status = api_.KernelInfoGetAttribute_string(info_, attribute, nullptr, &size)) {
    api_.ReleaseStatus(status);
    return std::nullopt;
  }
  return text([&](char* out, size_t* room) { return api_.KernelInfoGetAttribute_string(info_, attribute, out, room); });
}

std::vector<int64_t> NodeInfo::optional_integers(const char* attribute, size_t count) const {
  size_t size = 0;
  if (OrtStatus* status = api_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size)) {
    api_.ReleaseStatus(status);
    return {};
  }
  return integers(attribute, count);
}

std::vector<int64_t> NodeInfo::integers(const char* attribute, size_t count) const {
  std::vector<int64_t> values(count);
  size_t size = 0;
  OrtStatus* status = api_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size);
  if (!status && size == count) status = api_.KernelInfoGetAttributeArray_int64(info_, attribute, values.data(), &size);
  if (status) {
    api_.ReleaseStatus(status);
    throw Refused(ort::kInvalidGraph, std::string("attribute ") + attribute + " is missing or not a list of integers");
  }
  if (size != count) {
    throw Refused(ort::kInvalidGraph, std::string("attribute ") + attribute + " has " + std::to_string(size) +
                                          " entries where " + std::to_string(count) + " are needed");
  }
  return values;
}

bool NodeInfo::has_input(size_t index) const {
  size_t count = 0;
  check(api_.KernelInfo_GetInputCount(info_, &count));
  if (index >= count) return false;
  return !text([&](char* out, size_t* size) { return api_.KernelInfo_GetInputName(info_, index, out, size); }).empty();
}

Tensor NodeInfo::constant(size_t index, const char* what) const {
  int constant = 0;
  const OrtValue* value = nullptr;
  check(api_.KernelInfoGetConstantInput_tensor(info_, index, &constant, &value));
  if (!constant || !value) throw Refused(ort::kInvalidGraph, std::string(what) + " must be a constant initializer");
  return tensor(api_, value);
}

Tensor RunContext::input(size_t index) const {
  const OrtValue* value = nullptr;
  check(api_.KernelContext_GetInput(context_, index, &value));
  return tensor(api_, value);
}

float* RunContext::output(size_t index, const std::vector<int64_t>& dimensions) const {
  constexpr int64_t kMost = int64_t{1} << 40;  // 4 TB; onnxruntime itself says of an overflow neither what nor where
  int64_t size = 1;
  for (const int64_t dimension : dimensions) {
    if (dimension > 0 && size > kMost / dimension) {
      throw Refused(ort::kInvalidArgument, "the output of shape " + to_string(dimensions) + " is too large");
    }
    size *= dimension;
  }
  OrtValue* value = nullptr;
  void* data = nullptr;
  check(api_.KernelContext_GetOutput(context_, index, dimensions.data(), dimensions.size(), &value));
  check(api_.GetTensorMutableData(value, &data));
  return static_cast<float*>(data);
}

void RunContext::parallel_for(void (*task)(void*, size_t), size_t count, void* shared) const {
  // As many batches as tasks: a thread that another process holds up then keeps one task waiting, not its whole share.
  if (count) check(api_.KernelContext_ParallelFor(context_, task, count, count, shared));
}

ort::CustomOp with_one_output() {
  ort::CustomOp op{};
  op.version = ort::kApiVersion;
  op.GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the CPU's
  op.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return 0; };
  op.GetOutputTypeCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.GetOutputType = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op.GetOutputCharacteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op.GetStartVersion = [](const ort::CustomOp*) { return 1; };
  op.GetEndVersion = [](const ort::CustomOp*) { return INT32_MAX; };
  return op;
}

}  // namespace sift
