#include "kernels/linear_columns.h"

#include <algorithm>
#include <numeric>

#include "kernels/ceil_div.h"

namespace sift {
namespace {

constexpr size_t kTasks = 16;                    // for threads to share
constexpr size_t kMinPart = 64, kMaxPart = 256;  // outputs

}  // namespace

// The kept weights of each output, in the order of their inputs.
class LinearColumns::Queues {
 public:
  explicit Queues(const Weights& weights) : values_(weights.values), next_(weights.rows + 1), end_(weights.rows) {
    for_each_kept(weights, [&](size_t row, size_t column, float) {
      inputs_.push_back(static_cast<uint32_t>(column));
      end_[row] = inputs_.size();
    });
    for (size_t row = 0; row < weights.rows; ++row) {
      end_[row] = std::max(end_[row], next_[row]);
      next_[row + 1] = end_[row];
    }
  }

  size_t size() const { return inputs_.size(); }
  size_t left(size_t row) const { return end_[row] - next_[row]; }
  uint32_t input(size_t row) const { return inputs_[next_[row]]; }
  float take(size_t row) { return values_[next_[row]++]; }

 private:
  const Values values_;
  std::vector<uint32_t> inputs_;
  std::vector<size_t> next_, end_;  // by row
};

LinearColumns::LinearColumns(const LinearShape& shape, const Lanes& lanes, const Weights& weights, const Plan&)
    : lanes_(lanes), inputs_(static_cast<size_t>(shape.inputs)), outputs_(static_cast<size_t>(shape.outputs)) {
  const size_t whole = ceil_div(ceil_div(outputs_, kTasks), lanes_.width) * lanes_.width;
  part_ = std::clamp(whole, kMinPart, kMaxPart);
  Queues queues(weights);
  const size_t expected = queues.size() + queues.size() / 8;
  picks_.reserve(expected);
  values_.reserve(expected);
  for (size_t first = 0; first < outputs_; first += part_) pack(queues, first, std::min(part_, outputs_ - first));
  groups_.push_back(windows_.size());
  windows_.shrink_to_fit();
  picks_.shrink_to_fit();
  values_.shrink_to_fit();
}

void LinearColumns::pack(Queues& queues, size_t first, size_t outputs) {
  const size_t width = lanes_.width;
  const auto order = order_.insert(order_.end(), outputs, 0);
  std::iota(order, order_.end(), 0u);
  // Outputs with as many weights share a group. In a random layer of 768 inputs, 192 outputs a part, that adds 2 % of
  // pauses where half of the weights are kept, 9 % at a quarter and 28 % at a tenth; the layer's own order has 6, 13
  // and 33 %, and blocks of 32 inputs that all lanes finish together have 31, 56 and 103 %.
  std::stable_sort(order, order_.end(),
                   [&](uint32_t a, uint32_t b) { return queues.left(first + a) > queues.left(first + b); });
  for (size_t begin = 0; begin < outputs; begin += width) {
    groups_.push_back(windows_.size());
    const size_t lanes = std::min(width, outputs - begin);
    const auto row = [&](size_t lane) { return first + order[static_cast<ptrdiff_t>(begin + lane)]; };
    for (;;) {
      size_t slowest = inputs_;
      for (size_t lane = 0; lane < lanes; ++lane) {
        if (queues.left(row(lane))) slowest = std::min<size_t>(slowest, queues.input(row(lane)));
      }
      if (slowest == inputs_) break;
      const size_t window = slowest / kWindowUnit, start = window * kWindowUnit;
      windows_.push_back(static_cast<uint16_t>(window));
      for (size_t slot = 0; slot < kSteps * width; ++slot) {
        const size_t lane = slot % width;
        const bool kept =
            lane < lanes && queues.left(row(lane)) && queues.input(row(lane)) < start + lanes_.columns.window;
        picks_.push_back(kept ? static_cast<uint8_t>(kKept | (queues.input(row(lane)) - start)) : kPause);
        values_.push_back(kept ? queues.take(row(lane)) : 0.0f);
      }
    }
  }
}

void LinearColumns::run(const Epilogue& epilogue, const float* x, float* y, size_t tokens, Workers& workers,
                        Scratch& scratch) const {
  const size_t width = lanes_.width, most = std::min(tokens, kMaxTokensTogether);
  const size_t pitch = ceil_div(inputs_, kWindowUnit) * kWindowUnit + 2 * kLongestWindow;
  Scratch::Lease padded(scratch, most * pitch);
  for (size_t first = 0; first < tokens; first += most) {
    const size_t together = std::min(most, tokens - first);
    for (size_t token = 0; token < together; ++token) {
      float* to = padded.data() + token * pitch;
      std::fill_n(to, kLongestWindow, 0.0f);
      const float* from = x + (first + token) * inputs_;
      std::fill(std::copy(from, from + inputs_, to + kLongestWindow), to + pitch, 0.0f);
    }
    workers.each(ceil_div(outputs_, part_), [&](size_t part) {
      const size_t begin = part * part_, outputs = std::min(part_, outputs_ - begin);
      float sums[kMaxTokensTogether][kMaxPart], of_group[kMaxTokensTogether * kMaxLanes];
      for (size_t at = 0; at < outputs; at += width) {
        const size_t group = begin / width + at / width, window = groups_[group], slot = window * kSteps * width;
        lanes_.columns.sum[together]({windows_.data() + window, windows_.data() + groups_[group + 1],
                                      picks_.data() + slot, values_.data() + slot, padded.data() + kLongestWindow,
                                      pitch, of_group});
        for (size_t lane = 0; lane < std::min(width, outputs - at); ++lane) {
          for (size_t token = 0; token < together; ++token) {
            sums[token][order_[begin + at + lane]] = of_group[token * width + lane];
          }
        }
      }
      for (size_t token = 0; token < together; ++token) {
        const size_t row = (first + token) * outputs_ + begin;
        const float* bias = epilogue.bias ? epilogue.bias + begin : nullptr;
        const float* residual = epilogue.residual ? epilogue.residual + row : nullptr;
        lanes_.finish[static_cast<int>(epilogue.activation)](
            {sums[token], bias, residual, y + row, outputs, &epilogue});
      }
    });
  }
}

}  // namespace sift
