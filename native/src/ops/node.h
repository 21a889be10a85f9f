// What an op may ask of its node, at creation and at run, with errors as C++ exceptions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/workers.h"
#include "ops/ort_api.h"

namespace sift {

// An error to report to onnxruntime: a code and one sentence.
struct Refused : std::runtime_error {
  Refused(ort::ErrorCode why, const std::string& message) : std::runtime_error(message), code(why) {}
  ort::ErrorCode code;
};

// An error that onnxruntime itself reported, to be handed back as it came.
struct Reported {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status) throw Reported{status};
}

// Runs `body` and turns what it throws into a status, whose sentence begins with `where`.
template <class Body>
OrtStatus* guarded(const ort::Api& api, const std::string& where, const Body& body) noexcept {
  const auto status = [&](ort::ErrorCode code, const char* what) {
    return api.CreateStatus(code, (where + what).c_str());
  };
  try {
    body();
    return nullptr;
  } catch (const Reported& error) {
    return error.status;
  } catch (const Refused& error) {
    return status(error.code, error.what());
  } catch (const std::length_error& error) {  // a shape too large for the kernel
    return status(ort::kInvalidArgument, error.what());
  } catch (const std::bad_alloc&) {
    return status(ort::kFail, "out of memory");
  } catch (const std::exception& error) {
    return status(ort::kFail, error.what());
  }
}

struct Tensor {
  std::vector<int64_t> dimensions;
  void* data = nullptr;
  int type = ort::kUndefined;  // of its elements

  size_t size() const;
};

std::string to_string(const std::vector<int64_t>& dimensions);  // "[2, 3]"

class NodeInfo {
 public:
  NodeInfo(const OrtApi* table, const OrtKernelInfo* info) : api_(table), info_(info) {}

  const ort::Api& api() const { return api_; }

  std::string name() const;
  int64_t integer(const char* attribute) const;
  float number(const char* attribute) const;
  // Nothing where there is no such attribute.
  std::optional<std::string> optional_text(const char* attribute) const;
  // Empty where there is no such attribute.
  std::vector<int64_t> optional_integers(const char* attribute, size_t count) const;
  // Refuses another count of entries than `count`.
  std::vector<int64_t> integers(const char* attribute, size_t count) const;
  bool has_input(size_t index) const;
  // Refuses an input that is not constant; `what` names it.
  Tensor constant(size_t index, const char* what) const;

 private:
  const ort::Api api_;
  const OrtKernelInfo* info_;
};

class RunContext {
 public:
  RunContext(const ort::Api& api, OrtKernelContext* context) : api_(api), context_(context) {}

  Tensor input(size_t index) const;
  float* output(size_t index, const std::vector<int64_t>& dimensions) const;
  // Runs task(shared, 0 … count - 1) on the session's threads.
  void parallel_for(void (*task)(void*, size_t), size_t count, void* shared) const;

 private:
  const ort::Api& api_;
  OrtKernelContext* context_;
};

// An op for the CPU, of one output, floats; the rest is its own.
ort::CustomOp with_one_output();

// Calls make(node, its name) for onnxruntime, which gets what it throws as the error of that node of `op`.
template <class Make>
OrtStatus* created(const std::string& op, const OrtApi* table, const OrtKernelInfo* info, const Make& make) noexcept {
  const NodeInfo node(table, info);
  std::string name;
  OrtStatus* status = guarded(node.api(), "", [&] { name = node.name(); });
  if (status) return status;
  return guarded(node.api(), op + " node '" + name + "': ", [&] { make(node, name); });
}

// The session's own threads.
class SessionWorkers final : public Workers {
 public:
  explicit SessionWorkers(const RunContext& context) : context_(context) {}

 private:
  void parallel_for(void (*task)(void*, size_t), size_t count, void* shared) override {
    context_.parallel_for(task, count, shared);
  }
  const RunContext& context_;
};

}  // namespace sift
