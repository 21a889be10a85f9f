// The kept values of a weight, in any of the types that they are stored in, as the floats that kernels compute with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sift {

// The number that an IEEE half is. No denormal is multiplied, as a session may have asked the processor to take those
// for 0.
inline float from_float16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits = sign | (exponent == 31 ? 255 : exponent + 127 - 15) << 23 | fraction << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A bfloat16 is the upper half of a float.
inline float from_bfloat16(uint16_t upper) {
  const uint32_t bits = static_cast<uint32_t>(upper) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

enum class ValueType { kFloat, kFloat16, kBFloat16 };

class Values {
 public:
  Values(const float* data) : Values(data, ValueType::kFloat) {}
  Values(const void* data, ValueType type) : data_(data), type_(type) {}

  float operator[](size_t index) const {
    if (type_ == ValueType::kFloat) return static_cast<const float*>(data_)[index];
    const uint16_t half = static_cast<const uint16_t*>(data_)[index];
    return type_ == ValueType::kFloat16 ? from_float16(half) : from_bfloat16(half);
  }

 private:
  const void* data_;
  ValueType type_;
};

}  // namespace sift
