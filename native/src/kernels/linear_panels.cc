#include "kernels/linear_panels.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "formats/pack_taps.h"
#include "kernels/arranged.h"
#include "kernels/ceil_div.h"
#include "kernels/tiles.h"

namespace sift {
namespace {

constexpr size_t kTasks = 16;                    // for threads to share where there is one tile of tokens
constexpr size_t kMinPart = 64;                  // outputs
constexpr size_t kGroupBytes = 4 * 1024 * 1024;  // of panels at a time

}  // namespace

LinearShape LinearPanels::representative(LinearShape shape, const Lanes& lanes) {
  const auto width = static_cast<int64_t>(lanes.width);
  int64_t columns = 1;
  while (columns < static_cast<int64_t>(kMaxColumns) && columns * width < shape.tokens) columns *= 2;
  shape.tokens = columns * width;
  return shape;
}

std::vector<Plan> LinearPanels::plans(const LinearShape& shape, const Lanes& lanes, size_t kept) {
  const auto inputs = static_cast<size_t>(shape.inputs), outputs = static_cast<size_t>(shape.outputs);
  const size_t most = static_cast<size_t>(representative(shape, lanes).tokens) / lanes.width;
  std::vector<Estimate> found;
  const size_t given = shape.arranged() ? ArrangedTokens(lanes.width, shape.tokens, 0).columns : 0;
  for (size_t columns = 1; columns <= most; columns *= 2) {
    if (given && columns != given) continue;
    for (Estimate& estimate : teams(lanes, columns, inputs, outputs, kept)) found.push_back(std::move(estimate));
  }
  return ranked(std::move(found));
}

LinearPanels::LinearPanels(const LinearShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan)
    : lanes_(lanes),
      inputs_(static_cast<size_t>(shape.inputs)),
      outputs_(static_cast<size_t>(shape.outputs)),
      columns_(plan[0]),
      team_(plan[1]),
      block_(plan[2]),
      arranged_x_(shape.arranged_x),
      arranged_y_(shape.arranged_y) {
  if (inputs_ > std::numeric_limits<uint32_t>::max() / sizeof(float) / kMaxColumns / lanes.width - 1) {
    throw std::length_error("the layer has too many inputs");
  }
  part_ = std::min(outputs_, std::max(ceil_div(outputs_, kTasks), kMinPart));
  const size_t row_bytes = columns_ * lanes_.width * sizeof(float);
  TapLayout layout;
  layout.rows = layout.rows_per_group = outputs_;
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(inputs_, block_);
  layout.team = kTeams[team_];
  for (size_t input = 0; input < inputs_; ++input) {
    layout.columns.push_back(
        {static_cast<uint32_t>(input / block_), static_cast<uint32_t>(input % block_ * row_bytes)});
    position_.push_back(static_cast<uint32_t>(input * columns_));
  }
  for (size_t block = 0; block < layout.blocks; ++block) {
    layout.zeros.push_back(static_cast<uint32_t>((inputs_ - block * block_) * row_bytes));
  }
  taps_ = pack_taps(weights, layout);
}

void LinearPanels::run(const Epilogue& epilogue, const float* x, float* y, size_t tokens, Workers& workers,
                       Scratch& scratch) const {
  const size_t width = lanes_.width, row = columns_ * width, panel = (inputs_ + 1) * row;
  const size_t tiles = ceil_div(tokens, row);
  const size_t most = arranged_x_ ? tiles : kGroupBytes / sizeof(float) / panel;
  const size_t together = std::clamp<size_t>(most, 1, std::max<size_t>(tiles, 1));
  const size_t parts = ceil_div(outputs_, part_), blocks = taps_.blocks;
  Scratch::Lease transposed(scratch, arranged_x_ ? 0 : together * panel);
  const float* const panels = arranged_x_ ? x : transposed.data();
  // Of the vector `column` of a tile: how many of its tokens exist.
  const auto tokens_of = [&](size_t tile, size_t column) {
    const size_t first = tile * row + column * width;
    return first < tokens ? std::min(width, tokens - first) : 0;
  };
  // The last tile may need fewer vectors.
  const auto columns_of = [&](size_t tile) { return std::min(columns_, ceil_div(tokens - tile * row, width)); };

  for (size_t first = 0; first < tiles; first += together) {
    const size_t count = std::min(together, tiles - first);
    workers.each(arranged_x_ ? 0 : count * blocks, [&](size_t task) {
      const size_t tile = first + task / blocks, begin = task % blocks * block_;
      const size_t inputs = std::min(block_, inputs_ - begin);
      float* to = transposed.data() + (tile - first) * panel;
      std::vector<Interleave::Lane> lanes(width);
      for (size_t column = 0; column < columns_of(tile); ++column) {
        for (size_t lane = 0; lane < width; ++lane) {
          const bool exists = lane < tokens_of(tile, column);
          lanes[lane] = {static_cast<ptrdiff_t>(((tile * columns_ + column) * width + lane) * inputs_ + begin), 0,
                         exists ? inputs : 0};
        }
        lanes_.interleave({lanes.data(), x, 1, 0, inputs, 1, position_.data(), to + begin * row + column * width, 0});
      }
      if (begin + inputs == inputs_) std::fill_n(to + inputs_ * row, row, 0.0f);
    });
    workers.each(count * parts, [&](size_t task) {
      const size_t tile = first + task / parts, part = task % parts;
      const size_t begin = part * part_, outputs = std::min(part_, outputs_ - begin), columns = columns_of(tile);
      Scratch::Lease sums(scratch, ceil_div(outputs, width) * width * columns * width);
      const float* input = panels + (tile - first) * panel;
      Accumulate a{};
      a.sums = sums.data();
      a.bias = epilogue.bias ? epilogue.bias + begin : nullptr;
      for (size_t block = 0; block < blocks; ++block) {
        a.input = reinterpret_cast<const char*>(input + block * block_ * row);
        taps_.add(a, lanes_, 1, columns, team_, part, block);
      }
      if (arranged_y_) {
        float* const to = y + tile * (outputs_ + 1) * row;
        for (size_t output = 0; output < outputs; ++output) {
          lanes_.finish[static_cast<int>(epilogue.activation)]({sums.data() + output * columns * width, nullptr,
                                                                nullptr, to + (begin + output) * row, columns * width,
                                                                &epilogue});
        }
        if (begin + outputs == outputs_) std::fill_n(to + outputs_ * row, row, 0.0f);
        return;
      }
      std::vector<Deinterleave::Lane> lanes(width);
      const auto store = [&](size_t column, size_t output, size_t squares, size_t across) {
        for (size_t lane = 0; lane < width; ++lane) {
          lanes[lane] = {
              static_cast<ptrdiff_t>(((tile * columns_ + column) * width + lane) * outputs_ + begin + output),
              lane < tokens_of(tile, column) ? across : 0};
        }
        lanes_.deinterleave[static_cast<int>(epilogue.activation)](
            {lanes.data(), sums.data() + (output * columns + column) * width, columns * width, squares, 1, width, y,
             width, &epilogue});
      };
      const size_t whole = outputs / width;
      for (size_t column = 0; column < columns; ++column) {
        store(column, 0, whole, width);
        if (outputs > whole * width) store(column, whole * width, 1, outputs - whole * width);
      }
    });
  }
}

}  // namespace sift
