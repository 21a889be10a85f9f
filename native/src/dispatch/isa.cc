#include "dispatch/isa.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace sift {

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      return "portable";
  }
  return "unknown";
}

const Lanes& lanes_of(Isa isa) {
#ifdef SIFT_HAS_X86
  if (isa == Isa::kAvx512) return kAvx512Lanes;
  if (isa == Isa::kAvx2) return kAvx2Lanes;
#endif
  (void)isa;
  return kPortableLanes;
}

std::string join(const std::vector<Isa>& isas) {
  std::string text;
  for (const Isa isa : isas) text += (text.empty() ? "" : ",") + std::string(name(isa));
  return text;
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> found;
#ifdef SIFT_HAS_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("bmi2");
    if (avx2 && avx512) found.push_back(Isa::kAvx512);
    if (avx2) found.push_back(Isa::kAvx2);
#endif
    found.push_back(Isa::kPortable);
    return found;
  }();
  return isas;
}

std::vector<Isa> choose_isas(const char* forced, const std::vector<Isa>& available) {
  if (forced == nullptr || *forced == '\0') return available;
  const auto found =
      std::find_if(available.begin(), available.end(), [&](Isa isa) { return std::string(forced) == name(isa); });
  if (found == available.end()) {
    throw std::invalid_argument("SIFT_FORCE_ISA=" + std::string(forced) +
                                " is not available here; available: " + join(available));
  }
  return {*found};
}

const std::vector<Isa>& usable_isas() {
  static const std::string forced = [] {
    const char* text = std::getenv("SIFT_FORCE_ISA");
    return std::string(text ? text : "");
  }();
  static const std::vector<Isa> isas = choose_isas(forced.c_str(), available_isas());  // retried after a throw
  return isas;
}

}  // namespace sift
