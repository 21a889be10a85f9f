#include "ops/arranged_tensor.h"

#include <algorithm>
#include <cstring>

namespace sift {
namespace {

constexpr int64_t kMagic = 0x6465676e61727261;  // "arranged"

struct Header {
  int64_t magic, lanes, rank;
  int64_t dimensions[kMaxArrangedRank];
  int64_t halo[4], strides[2];
};
constexpr size_t kLine = 64;  // bytes: vectors are loaded and stored aligned
static_assert(sizeof(Header) + kLine <= kHeaderFloats * sizeof(float));

template <class Float>
Float* data_of(Float* tensor) {
  const auto end = reinterpret_cast<uintptr_t>(tensor) + sizeof(Header);
  return reinterpret_cast<Float*>((end + kLine - 1) / kLine * kLine);
}

}  // namespace

Meaning as_it_is(const Tensor& tensor) {
  return {tensor.dimensions, static_cast<const float*>(tensor.data), false, tensor.size(), {}};
}

void check_floats(const Meaning& meaning, size_t floats) {
  if (meaning.floats == floats) return;
  throw Refused(ort::kInvalidArgument, "an arranged input has " + std::to_string(meaning.floats) + " numbers where " +
                                           to_string(meaning.dimensions) + " needs " + std::to_string(floats));
}

Meaning open_arranged(const Tensor& tensor, size_t lanes) {
  if (tensor.dimensions.size() != 1) return as_it_is(tensor);
  const auto* floats = static_cast<const float*>(tensor.data);
  Header header{};
  if (tensor.size() >= kHeaderFloats) std::memcpy(&header, floats, sizeof(header));
  bool valid = header.magic == kMagic && header.lanes == static_cast<int64_t>(lanes) && header.rank >= 0 &&
               header.rank <= static_cast<int64_t>(kMaxArrangedRank);
  const auto in_range = [](int64_t number) { return number >= 0 && number <= kMaxExtent; };
  valid = valid && std::all_of(std::begin(header.dimensions), std::end(header.dimensions), in_range) &&
          std::all_of(std::begin(header.halo), std::end(header.halo), in_range) &&
          std::all_of(std::begin(header.strides), std::end(header.strides),
                      [&](int64_t stride) { return stride > 0 && in_range(stride); });
  size_t elements = 1;  // no more than there are floats, so that no product of them overflows
  for (int64_t i = 0; valid && i < header.rank; ++i) {
    elements *= static_cast<size_t>(header.dimensions[i]);
    valid = elements <= tensor.size();
  }
  if (!valid) return as_it_is(tensor);
  return {{header.dimensions, header.dimensions + header.rank},
          data_of(floats),
          true,
          tensor.size() - kHeaderFloats,
          {{header.halo[0], header.halo[1], header.halo[2], header.halo[3]}, header.strides[0], header.strides[1]}};
}

float* begin_arranged(float* tensor, const std::vector<int64_t>& dimensions, const Reading& reading, size_t lanes) {
  const Halo& halo = reading.halo;
  Header header{kMagic,
                static_cast<int64_t>(lanes),
                static_cast<int64_t>(dimensions.size()),
                {},
                {halo.top, halo.left, halo.bottom, halo.right},
                {reading.stride_h, reading.stride_w}};
  std::copy(dimensions.begin(), dimensions.end(), header.dimensions);
  std::memcpy(tensor, &header, sizeof(header));
  return data_of(tensor);
}

}  // namespace sift
