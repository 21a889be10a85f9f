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

// Outputs of a part, of which there are a few for threads to share. Each part brings all blocks of inputs from the L2
// cache into the L1 cache: with 192 outputs a layer took 4 to 8 % less time than with 64.
constexpr size_t kParts = 4, kLeastPart = 64, kMostPart = 256;
// So many tiles of tokens are enough for threads to share: what a thread transposes stays in its L2 cache. Of 8 tiles a
// layer of 3072 inputs took 1.2 times as long with all panels transposed before the first is read.
constexpr size_t kManyTiles = 8;
// Of fewer tiles: inputs that a task transposes, and bytes of panels at a time. A thread then mostly reads the panel
// that it transposed, for both kinds of tasks come tile by tile; part by part, two threads took 1.2 to 1.5 times as
// long.
constexpr size_t kChunk = 256;
constexpr size_t kGroupBytes = 4 * 1024 * 1024;

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
  part_ = ceil_div(std::clamp(ceil_div(outputs_, kParts), kLeastPart, kMostPart), lanes_.width) * lanes_.width;
  const size_t row_bytes = columns_ * lanes_.width * sizeof(float);
  TapLayout layout;
  layout.rows = layout.rows_per_group = outputs_;
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(inputs_, block_);
  layout.team = kTeams[team_];
  for (size_t input = 0; input < inputs_; ++input) {
    layout.columns.push_back(
        {static_cast<uint32_t>(input / block_), static_cast<uint32_t>(input % block_ * row_bytes)});
  }
  for (size_t block = 0; block < layout.blocks; ++block) {
    layout.zeros.push_back(static_cast<uint32_t>((inputs_ - block * block_) * row_bytes));
  }
  taps_ = pack_taps(weights, layout);
}

void LinearPanels::run(const Epilogue& epilogue, const float* x, float* y, size_t tokens, Workers& workers,
                       Scratch& scratch) const {
  const size_t width = lanes_.width, row = columns_ * width, panel = (inputs_ + 1) * row;
  const size_t tiles = ceil_div(tokens, row), parts = ceil_div(outputs_, part_);
  // The last tile may need fewer vectors.
  const auto columns_of = [&](size_t tile) { return std::min(columns_, ceil_div(tokens - tile * row, width)); };
  const auto activation = static_cast<size_t>(epilogue.activation);

  const auto transpose = [&](size_t tile, size_t begin, size_t inputs, float* to) {
    for (size_t column = 0; column < columns_of(tile); ++column) {
      const size_t token = tile * row + column * width;
      lanes_.to_lanes({x + token * inputs_ + begin, inputs_, std::min(width, tokens - token), inputs,
                       to + begin * row + column * width, row});
    }
    if (begin + inputs == inputs_) std::fill_n(to + inputs_ * row, row, 0.0f);
  };
  const auto compute = [&](size_t tile, size_t part, const float* input) {
    const size_t begin = part * part_, outputs = std::min(part_, outputs_ - begin), columns = columns_of(tile);
    Scratch::Lease sums(scratch, outputs * columns * width);
    Accumulate a{};
    a.sums = sums.data();
    a.bias = epilogue.bias ? epilogue.bias + begin : nullptr;
    for (size_t block = 0; block < taps_.blocks; ++block) {
      a.input = reinterpret_cast<const char*>(input + block * block_ * row);
      taps_.add(a, lanes_, 1, columns, team_, part, block);
    }
    if (arranged_y_) {
      float* const to = y + (tile * (outputs_ + 1) + begin) * row;
      for (size_t output = 0; output < outputs; ++output) {
        lanes_.finish[activation](
            {a.sums + output * columns * width, nullptr, nullptr, to + output * row, columns * width, &epilogue});
      }
      if (begin + outputs == outputs_) std::fill_n(to + outputs * row, row, 0.0f);
      return;
    }
    for (size_t column = 0; column < columns; ++column) {
      const size_t token = tile * row + column * width, at = token * outputs_ + begin;
      lanes_.from_lanes[activation]({a.sums + column * width, columns * width, std::min(width, tokens - token), outputs,
                                     y + at, epilogue.residual ? epilogue.residual + at : nullptr, outputs_,
                                     &epilogue});
    }
  };

  if (arranged_x_) {
    workers.each(tiles * parts, [&](size_t task) { compute(task / parts, task % parts, x + task / parts * panel); });
    return;
  }
  if (tiles >= kManyTiles) {
    workers.each(tiles, [&](size_t tile) {
      Scratch::Lease transposed(scratch, panel);
      transpose(tile, 0, inputs_, transposed.data());
      for (size_t part = 0; part < parts; ++part) compute(tile, part, transposed.data());
    });
    return;
  }
  const size_t together = std::clamp<size_t>(kGroupBytes / sizeof(float) / panel, 1, std::max<size_t>(tiles, 1));
  const size_t chunks = ceil_div(inputs_, kChunk);
  Scratch::Lease transposed(scratch, together * panel);
  for (size_t first = 0; first < tiles; first += together) {
    const size_t count = std::min(together, tiles - first);
    workers.each(count * chunks, [&](size_t task) {
      const size_t tile = task / chunks, begin = task % chunks * kChunk;
      transpose(first + tile, begin, std::min(kChunk, inputs_ - begin), transposed.data() + tile * panel);
    });
    workers.each(count * parts, [&](size_t task) {
      compute(first + task / parts, task % parts, transposed.data() + task / parts * panel);
    });
  }
}

}  // namespace sift
