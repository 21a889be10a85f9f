// A vector in the vector types of GCC and Clang, which become what the baseline of the processor has: SSE2, NEON, or
// scalars. Loops over an array become that only here and there: g++ 12 left some sizes of tiles scalar, on x86 and ARM,
// and was up to four times slower in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sift {
namespace {

struct Vector {
  static constexpr size_t kWidth = 8;
  static constexpr size_t kRegisters = 16;

  using Quad = float __attribute__((vector_size(16)));
  using Bits = uint32_t __attribute__((vector_size(16)));
  using Whole = int32_t __attribute__((vector_size(16)));

  Quad low, high;

  static Vector broadcast(float value) {
    return each([&](size_t) { return value; });
  }
  static Vector zero() { return broadcast(0.0f); }
  static Vector load(const float* from) {  // aligned
    return load_unaligned(static_cast<const float*>(__builtin_assume_aligned(from, sizeof(Quad))));
  }
  static Vector load_unaligned(const float* from) {
    Vector result;
    std::memcpy(&result, from, sizeof(result));
    return result;
  }
  void store(float* to) const {  // aligned
    store_unaligned(static_cast<float*>(__builtin_assume_aligned(to, sizeof(Quad))));
  }
  void store_unaligned(float* to) const { std::memcpy(to, this, sizeof(*this)); }

  void hold() {}

  // Lanes begin … end - 1. Memory of the other lanes is not touched; a load sets them to 0.
  struct Range {
    size_t begin, end;
    bool whole() const { return begin == 0 && end == kWidth; }
  };
  static Range range(size_t begin, size_t end) { return {begin, end}; }
  static Vector load(const float* from, Range range) {
    if (range.whole()) return load_unaligned(from);
    alignas(16) float lanes[kWidth] = {};
    for (size_t i = range.begin; i < range.end; ++i) lanes[i] = from[i];
    return load(lanes);
  }
  void store(float* to, Range range) const {
    if (range.whole()) return store_unaligned(to);
    alignas(16) float lanes[kWidth];
    store(lanes);
    for (size_t i = range.begin; i < range.end; ++i) to[i] = lanes[i];
  }

  template <class Function>
  static Vector each(const Function& function) {
    return {Quad{function(0), function(1), function(2), function(3)},
            Quad{function(4), function(5), function(6), function(7)}};
  }

  // a * b + c, rounded once or twice, as the compiler likes.
  static Vector fma(Vector a, Vector b, Vector c) { return {a.low * b.low + c.low, a.high * b.high + c.high}; }
  // `b` where either is NaN, as the instructions of x86 do.
  static Vector max(Vector a, Vector b) { return {a.low > b.low ? a.low : b.low, a.high > b.high ? a.high : b.high}; }
  static Vector min(Vector a, Vector b) { return {a.low < b.low ? a.low : b.low, a.high < b.high ? a.high : b.high}; }
  static Vector abs(Vector a) { return {abs(a.low), abs(a.high)}; }
  static Vector where_less(Vector a, Vector b, Vector yes, Vector no) {
    return {a.low < b.low ? yes.low : no.low, a.high < b.high ? yes.high : no.high};
  }
  // a * 2^n for a whole n of -252 … 254, in two steps: 2^n itself may be no normal number.
  static Vector ldexp(Vector a, Vector n) { return {ldexp(a.low, n.low), ldexp(a.high, n.high)}; }

  // Lane i of the result is lane from[i] of `a`, or 0 where that is negative.
  static Vector permute(Vector a, const int32_t* from) {
    alignas(16) float lanes[kWidth];
    a.store(lanes);
    return each([&](size_t i) { return from[i] < 0 ? 0.0f : lanes[from[i]]; });
  }

  // Those lanes whose from[i] is -1 or more; the others stay as they are.
  void store_where(const int32_t* from, float* to) const {
    alignas(16) float lanes[kWidth];
    store(lanes);
    for (size_t i = 0; i < kWidth; ++i) {
      if (from[i] >= -1) to[i] = lanes[i];
    }
  }

  // Elements 0, 2, 4 … of the two.
  static Vector evens(Vector low, Vector high) {
    alignas(16) float both[2 * kWidth];
    low.store(both), high.store(both + kWidth);
    return each([&](size_t i) { return both[2 * i]; });
  }

  // The square of kWidth vectors, rows for columns.
  static void transpose(Vector* rows) {
    alignas(16) float square[kWidth][kWidth];
    for (size_t i = 0; i < kWidth; ++i) rows[i].store(square[i]);
    for (size_t i = 0; i < kWidth; ++i) {
      rows[i] = each([&](size_t j) { return square[j][i]; });
    }
  }

 private:
  static Quad abs(Quad a) { return reinterpret_cast<Quad>(reinterpret_cast<Bits>(a) & 0x7FFFFFFF); }
  static Quad ldexp(Quad a, Quad n) {
    const Quad shifted = n + 0x1.8p23f;  // whose lowest bits are the integer, also where n is NaN
    const Whole whole = reinterpret_cast<Whole>(shifted) - 0x4B400000, half = whole / 2;
    return a * power(half) * power(whole - half);
  }
  static Quad power(Whole n) { return reinterpret_cast<Quad>((reinterpret_cast<Bits>(n) + 127) << 23); }
};

inline Vector operator+(Vector a, Vector b) { return {a.low + b.low, a.high + b.high}; }
inline Vector operator-(Vector a, Vector b) { return {a.low - b.low, a.high - b.high}; }
inline Vector operator*(Vector a, Vector b) { return {a.low * b.low, a.high * b.high}; }
inline Vector operator/(Vector a, Vector b) { return {a.low / b.low, a.high / b.high}; }

}  // namespace
}  // namespace sift
