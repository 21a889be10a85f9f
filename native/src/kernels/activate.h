// The activations of epilogue.h, for whatever `Vector` is. Include it after SIFT_TARGET_BEGIN and a vector header.
//
// A NaN stays one. The functions have their limits at ±infinity: silu and both kinds of gelu are 0 at -infinity, where
// onnxruntime and torch multiply it by 0 and get NaN. check_activations.cc states how exact each is.
#pragma once

#include "kernels/epilogue.h"

namespace sift {
namespace {

// Horner's rule; the coefficient of the highest power comes first.
inline Vector polynomial(Vector, Vector sum) { return sum; }
template <class... Floats>
Vector polynomial(Vector x, Vector sum, float next, Floats... rest) {
  return polynomial(x, Vector::fma(sum, x, Vector::broadcast(next)), rest...);
}

// exp(x + more) for x <= 0 and |more| < 0.029: 2^n * exp(r) with |r| < ln(2) / 2 + 0.029. The polynomial is
// (exp(r) - 1 - r) / r^2, minimax, 5.4e-9 of exp(r) off.
inline Vector exp_negative(Vector x, Vector more = Vector::zero()) {
  const Vector to_integer = Vector::broadcast(0x1.8p23f);  // a float this large has no fraction
  x = Vector::max(Vector::broadcast(-104.0f), x);          // where it is 0; the order of operands lets NaN through
  const Vector n = Vector::fma(x, Vector::broadcast(1.44269504f), to_integer) - to_integer;
  // ln(2) in two parts, the first so short that n times it is exact without an fma too.
  Vector r = Vector::fma(n, Vector::broadcast(-0.693359375f), x);
  r = Vector::fma(n, Vector::broadcast(2.12194440e-4f), r) + more;
  const Vector tail =
      polynomial(r, Vector::broadcast(0x1.69cdb8p-10f), 0x1.126e30p-7f, 0x1.555a52p-5f, 0x1.555446p-3f, 0x1.fffff8p-2f);
  return Vector::ldexp(Vector::fma(tail, r * r, r) + Vector::broadcast(1.0f), n);
}

// x * logistic(t), where t is x or has its sign; neither is -infinity.
inline Vector times_logistic(Vector x, Vector t) {
  const Vector one = Vector::broadcast(1.0f), small = exp_negative(Vector::zero() - Vector::abs(t));
  return x * (Vector::where_less(t, Vector::zero(), small, one) / (one + small));
}

// x * Phi(x), Phi the normal distribution. With a = |x|, Phi(-a) = exp(-a^2 / 2) * M(a) has no 1 + erf(x) to lose its
// digits in where x is negative. (a + 2.5) * M(a) is a polynomial in (a - 2.5) / (a + 2.5), minimax on 0 … 14.5, 1.5e-8
// of itself off.
inline Vector gelu(Vector x) {
  const Vector limit = Vector::broadcast(14.5f), one = Vector::broadcast(1.0f), middle = Vector::broadcast(2.5f);
  x = Vector::max(Vector::zero() - limit, x);
  const Vector a = Vector::min(limit, Vector::abs(x)), scale = one / (a + middle);
  const Vector mills =
      polynomial((a - middle) * scale, Vector::broadcast(-1.5726627e-4f), -3.1086424e-4f, 6.843442e-4f, 2.5232965e-3f,
                 -1.600961e-3f, -1.638602e-2f, 9.235915e-3f, 0.13198696f, -0.433692f, 0.70665663f);
  // The square of a's upper 12 bits is exact; what rounding took from the whole square was up to 60 ulp of the result.
  const Vector to_upper = Vector::broadcast(0x1.8p15f), upper = (a + to_upper) - to_upper;
  const Vector half = Vector::broadcast(-0.5f);
  const Vector tail = exp_negative(half * (upper * upper), half * ((a - upper) * (a + upper))) * (scale * mills);
  return x * Vector::where_less(x, Vector::zero(), tail, one - tail);
}

template <Activation activation>
Vector activate(Vector x, [[maybe_unused]] const Epilogue& epilogue) {
  if constexpr (activation == Activation::kNone) {
    return x;
  } else if constexpr (activation == Activation::kRelu) {
    return Vector::max(Vector::zero(), x);
  } else if constexpr (activation == Activation::kClip) {
    return Vector::min(Vector::broadcast(epilogue.high), Vector::max(Vector::broadcast(epilogue.low), x));
  } else if constexpr (activation == Activation::kLeakyRelu) {
    return Vector::where_less(x, Vector::zero(), x * Vector::broadcast(epilogue.low), x);
  } else if constexpr (activation == Activation::kSilu) {
    x = Vector::max(Vector::broadcast(-128.0f), x);  // where the result is 0 already
    return times_logistic(x, x);
  } else if constexpr (activation == Activation::kGelu) {
    return gelu(x);
  } else {
    static_assert(activation == Activation::kGeluTanh);
    // (1 + tanh(u)) / 2 is logistic(2 u), and u is sqrt(2 / pi) * (x + 0.044715 * x^3).
    x = Vector::max(Vector::broadcast(-12.0f), x);
    return times_logistic(x, x * Vector::fma(x * x, Vector::broadcast(0.0713548163f), Vector::broadcast(1.59576912f)));
  }
}

}  // namespace
}  // namespace sift
