// Compares every line of ops/ort_api.h with onnxruntime's own header: positions and signatures of the functions,
// offsets and types of the fields, values of the enums. It checks by compiling.
#include SIFT_ORT_HEADER

#include <type_traits>

namespace real {
using Api = ::OrtApi;
using ApiBase = ::OrtApiBase;
using CustomOp = ::OrtCustomOp;
}  // namespace real

#include "ops/ort_api.h"

namespace {

namespace ort = sift::ort;

// A function pointer with what the slice simplifies: enums are int, OrtCustomOp is ours, noexcept is left out.
template <class T, bool = std::is_enum_v<T>>
struct Plain {
  using type = T;
};
template <class T>
struct Plain<T, true> {
  using type = int;
};
template <class T>
struct Plain<T*, false> {
  using type = typename Plain<T>::type*;
};
template <>
struct Plain<const real::CustomOp*, false> {
  using type = const ort::CustomOp*;
};
template <>
struct Plain<OrtShapeInferContext*, false> {
  using type = void*;
};
template <class Result, class... Arguments>
struct Plain<Result (*)(Arguments...), false> {
  using type = typename Plain<Result>::type (*)(typename Plain<Arguments>::type...);
};
template <class Result, class... Arguments>
struct Plain<Result (*)(Arguments...) noexcept, false> : Plain<Result (*)(Arguments...)> {};

template <class Real, class Ours>
constexpr bool same =
    std::is_same_v<typename Plain<std::remove_const_t<Real>>::type, typename Plain<std::remove_const_t<Ours>>::type>;

using CustomOp = ort::CustomOp;

#define CHECK_SLOT(result, position, name, ...)                                             \
  static_assert(offsetof(real::Api, name) == position * sizeof(void*), #name " has moved"); \
  static_assert(same<decltype(real::Api::name), result (*)(__VA_ARGS__)>, #name " takes other parameters");
#define CHECK_STATUS_SLOT(position, name, ...) CHECK_SLOT(OrtStatus*, position, name, __VA_ARGS__)
#define CHECK_VOID_SLOT(position, name, ...) CHECK_SLOT(void, position, name, __VA_ARGS__)
SIFT_ORT_SLOTS(CHECK_STATUS_SLOT)
SIFT_ORT_VOID_SLOTS(CHECK_VOID_SLOT)

#define CHECK_FIELD(name)                                                                             \
  static_assert(offsetof(real::CustomOp, name) == offsetof(ort::CustomOp, name), #name " has moved"); \
  static_assert(same<decltype(real::CustomOp::name), decltype(ort::CustomOp::name)>, #name " has another type");
CHECK_FIELD(version)
CHECK_FIELD(CreateKernel)
CHECK_FIELD(GetName)
CHECK_FIELD(GetExecutionProviderType)
CHECK_FIELD(GetInputType)
CHECK_FIELD(GetInputTypeCount)
CHECK_FIELD(GetOutputType)
CHECK_FIELD(GetOutputTypeCount)
CHECK_FIELD(KernelCompute)
CHECK_FIELD(KernelDestroy)
CHECK_FIELD(GetInputCharacteristic)
CHECK_FIELD(GetOutputCharacteristic)
CHECK_FIELD(GetInputMemoryType)
CHECK_FIELD(GetVariadicInputMinArity)
CHECK_FIELD(GetVariadicInputHomogeneity)
CHECK_FIELD(GetVariadicOutputMinArity)
CHECK_FIELD(GetVariadicOutputHomogeneity)
CHECK_FIELD(CreateKernelV2)
CHECK_FIELD(KernelComputeV2)
CHECK_FIELD(InferOutputShapeFn)
CHECK_FIELD(GetStartVersion)
CHECK_FIELD(GetEndVersion)

static_assert(offsetof(real::ApiBase, GetApi) == offsetof(ort::ApiBase, GetApi));
static_assert(offsetof(real::ApiBase, GetVersionString) == offsetof(ort::ApiBase, GetVersionString));
static_assert(ORT_API_VERSION >= ort::kApiVersion);

static_assert(ORT_FAIL == static_cast<OrtErrorCode>(ort::kFail));
static_assert(ORT_INVALID_ARGUMENT == static_cast<OrtErrorCode>(ort::kInvalidArgument));
static_assert(ORT_NOT_IMPLEMENTED == static_cast<OrtErrorCode>(ort::kNotImplemented));
static_assert(ORT_INVALID_GRAPH == static_cast<OrtErrorCode>(ort::kInvalidGraph));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED == static_cast<ONNXTensorElementDataType>(ort::kUndefined));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == static_cast<ONNXTensorElementDataType>(ort::kFloat));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 == static_cast<ONNXTensorElementDataType>(ort::kUint8));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 == static_cast<ONNXTensorElementDataType>(ort::kFloat16));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 == static_cast<ONNXTensorElementDataType>(ort::kBFloat16));
static_assert(INPUT_OUTPUT_REQUIRED == static_cast<OrtCustomOpInputOutputCharacteristic>(ort::kRequired));
static_assert(INPUT_OUTPUT_OPTIONAL == static_cast<OrtCustomOpInputOutputCharacteristic>(ort::kOptional));
static_assert(OrtMemTypeDefault == static_cast<OrtMemType>(0));

}  // namespace

int main() {}
