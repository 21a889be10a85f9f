// As much of onnxruntime as the ops ask for, compiled here, so that a sanitizer sees every access.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops/ort_api.h"
#include "sift/sift.h"
#include "threads.h"

struct OrtStatus {
  int code;
  std::string message;
};
struct OrtTensorTypeAndShapeInfo {
  std::vector<int64_t> dimensions;
  int type;
};
struct OrtValue {
  OrtTensorTypeAndShapeInfo info;
  void* data;
};
struct OrtKernelInfo {
  std::map<std::string, std::vector<int64_t>> attributes;
  std::vector<const OrtValue*> constants;  // by input; null for one that is fed
};
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;
  size_t threads;
  std::vector<float> floats;
  OrtValue output;
};
struct OrtCustomOpDomain {
  std::vector<const sift::ort::CustomOp*> ops;
};
struct OrtSessionOptions {
  OrtCustomOpDomain* domain;
};

// One function a slot.
namespace fake {

inline OrtStatus* CreateStatus(int code, const char* message) { return new OrtStatus{code, message}; }
inline void ReleaseStatus(OrtStatus* it) { delete it; }

inline OrtStatus* CreateCustomOpDomain(const char*, OrtCustomOpDomain** out) {
  *out = new OrtCustomOpDomain;
  return nullptr;
}
inline OrtStatus* CustomOpDomain_Add(OrtCustomOpDomain* domain, const sift::ort::CustomOp* op) {
  domain->ops.push_back(op);
  return nullptr;
}
inline OrtStatus* AddCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  options->domain = domain;
  return nullptr;
}

inline OrtStatus* GetTensorMutableData(OrtValue* value, void** out) {
  *out = value->data;
  return nullptr;
}
inline OrtStatus* GetTensorTypeAndShape(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
  *out = new OrtTensorTypeAndShapeInfo(value->info);
  return nullptr;
}
inline void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* it) { delete it; }
inline OrtStatus* GetTensorElementType(const OrtTensorTypeAndShapeInfo* info, int* out) {
  *out = info->type;
  return nullptr;
}
inline OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out) {
  *out = info->dimensions.size();
  return nullptr;
}
inline OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count) {
  std::copy_n(info->dimensions.begin(), count, out);
  return nullptr;
}

inline OrtStatus* KernelInfoGetAttributeArray_int64(const OrtKernelInfo* info, const char* name, int64_t* out,
                                                    size_t* count) {
  const auto found = info->attributes.find(name);
  if (found == info->attributes.end()) return CreateStatus(sift::ort::kFail, "no such attribute");
  *count = found->second.size();
  if (out) std::copy(found->second.begin(), found->second.end(), out);
  return nullptr;
}
inline OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name, int64_t* out) {
  size_t one = 1;
  return KernelInfoGetAttributeArray_int64(info, name, out, &one);
}
inline OrtStatus* KernelInfoGetAttribute_float(const OrtKernelInfo*, const char*, float*) {
  return CreateStatus(sift::ort::kFail, "no such attribute");
}
inline OrtStatus* KernelInfoGetAttribute_string(const OrtKernelInfo*, const char*, char*, size_t*) {
  return CreateStatus(sift::ort::kFail, "no such attribute");
}
inline OrtStatus* KernelInfo_GetInputCount(const OrtKernelInfo* info, size_t* out) {
  *out = info->constants.size();
  return nullptr;
}
inline OrtStatus* KernelInfo_GetInputName(const OrtKernelInfo*, size_t, char* out, size_t* size) {
  if (out) std::memcpy(out, "x", 2);
  *size = 2;
  return nullptr;
}
inline OrtStatus* KernelInfo_GetNodeName(const OrtKernelInfo* info, char* out, size_t* size) {
  return KernelInfo_GetInputName(info, 0, out, size);
}
inline OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, size_t index, int* constant,
                                                    const OrtValue** out) {
  *out = info->constants[index];
  *constant = *out != nullptr;
  return nullptr;
}

inline OrtStatus* KernelContext_GetInput(const OrtKernelContext* context, size_t index, const OrtValue** out) {
  *out = context->inputs[index];
  return nullptr;
}
inline OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, size_t, const int64_t* dimensions, size_t count,
                                          OrtValue** out) {
  size_t size = 1;
  for (size_t i = 0; i < count; ++i) size *= static_cast<size_t>(dimensions[i]);
  context->floats.resize(size);
  context->output = {{{dimensions, dimensions + count}, sift::ort::kFloat}, context->floats.data()};
  *out = &context->output;
  return nullptr;
}
inline OrtStatus* KernelContext_ParallelFor(const OrtKernelContext* context, void (*task)(void*, size_t), size_t total,
                                            size_t, void* shared) {
  sift::share(context->threads, total, [&](size_t index) { task(shared, index); });
  return nullptr;
}

inline const OrtApi* api(uint32_t) {
  static const auto table = [] {
    std::vector<void (*)()> slots(300);
#define SET(position, name, ...) \
  slots[position] = reinterpret_cast<void (*)()>(static_cast<OrtStatus* (*)(__VA_ARGS__)>(name));
#define SET_VOID(position, name, ...) \
  slots[position] = reinterpret_cast<void (*)()>(static_cast<void (*)(__VA_ARGS__)>(name));
    using sift::ort::CustomOp;
    SIFT_ORT_SLOTS(SET)
    SIFT_ORT_VOID_SLOTS(SET_VOID)
#undef SET
#undef SET_VOID
    return slots;
  }();
  return reinterpret_cast<const OrtApi*>(table.data());
}

inline void check(OrtStatus* status) {
  if (!status) return;
  const std::string message = status->message;
  delete status;
  throw std::runtime_error(message);
}

// Registers the library as a session does and finds one of its ops.
inline const sift::ort::CustomOp& find_op(const std::string& name) {
  const sift::ort::ApiBase base{api, [] { return "fake"; }};
  OrtSessionOptions options{};
  check(RegisterCustomOps(&options, reinterpret_cast<const OrtApiBase*>(&base)));
  for (const sift::ort::CustomOp* op : options.domain->ops) {
    if (op->GetName(op) == name) return *op;
  }
  throw std::invalid_argument("no op " + name);
}

// A node as a session holds it; `info` outlives it.
class Node {
 public:
  Node(const std::string& op, const OrtKernelInfo& info) : op_(find_op(op)), info_(info) {
    check(op_.CreateKernelV2(&op_, api(sift::ort::kApiVersion), &info, &kernel_));
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node() { op_.KernelDestroy(kernel_); }

  // What it computes of the inputs that are no constants, on so many threads.
  std::vector<float> run(const std::vector<const OrtValue*>& fed, size_t threads) const {
    OrtKernelContext context{info_.constants, threads, {}, {}};
    auto next = fed.begin();
    for (const OrtValue*& input : context.inputs) {
      if (!input) input = *next++;
    }
    check(op_.KernelComputeV2(kernel_, &context));
    return context.floats;
  }

 private:
  const sift::ort::CustomOp& op_;
  const OrtKernelInfo& info_;
  void* kernel_ = nullptr;
};

}  // namespace fake
