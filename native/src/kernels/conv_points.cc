#include "kernels/conv_points.h"

#include <algorithm>
#include <cstring>

#include "formats/pack_taps.h"
#include "kernels/ceil_div.h"
#include "kernels/tiles.h"

namespace sift {
namespace {

constexpr size_t kTasks = 16;    // an image is cut into at least so many, for threads to share
constexpr size_t kMinPart = 64;  // filters: each part copies the inputs anew

}  // namespace

bool ConvPoints::supports(const ConvShape& s, const Lanes&) {
  return s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 && s.groups == 1 && s.top == 0 &&
         s.left == 0 && s.bottom == 0 && s.right == 0 && !s.arranged();
}

ConvShape ConvPoints::representative(ConvShape shape, const Lanes&) {
  shape.images = 1;
  return shape;
}

std::vector<Plan> ConvPoints::plans(const ConvShape& shape, const Lanes& lanes, size_t kept) {
  const size_t vectors = ceil_div(static_cast<size_t>(shape.height) * static_cast<size_t>(shape.width), lanes.width);
  const size_t columns = ceil_div(vectors, ceil_div(vectors, kMaxColumns));
  return ranked(teams(lanes, columns, static_cast<size_t>(shape.channels), static_cast<size_t>(shape.filters), kept));
}

ConvPoints::ConvPoints(const ConvShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan)
    : lanes_(lanes),
      channels_(static_cast<size_t>(shape.channels)),
      filters_(static_cast<size_t>(shape.filters)),
      pixels_(static_cast<size_t>(shape.height) * static_cast<size_t>(shape.width)),
      columns_(plan[0]),
      team_(plan[1]),
      block_(plan[2]) {
  const size_t tiles = ceil_div(pixels_, columns_ * lanes_.width);
  part_ = std::min(filters_, std::max(ceil_div(filters_, ceil_div(kTasks, tiles)), kMinPart));

  const size_t row_bytes = columns_ * lanes_.width * sizeof(float);
  TapLayout layout;
  layout.rows = layout.rows_per_group = filters_;
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(channels_, block_);
  layout.team = kTeams[team_];
  layout.zeros.assign(layout.blocks, static_cast<uint32_t>(block_ * row_bytes));
  for (size_t channel = 0; channel < channels_; ++channel) {
    layout.columns.push_back(
        {static_cast<uint32_t>(channel / block_), static_cast<uint32_t>(channel % block_ * row_bytes)});
  }
  taps_ = pack_taps(weights, layout);
}

void ConvPoints::run(const Epilogue& epilogue, const float* x, float* y, size_t images, Workers& workers,
                     Scratch& scratch) const {
  const size_t row = columns_ * lanes_.width, tiles = ceil_div(pixels_, row);
  const size_t parts = ceil_div(filters_, part_);
  workers.each(images * tiles * parts, [&](size_t task) {
    const size_t tile = task % tiles, part = task / tiles % parts, image = task / tiles / parts;
    const size_t first = tile * row, pixels = std::min(row, pixels_ - first);
    const size_t begin = part * part_, filters = std::min(part_, filters_ - begin);
    Scratch::Lease inputs(scratch, (block_ + 1) * row), sums(scratch, filters * row);
    std::fill_n(inputs.data() + block_ * row, row, 0.0f);
    Accumulate a{};
    a.input = reinterpret_cast<const char*>(inputs.data());
    a.sums = sums.data();
    a.bias = epilogue.bias ? epilogue.bias + begin : nullptr;
    for (size_t block = 0; block < taps_.blocks; ++block) {
      const size_t channel = block * block_, channels = std::min(block_, channels_ - channel);
      for (size_t c = 0; c < channels; ++c) {
        float* to = inputs.data() + c * row;
        std::memcpy(to, x + (image * channels_ + channel + c) * pixels_ + first, pixels * sizeof(float));
        if (pixels < row) std::fill_n(to + pixels, row - pixels, 0.0f);
      }
      taps_.add(a, lanes_, 1, columns_, team_, part, block);
    }
    const size_t out = (image * filters_ + begin) * pixels_ + first;
    for (size_t filter = 0; filter < filters; ++filter) {
      const size_t at = out + filter * pixels_;
      lanes_.finish[static_cast<int>(epilogue.activation)]({sums.data() + filter * row, nullptr,
                                                            epilogue.residual ? epilogue.residual + at : nullptr,
                                                            y + at, pixels, &epilogue});
    }
  });
}

}  // namespace sift
