// What is done to each sum before it is stored: y = activation(sum + bias + residual).
#pragma once

namespace sift {

enum class Activation {
  kNone,
  kRelu,
  kClip,       // between `low` and `high`
  kLeakyRelu,  // slope `low` below zero
  kSilu,       // x * sigmoid(x)
  kGelu,       // x * (1 + erf(x / sqrt 2)) / 2
  kGeluTanh,   // its tanh approximation
};

constexpr int kActivations = static_cast<int>(Activation::kGeluTanh) + 1;

// Of one run. A NaN stays one through every activation.
struct Epilogue {
  const float* bias = nullptr;      // by output channel; null for none
  const float* residual = nullptr;  // laid out as the output; null for none
  Activation activation = Activation::kNone;
  float low = 0, high = 0;
};

}  // namespace sift
