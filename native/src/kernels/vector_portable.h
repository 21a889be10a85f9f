// A vector in plain C++, which compilers turn into what the baseline of the processor has: SSE2, NEON, or scalars.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace sift {
namespace {

struct Vector {
  static constexpr size_t kWidth = 8;
  static constexpr size_t kRegisters = 16;

  float v[kWidth];

  static Vector broadcast(float value) {
    Vector result;
    for (size_t i = 0; i < kWidth; ++i) result.v[i] = value;
    return result;
  }
  static Vector zero() { return broadcast(0.0f); }
  static Vector load(const float* from) {
    return each([&](size_t i) { return from[i]; });
  }
  void store(float* to) const { store(to, {0, kWidth}); }
  void store_unaligned(float* to) const { store(to); }

  // Lanes begin … end - 1. Memory of the other lanes is not touched; a load sets them to 0.
  struct Range {
    size_t begin, end;
  };
  static Range range(size_t begin, size_t end) { return {begin, end}; }
  static Vector load(const float* from, Range range) {
    Vector result = zero();
    for (size_t i = range.begin; i < range.end; ++i) result.v[i] = from[i];
    return result;
  }
  void store(float* to, Range range) const {
    for (size_t i = range.begin; i < range.end; ++i) to[i] = v[i];
  }

  template <class Function>
  static Vector each(const Function& function) {
    Vector result;
    for (size_t i = 0; i < kWidth; ++i) result.v[i] = function(i);
    return result;
  }
  // a * b + c, rounded once or twice, as the compiler likes.
  static Vector fma(Vector a, Vector b, Vector c) {
    return each([&](size_t i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  // `b` where either is NaN, as the instructions of x86 do.
  static Vector max(Vector a, Vector b) {
    return each([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vector min(Vector a, Vector b) {
    return each([&](size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vector abs(Vector a) {
    return each([&](size_t i) { return std::fabs(a.v[i]); });
  }
  static Vector where_less(Vector a, Vector b, Vector yes, Vector no) {
    return each([&](size_t i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  // a * 2^n for a whole n of -252 … 254, in two steps: 2^n itself may be no normal number.
  static Vector ldexp(Vector a, Vector n) {
    return each([&](size_t i) {
      const float shifted = n.v[i] + 0x1.8p23f;  // whose lowest bits are the integer, also where n is NaN
      int32_t whole;
      std::memcpy(&whole, &shifted, sizeof(whole));
      whole -= 0x4B400000;
      const auto power = [](int32_t k) {
        const uint32_t bits = (static_cast<uint32_t>(k) + 127u) << 23;
        float value;
        std::memcpy(&value, &bits, sizeof(value));
        return value;
      };
      return a.v[i] * power(whole / 2) * power(whole - whole / 2);
    });
  }

  // Elements 0, 2, 4 … of the two.
  static Vector evens(Vector low, Vector high) {
    return each([&](size_t i) { return i < kWidth / 2 ? low.v[2 * i] : high.v[2 * i - kWidth]; });
  }

  // The square of kWidth vectors, rows for columns.
  static void transpose(Vector* rows) {
    for (size_t i = 0; i < kWidth; ++i) {
      for (size_t j = 0; j < i; ++j) std::swap(rows[i].v[j], rows[j].v[i]);
    }
  }
};

inline Vector operator+(Vector a, Vector b) {
  return Vector::each([&](size_t i) { return a.v[i] + b.v[i]; });
}
inline Vector operator-(Vector a, Vector b) {
  return Vector::each([&](size_t i) { return a.v[i] - b.v[i]; });
}
inline Vector operator*(Vector a, Vector b) {
  return Vector::each([&](size_t i) { return a.v[i] * b.v[i]; });
}
inline Vector operator/(Vector a, Vector b) {
  return Vector::each([&](size_t i) { return a.v[i] / b.v[i]; });
}

}  // namespace
}  // namespace sift
