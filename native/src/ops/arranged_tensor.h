// An arranged tensor (see kernels/arranged.h) as onnxruntime sees it: floats along one axis. A header says what they
// are.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/shapes.h"
#include "ops/node.h"

namespace sift {

// What a tensor means, arranged or not.
struct Meaning {
  std::vector<int64_t> dimensions;
  const float* data;
  bool arranged;
  size_t floats;    // at `data`
  Reading reading;  // of an arranged image
};

Meaning as_it_is(const Tensor& tensor);

// Refuses an arranged tensor of another number of floats than `floats`.
void check_floats(const Meaning& meaning, size_t floats);

constexpr size_t kMaxArrangedRank = 8;

// Floats that the header takes, and what lies in front of the data for it to be aligned.
constexpr size_t kHeaderFloats = 64;

// A tensor that may be arranged for vectors of `lanes` floats. Its header is believed nothing that could lead beyond it
// but the number of floats: see check_floats.
Meaning open_arranged(const Tensor& tensor, size_t lanes);

// Writes the header of a tensor of one axis; returns where its data begins.
float* begin_arranged(float* tensor, const std::vector<int64_t>& dimensions, const Reading& reading, size_t lanes);

}  // namespace sift
