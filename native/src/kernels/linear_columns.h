// Sparse linear layer, family "columns": vector lanes are outputs, for so few tokens that reading the weights is all.
//
// Y[token][output] = activation(bias[output] + sum of weight * X[token][input] + residual[token][output]) over the kept
// weights, which take 5.06 bytes each, and the same for each pause: see columns.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "formats/bitmask.h"
#include "kernels/columns.h"
#include "kernels/lanes.h"
#include "kernels/plan.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/workers.h"

namespace sift {

class LinearColumns {
 public:
  // Few tokens, and no more than 2^20 inputs.
  static bool supports(const LinearShape& shape, const Lanes& lanes) {
    return !shape.arranged() && shape.inputs <= int64_t{kWindowUnit} << 16 &&
           shape.tokens <= static_cast<int64_t>(lanes.columns.tokens);
  }

  // The same for all token counts.
  static LinearShape representative(LinearShape shape, const Lanes&) {
    shape.tokens = 1;
    return shape;
  }

  // There is one: nothing is left to choose.
  static std::vector<Plan> plans(const LinearShape&, const Lanes&, size_t) { return {Plan{}}; }

  // The shape is one that is supported, whatever its tokens.
  LinearColumns(const LinearShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan);

  // x: [tokens][inputs], y: [tokens][outputs]; each element of y is computed by one thread in one order.
  void run(const Epilogue& epilogue, const float* x, float* y, size_t tokens, Workers& workers, Scratch& scratch) const;

 private:
  template <class T>
  struct CacheLines {
    using value_type = T;
    CacheLines() = default;
    template <class U>
    CacheLines(const CacheLines<U>&) {}
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
    void deallocate(T* memory, size_t) { ::operator delete(memory, kLine); }
    friend bool operator==(CacheLines, CacheLines) { return true; }
    friend bool operator!=(CacheLines, CacheLines) { return false; }
    static constexpr std::align_val_t kLine{64};
  };
  class Queues;

  void pack(Queues& queues, size_t first, size_t outputs);

  const Lanes& lanes_;
  size_t inputs_, outputs_;
  size_t part_;                  // outputs a part
  std::vector<uint32_t> order_;  // [part][group][lane]: the output, counted from the part's first
  std::vector<size_t> groups_;   // [part][group]: its first window; one more at the end
  std::vector<uint16_t> windows_;
  std::vector<uint8_t, CacheLines<uint8_t>> picks_;
  std::vector<float, CacheLines<float>> values_;
};

}  // namespace sift
