#include "kernels/linear_rows.h"

#include <algorithm>
#include <cstring>

namespace sift {
namespace {

// Vectors in a panel's row. 12 leave the most work per weight that is loaded; the others are for few tokens, whose
// panels would otherwise spread over more cache lines than they fill (16 tokens: 1.6 times slower in rows of 12
// vectors).
constexpr size_t kPanelVectors[] = {1, 2, 4, 12};
constexpr size_t kInputBytes = 32 * 1024;        // of the L1 cache for a block's inputs
constexpr size_t kParts = 16;                    // for threads to share where there is one tile of tokens
constexpr size_t kMinPart = 32;                  // outputs
constexpr size_t kGroupBytes = 4 * 1024 * 1024;  // of panels at a time

size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

LinearShape LinearRows::representative(LinearShape shape, const Lanes& lanes) {
  const auto tokens = static_cast<size_t>(std::max<int64_t>(shape.tokens, 1));
  for (const size_t vectors : kPanelVectors) {
    shape.tokens = static_cast<int64_t>(vectors * lanes.width);
    if (tokens <= vectors * lanes.width) break;
  }
  return shape;
}

LinearRows::LinearRows(const LinearShape& shape, const Lanes& lanes)
    : lanes_(lanes),
      inputs_(static_cast<size_t>(shape.inputs)),
      outputs_(static_cast<size_t>(shape.outputs)),
      pitch_(static_cast<size_t>(representative(shape, lanes).tokens)),
      block_(std::min(kInputBytes / sizeof(float) / pitch_, inputs_)),
      part_(std::max(ceil_div(outputs_, kParts), std::min(kMinPart, outputs_))) {}

TapLayout LinearRows::layout() const {
  TapLayout layout;
  layout.rows = layout.rows_per_group = outputs_;
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(inputs_, block_);
  auto& columns = layout.columns.emplace_back();
  for (size_t input = 0; input < inputs_; ++input) {
    columns.push_back({static_cast<uint32_t>(input / block_), static_cast<int32_t>(input % block_ * pitch_)});
  }
  return layout;
}

void LinearRows::run(const Taps& taps, const float* bias, const float* x, float* y, size_t tokens, Workers& workers,
                     Scratch& scratch) const {
  const size_t vectors = ceil_div(tokens, lanes_.width), tiles = ceil_div(vectors, pitch_ / lanes_.width);
  const size_t panel = inputs_ * pitch_;
  const size_t together = std::clamp<size_t>(kGroupBytes / sizeof(float) / panel, 1, std::max<size_t>(tiles, 1));
  const size_t parts = ceil_div(outputs_, part_), blocks = ceil_div(inputs_, block_);
  Scratch::Lease panels(scratch, together * panel);
  const auto begin_of = [&](size_t tile) { return vectors * tile / tiles * lanes_.width; };

  for (size_t first = 0; first < tiles; first += together) {
    const size_t group = std::min(together, tiles - first);
    workers.each(group * blocks, [&](size_t task) {
      const size_t tile = first + task / blocks, begin = task % blocks * block_;
      const size_t token = begin_of(tile), padded = begin_of(tile + 1) - token, real = std::min(padded, tokens - token);
      const size_t width = std::min(block_, inputs_ - begin);
      float* to = panels.data() + task / blocks * panel + begin * pitch_;
      lanes_.transpose(x + token * inputs_ + begin, inputs_, to, pitch_, real, width);
      for (size_t i = 0; i < width && real < padded; ++i) std::fill_n(to + i * pitch_ + real, padded - real, 0.0f);
    });
    workers.each(group * parts, [&](size_t task) {
      const size_t tile = first + task / parts, part = task % parts;
      const size_t token = begin_of(tile), padded = begin_of(tile + 1) - token, real = std::min(padded, tokens - token);
      const size_t begin = part * part_, rows = std::min(part_, outputs_ - begin);
      Scratch::Lease sums(scratch, rows * padded);
      for (size_t row = 0; row < rows; ++row) {
        std::fill_n(sums.data() + row * padded, padded, bias ? bias[begin + row] : 0.0f);
      }
      for (size_t block = 0; block < blocks; ++block) {
        const Taps::Slice *slice = &taps.slices[part * blocks + block], *next = slice + 1;
        lanes_.tile[padded / lanes_.width](
            {taps.runs.data() + slice->run, next->run - slice->run, taps.taps.data() + slice->tap,
             panels.data() + task / parts * panel + block * block_ * pitch_, sums.data(), padded});
      }
      lanes_.transpose(sums.data(), padded, y + token * outputs_ + begin, outputs_, rows, real);
    });
  }
}

}  // namespace sift
