// The activations of every instruction set against double precision, on floats all over their range.
//
//     check_activations [stride]
//
// Every stride-th of the 2^32 floats (4003) goes through each linear kernel as the bias of a layer without weights.
// Prints the largest error of each activation, in units in the last place of the exact result and as a share of what is
// allowed; returns 1 where something is not allowed.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "dispatch/kernel.h"

namespace {

using sift::Activation;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLow = -0.75, kHigh = 6.0, kSlope = 0.0625;  // floats too

double relu(double x) { return x < 0 ? 0 : x; }
double clip(double x) { return x < kLow ? kLow : x > kHigh ? kHigh : x; }
double leaky_relu(double x) { return x < 0 ? kSlope * x : x; }
double silu(double x) { return x == -kInfinity ? 0 : x / (1 + std::exp(-x)); }
double gelu(double x) { return x == -kInfinity ? 0 : x * std::erfc(-x / std::sqrt(2.0)) / 2; }
double gelu_tanh(double x) {
  const double u = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  return x == -kInfinity ? 0 : x / (1 + std::exp(-2 * u));
}

// An error may be `ulps` units in the last place of the exact result and `absolute` besides. Far out the tanh kind
// multiplies the rounding of its argument by the argument, as all that compute it do.
struct Definition {
  const char* name;
  Activation activation;
  double (*exact)(double);
  double ulps, absolute;
};
constexpr double kSubnormal = std::numeric_limits<float>::min();
const Definition kDefinitions[] = {
    {"none", Activation::kNone, [](double x) { return x; }, 0, 0},
    {"relu", Activation::kRelu, relu, 0, 0},
    {"clip", Activation::kClip, clip, 0, 0},
    {"leaky_relu", Activation::kLeakyRelu, leaky_relu, 0.5, 0},
    {"silu", Activation::kSilu, silu, 4, kSubnormal},
    {"gelu", Activation::kGelu, gelu, 6, kSubnormal},
    {"gelu_tanh", Activation::kGeluTanh, gelu_tanh, 4, 5e-8},
};

double ulp(double value) {
  const double size = std::max(std::fabs(value), static_cast<double>(std::numeric_limits<float>::min()));
  return std::ldexp(1.0, std::ilogb(size) - 23);
}

// A kernel with an empty layer of `width` outputs.
struct Subject {
  std::string title;
  std::unique_ptr<const sift::Prepared> prepared;
};

std::vector<Subject> subjects(size_t width) {
  const std::vector<uint8_t> bitmask((width + 7) / 8);
  const sift::Weights empty{width, 1, bitmask.data(), nullptr};
  const sift::LinearShape shape{1, static_cast<int64_t>(width), 1};
  const auto& available = sift::available_isas();
  std::vector<Subject> found;
  for (const auto& kernel : sift::kernels<sift::LinearShape>()) {
    const std::string title = std::string(kernel.name) + "/" + sift::name(kernel.isa);
    if (!std::count(available.begin(), available.end(), kernel.isa) || !kernel.supports(shape)) continue;
    const auto representative = kernel.representative(shape);
    found.push_back({title, kernel.prepare(representative, empty, kernel.plans(representative, 0).front())});
  }
  return found;
}

struct Worst {
  double ulps = 0, share = 0;
};

class Check {
 public:
  Check() : subjects_(subjects(kWidth)), worst_(subjects_.size() * std::size(kDefinitions)) { batch_.reserve(kWidth); }

  void add(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    batch_.push_back(value);
    if (batch_.size() == kWidth) flush();
  }

  size_t finish() {
    if (!batch_.empty()) batch_.resize(kWidth), flush();
    for (size_t s = 0; s < subjects_.size(); ++s) {
      std::printf("%s:", subjects_[s].title.c_str());
      for (size_t d = 0; d < std::size(kDefinitions); ++d) {
        const Worst& worst = worst_[s * std::size(kDefinitions) + d];
        std::printf(" %s %.3g ulp (%.2f)", kDefinitions[d].name, worst.ulps, worst.share);
      }
      std::printf("\n");
    }
    return failures_;
  }

 private:
  static constexpr size_t kWidth = 1 << 14;

  void flush() {
    const auto scratch = sift::Scratch::shared();
    sift::NoWorkers workers;
    const float zero = 0;
    std::vector<float> found(kWidth);
    std::vector<double> exact(kWidth);
    for (size_t d = 0; d < std::size(kDefinitions); ++d) {
      const Definition& definition = kDefinitions[d];
      std::transform(batch_.begin(), batch_.end(), exact.begin(), definition.exact);
      sift::Epilogue epilogue;
      epilogue.bias = batch_.data();
      epilogue.activation = definition.activation;
      epilogue.low = static_cast<float>(definition.activation == Activation::kClip ? kLow : kSlope);
      epilogue.high = static_cast<float>(kHigh);
      for (size_t s = 0; s < subjects_.size(); ++s) {
        subjects_[s].prepared->run(epilogue, &zero, found.data(), 1, workers, *scratch);
        for (size_t i = 0; i < kWidth; ++i) {
          compare(definition, subjects_[s], batch_[i], exact[i], found[i], worst_[s * std::size(kDefinitions) + d]);
        }
      }
    }
    batch_.clear();
  }

  void compare(const Definition& definition, const Subject& subject, float x, double exact, double found,
               Worst& worst) {
    bool right;
    if (std::isfinite(exact)) {
      const double error = std::fabs(found - exact), allowed = definition.ulps * ulp(exact) + definition.absolute;
      right = error <= allowed;
      worst.ulps = std::max(worst.ulps, error / ulp(exact));
      if (allowed > 0) worst.share = std::max(worst.share, error / allowed);
    } else {
      right = std::isnan(exact) ? std::isnan(found) : found == exact;
    }
    if (!right && ++failures_ <= kShown) {
      std::printf("%s: %s of %.9g is %.9g, not %.9g\n", subject.title.c_str(), definition.name, static_cast<double>(x),
                  found, exact);
    }
  }

  static constexpr size_t kShown = 50;
  const std::vector<Subject> subjects_;
  std::vector<Worst> worst_;
  std::vector<float> batch_;
  size_t failures_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const uint64_t stride = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4003;
  Check check;
  for (const uint32_t positive :
       {0x00000000u, 0x00000001u, 0x007fffffu, 0x00800000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7fc00000u}) {
    check.add(positive);
    check.add(positive | 0x80000000u);
  }
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += stride) check.add(static_cast<uint32_t>(bits));
  const size_t failures = check.finish();
  std::printf("%zu failures\n", failures);
  return failures ? 1 : 0;
}
