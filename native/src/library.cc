// What the library exports. See include/sift/sift.h.
#include <algorithm>
#include <map>
#include <mutex>
#include <string>

#include "dispatch/isa.h"
#include "dispatch/peak.h"
#include "dispatch/ways.h"
#include "ops/node.h"
#include "ops/ops.h"
#include "ops/report.h"
#include "sift/sift.h"

namespace {

using sift::ort::Api;

// The domain "sift" of one onnxruntime. It lives as long as the process, for sessions refer to it and come and go.
OrtCustomOpDomain* domain(const OrtApi* table) {
  static std::mutex mutex;
  static auto& domains = *new std::map<const OrtApi*, OrtCustomOpDomain*>;
  const std::lock_guard<std::mutex> lock(mutex);
  OrtCustomOpDomain*& found = domains[table];
  if (!found) {
    const Api api(table);
    OrtCustomOpDomain* made = nullptr;
    sift::check(api.CreateCustomOpDomain("sift", &made));
    for (const auto* ops : {&sift::sparse_convs(), &sift::sparse_linears()}) {
      for (const sift::ort::CustomOp* op : *ops) sift::check(api.CustomOpDomain_Add(made, op));
    }
    sift::check(api.CustomOpDomain_Add(made, &sift::arranged_max_pool()));
    found = made;
  }
  return found;
}

size_t write(const std::string& text, char* out, size_t size) {
  if (out && size) {
    const size_t copied = std::min(text.size(), size - 1);
    text.copy(out, copied);
    out[copied] = '\0';
  }
  return text.size() + 1;
}

template <class Shape>
std::string plans(const Shape& shape, size_t kept) {
  std::string text;
  for (const sift::Way<Shape>& way : sift::ways(shape, kept)) {
    const sift::StoredWay stored{sift::cpu(), shape.sizes(), way.kernel->name, way.plan};
    text += (text.empty() ? "\"" : ",\"") + sift::to_string(stored) + "\"";
  }
  return "[" + text + "]";
}

}  // namespace

extern "C" {

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* raw) {
  const auto& base = *reinterpret_cast<const sift::ort::ApiBase*>(raw);
  const OrtApi* table = base.GetApi(sift::ort::kApiVersion);
  if (!table) {
    const std::string why = std::string("sift needs onnxruntime 1.17 or newer; this is ") + base.GetVersionString();
    return Api(base.GetApi(1)).CreateStatus(sift::ort::kNotImplemented, why.c_str());
  }
  const Api api(table);
  return sift::guarded(api, "sift: ", [&] { sift::check(api.AddCustomOpDomain(options, domain(table))); });
}

const char* sift_available_isas(void) {
  static const std::string text = sift::join(sift::available_isas());
  return text.c_str();
}

double sift_peak_gflops(void) {
  try {
    return sift::peak_gflops();
  } catch (const std::exception&) {  // SIFT_FORCE_ISA is wrong, which every session says
    return 0;
  }
}

void sift_watch(uint64_t token) { sift::watch(token); }

size_t sift_report(uint64_t token, char* out, size_t size) { return write(sift::report(token), out, size); }

const char* sift_cpu(void) {
  try {
    return sift::cpu().c_str();
  } catch (const std::exception&) {  // SIFT_FORCE_ISA is wrong, which every session says
    return "";
  }
}

size_t sift_plans(const int64_t* shape, size_t count, uint64_t kept, char* out, size_t size) {
  try {
    const int64_t* s = shape;
    if (count == 3) return write(plans(sift::LinearShape{s[0], s[1], s[2]}, kept), out, size);
    if (count == 16) {
      return write(plans(sift::ConvShape{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11],
                                         s[12], s[13], s[14], s[15]},
                         kept),
                   out, size);
    }
  } catch (const std::exception&) {  // as above
  }
  return write("[]", out, size);
}

}  // extern "C"
