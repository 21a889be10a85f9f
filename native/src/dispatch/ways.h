// The ways to compute a layer: a kernel and one of its plans. One may be written down and stored with a model.
#pragma once

#include <string>
#include <vector>

#include "dispatch/kernel.h"

namespace sift {

template <class Shape>
struct Way {
  const Kernel<Shape>* kernel;
  Plan plan;
};

// A way that was chosen on some processor for one size of the input. As a text it is words with a space between,
//
//     GenuineIntel/6/143/avx512 1x56x56 conv_patches 1 4 2 7 1 24
//
// the processor, the sizes, the kernel, and the numbers of its plan.
struct StoredWay {
  std::string cpu;
  std::vector<int64_t> sizes;  // of the shape
  std::string kernel;
  Plan plan;
};

std::string to_string(const StoredWay& way);

// Throws std::invalid_argument, with a sentence, where the text is none.
StoredWay parse_way(const std::string& text);

// This processor and what it is used for: vendor, family and model as CPUID has them, and the best of usable_isas().
// Other processors than x86 are one.
//
// Throws std::invalid_argument where SIFT_FORCE_ISA is wrong.
const std::string& cpu();

// Ways to compute `shape` with `kept` weights, on the best of usable_isas(): first what the kernels themselves choose,
// then, kernel by kernel, the cheapest that they estimate.
template <class Shape>
std::vector<Way<Shape>> ways(const Shape& shape, size_t kept);

// The stored way, or the kernels' own choice where it is null or none of this library's.
template <class Shape>
Way<Shape> way_of(const Shape& shape, size_t kept, const StoredWay* stored);

}  // namespace sift
