// The slice of onnxruntime's C API that sift uses, declared by hand: no package ships the header, and this table of
// function pointers only ever grows at its end. tests/check_ort_api.cc compares every line with the real header.
//
// Version 17 (onnxruntime 1.17) is asked for: the first with KernelContext_ParallelFor, and every later runtime serves
// it.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct OrtApi;
struct OrtApiBase;
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;
}

namespace sift::ort {

constexpr uint32_t kApiVersion = 17;

// SLOT(position in OrtApi, name, parameters …). All return OrtStatus*, null for success. Enums are int.
#define SIFT_ORT_SLOTS(SLOT)                                                                                          \
  SLOT(0, CreateStatus, int code, const char* message)                                                                \
  SLOT(26, CreateCustomOpDomain, const char* domain, OrtCustomOpDomain** out)                                         \
  SLOT(27, CustomOpDomain_Add, OrtCustomOpDomain* domain, const CustomOp* op)                                         \
  SLOT(28, AddCustomOpDomain, OrtSessionOptions* options, OrtCustomOpDomain* domain)                                  \
  SLOT(51, GetTensorMutableData, OrtValue* value, void** out)                                                         \
  SLOT(60, GetTensorElementType, const OrtTensorTypeAndShapeInfo* info, int* out)                                     \
  SLOT(61, GetDimensionsCount, const OrtTensorTypeAndShapeInfo* info, size_t* out)                                    \
  SLOT(62, GetDimensions, const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count)                          \
  SLOT(65, GetTensorTypeAndShape, const OrtValue* value, OrtTensorTypeAndShapeInfo** out)                             \
  SLOT(85, KernelInfoGetAttribute_float, const OrtKernelInfo* info, const char* name, float* out)                     \
  SLOT(86, KernelInfoGetAttribute_int64, const OrtKernelInfo* info, const char* name, int64_t* out)                   \
  SLOT(87, KernelInfoGetAttribute_string, const OrtKernelInfo* info, const char* name, char* out, size_t* size)       \
  SLOT(90, KernelContext_GetInput, const OrtKernelContext* context, size_t index, const OrtValue** out)               \
  SLOT(91, KernelContext_GetOutput, OrtKernelContext* context, size_t index, const int64_t* dimensions, size_t count, \
       OrtValue** out)                                                                                                \
  SLOT(163, KernelInfoGetAttributeArray_int64, const OrtKernelInfo* info, const char* name, int64_t* out,             \
       size_t* count)                                                                                                 \
  SLOT(230, KernelInfo_GetInputCount, const OrtKernelInfo* info, size_t* out)                                         \
  SLOT(232, KernelInfo_GetInputName, const OrtKernelInfo* info, size_t index, char* out, size_t* size)                \
  SLOT(244, KernelInfo_GetNodeName, const OrtKernelInfo* info, char* out, size_t* size)                               \
  SLOT(249, KernelInfoGetConstantInput_tensor, const OrtKernelInfo* info, size_t index, int* constant,                \
       const OrtValue** out)                                                                                          \
  SLOT(274, KernelContext_ParallelFor, const OrtKernelContext* context, void (*task)(void*, size_t), size_t total,    \
       size_t batches, void* shared)

// The same for the functions that return nothing.
#define SIFT_ORT_VOID_SLOTS(SLOT)        \
  SLOT(93, ReleaseStatus, OrtStatus* it) \
  SLOT(99, ReleaseTensorTypeAndShapeInfo, OrtTensorTypeAndShapeInfo* it)

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9, kInvalidGraph = 10 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2, kFloat16 = 10, kBFloat16 = 16 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };

// OrtCustomOp as of version 17; onnxruntime reads no field that a later version added.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const CustomOp* op);
  const char* (*GetExecutionProviderType)(const CustomOp* op);
  int (*GetInputType)(const CustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp* op);
  int (*GetOutputType)(const CustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const CustomOp* op, size_t index);
  int (*GetOutputCharacteristic)(const CustomOp* op, size_t index);
  int (*GetInputMemoryType)(const CustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp* op);
  int (*GetVariadicInputHomogeneity)(const CustomOp* op);
  int (*GetVariadicOutputMinArity)(const CustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const CustomOp* op);
  OrtStatus* (*CreateKernelV2)(const CustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const CustomOp* op, void* context);
  int (*GetStartVersion)(const CustomOp* op);
  int (*GetEndVersion)(const CustomOp* op);
};

// OrtApiBase.
struct ApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// The functions by name.
struct Api {
  explicit Api(const OrtApi* table) : slots(reinterpret_cast<void (*const*)()>(table)) {}

#define SIFT_DECLARE(position, name, ...)                                                \
  template <class... Arguments>                                                          \
  OrtStatus* name(Arguments... arguments) const {                                        \
    return reinterpret_cast<OrtStatus* (*)(__VA_ARGS__)>(slots[position])(arguments...); \
  }
#define SIFT_DECLARE_VOID(position, name, ...)                              \
  template <class... Arguments>                                             \
  void name(Arguments... arguments) const {                                 \
    reinterpret_cast<void (*)(__VA_ARGS__)>(slots[position])(arguments...); \
  }
  SIFT_ORT_SLOTS(SIFT_DECLARE)
  SIFT_ORT_VOID_SLOTS(SIFT_DECLARE_VOID)
#undef SIFT_DECLARE
#undef SIFT_DECLARE_VOID

  void (*const* slots)();
};

}  // namespace sift::ort
