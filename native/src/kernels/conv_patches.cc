#include "kernels/conv_patches.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "formats/pack_taps.h"
#include "kernels/ceil_div.h"
#include "kernels/tiles.h"

namespace sift {
namespace {

constexpr size_t kTasks = 16;                    // a group of images is cut into at least so many, for threads to share
constexpr size_t kMinPart = 32;                  // filters
constexpr size_t kGroupBytes = 8 * 1024 * 1024;  // of interleaved images at a time

}  // namespace

ConvPatches::Axis::Axis(int64_t size_, int64_t out_, int64_t kernel_, int64_t stride_, int64_t dilation_, int64_t pad_)
    : size(static_cast<size_t>(size_)),
      out(static_cast<size_t>(out_)),
      kernel(static_cast<size_t>(kernel_)),
      stride(static_cast<size_t>(stride_)),
      dilation(static_cast<size_t>(dilation_)),
      // Of pixels that no tap reads none is stored: of a 1x1 kernel with a stride of 2, every other.
      step(kernel == 1 ? stride : std::gcd(stride, dilation)),
      pad(static_cast<size_t>(pad_)) {
  stride /= step;
  dilation = kernel == 1 ? 0 : dilation / step;
}

ConvShape ConvPatches::representative(ConvShape shape, const Lanes& lanes) {
  int64_t images = 1;
  while (images * 2 <= std::min<int64_t>(shape.images, static_cast<int64_t>(lanes.width))) images *= 2;
  shape.images = images;
  return shape;
}

ConvPatches::ConvPatches(const ConvShape& shape, const Lanes& lanes, const Weights& weights)
    : shape_(shape),
      lanes_(lanes),
      down_(shape.height, shape.out_height(), shape.kernel_h, shape.stride_h, shape.dilation_h, shape.top),
      across_(shape.width, shape.out_width(), shape.kernel_w, shape.stride_w, shape.dilation_w, shape.left),
      tiling_(choose(count_kept(weights))) {
  const size_t channels = static_cast<size_t>(shape.channels), filters = static_cast<size_t>(shape.filters);
  const size_t vectors = row_vectors(tiling_), rows = down_.cells(tiling_.patch_h);
  const size_t limit =
      std::numeric_limits<uint32_t>::max() / (lanes.width * sizeof(float));  // a tap's offset is 32 bits
  if ((channels + 1) > limit / vectors / rows / tiles_across(tiling_)) {
    throw std::length_error("the interleaved image is too large");
  }
  row_pitch_ = (channels + 1) * vectors * lanes.width;
  group_pitch_ = tiles_across(tiling_) * rows * row_pitch_;
  const size_t tiles = tiles_down(tiling_) * tiles_across(tiling_);
  part_ = std::min(filters, std::max(ceil_div(filters, ceil_div(kTasks, tiles)), kMinPart));
  for (size_t cell = 0; cell < across_.cells(tiling_.columns); ++cell) {
    position_.push_back(static_cast<uint32_t>(cell % across_.stride * phase_vectors(tiling_) + cell / across_.stride));
  }
  taps_ = pack(weights);
}

size_t ConvPatches::block_vectors(const Tiling& t) const {
  const size_t rows = std::min(down_.cells(t.rows), t.rows * down_.kernel);
  return rows * std::min(row_vectors(t), across_.kernel * t.columns);
}

// The cheapest of the tilings there are.
ConvPatches::Tiling ConvPatches::choose(size_t kept) const {
  Tiling best{}, t{};
  double least = std::numeric_limits<double>::infinity();
  const auto channels = static_cast<size_t>(shape_.channels);
  for (t.images = 1; t.images <= std::min(lanes_.width, static_cast<size_t>(shape_.images)); t.images *= 2) {
    for (t.down = 1; t.images * t.down <= lanes_.width; t.down *= 2) {
      t.across = lanes_.width / t.images / t.down;
      t.patch_h = ceil_div(down_.out, t.down);
      t.patch_w = ceil_div(across_.out, t.across);
      for (t.rows = 1; t.rows <= std::min(kMaxRows, t.patch_h); ++t.rows) {
        for (t.columns = std::min(kMaxColumns, t.patch_w); t.columns > 0; --t.columns) {
          if (t.columns < kMaxColumns / 2 && t.columns < t.patch_w) break;
          t.block = std::clamp<size_t>(kInputBytes / (block_vectors(t) * lanes_.width * sizeof(float)), 1, channels);
          t.block = ceil_div(channels, ceil_div(channels, t.block));
          for (t.team = 0; t.team < std::size(kTeams); ++t.team) {
            if (!lanes_.accumulate[t.rows][t.columns][t.team]) continue;
            const double cycles = cost(t, kept);
            if (cycles < least) least = cycles, best = t;
          }
        }
      }
    }
  }
  return best;
}

// Cycles for shape_.images images, one thread. Only the order of tilings matters.
double ConvPatches::cost(const Tiling& t, size_t kept) const {
  const size_t width = lanes_.width;
  const Cycles each(lanes_);
  const double line = 3.0;  // a vector, or a piece of a row, between the image and the lanes
  const double channels = static_cast<double>(shape_.channels), filters = static_cast<double>(shape_.filters);
  const double taps = static_cast<double>(kept), across = static_cast<double>(tiles_across(t));
  const double groups = std::ceil(static_cast<double>(shape_.images) / static_cast<double>(t.images));
  const double sums = static_cast<double>(t.patch_h * t.columns) * across;  // vectors a filter, all tiles
  const double tiles = static_cast<double>(tiles_down(t)) * across;
  const double blocks = std::ceil(channels / static_cast<double>(t.block));
  const double team = static_cast<double>(kTeams[t.team]);
  const double stream =
      taps * sizeof(Tap) > 1.5e6 ? 0.06 : 0.03;  // cycles a byte of weights from beyond, from in the L2
  // Squares that are transposed, and the pieces of rows that are stored from them.
  const double squares_in =
      channels * across * static_cast<double>(down_.cells(t.patch_h) * ceil_div(across_.cells(t.columns), width));
  const double pieces_out = filters * across * static_cast<double>(t.patch_h * width);
  const double squares_out = pieces_out / static_cast<double>(width / t.columns * width);
  return groups * (taps * (sums * each.multiply + tiles * (each.tap + stream * sizeof(Tap))) +
                   blocks * filters * (sums * each.spill + tiles * each.visit / team) +
                   line * (static_cast<double>(width) * (squares_in + squares_out) + pieces_out));
}

Taps ConvPatches::pack(const Weights& weights) const {
  const size_t vector_bytes = lanes_.width * sizeof(float), channel_bytes = row_vectors(tiling_) * vector_bytes;
  const size_t channels = static_cast<size_t>(shape_.channels);
  TapLayout layout;
  layout.rows = static_cast<size_t>(shape_.filters);
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(channels, tiling_.block);
  layout.rows_per_group = static_cast<size_t>(shape_.filters / shape_.groups);
  layout.team = kTeams[tiling_.team];
  for (size_t block = 0; block < layout.blocks; ++block) {
    layout.zeros.push_back(static_cast<uint32_t>((channels - block * tiling_.block) * channel_bytes));
  }
  for (int64_t group = 0; group < shape_.groups; ++group) {
    auto& columns = layout.columns.emplace_back();
    for (int64_t c = group * shape_.group_channels(); c < (group + 1) * shape_.group_channels(); ++c) {
      const size_t channel = static_cast<size_t>(c);
      for (size_t i = 0; i < down_.kernel; ++i) {
        for (size_t j = 0; j < across_.kernel; ++j) {
          const size_t cell = j * across_.dilation;
          const size_t offset = i * down_.dilation * row_pitch_ * sizeof(float) +
                                channel % tiling_.block * channel_bytes + position_[cell] * vector_bytes;
          columns.push_back({static_cast<uint32_t>(channel / tiling_.block), static_cast<uint32_t>(offset)});
        }
      }
    }
  }
  return pack_taps(weights, layout);
}

// Where each lane's cells of row `row` of its patch come from, for the tile `tile` across of the first `images` images.
std::vector<Interleave::Lane> ConvPatches::sources(size_t row, size_t tile, size_t images) const {
  std::vector<Interleave::Lane> lanes;
  const Tiling& t = tiling_;
  const auto image = static_cast<ptrdiff_t>(shape_.channels * shape_.height * shape_.width);
  const size_t cells = position_.size();
  for (size_t i = 0; i < t.images; ++i) {
    for (size_t down = 0; down < t.down; ++down) {
      for (size_t across = 0; across < t.across; ++across) {
        const auto y = static_cast<ptrdiff_t>((down * t.patch_h * down_.stride + row) * down_.step) -
                       static_cast<ptrdiff_t>(down_.pad);
        const auto x = static_cast<ptrdiff_t>((across * t.patch_w + tile * t.columns) * across_.stride * across_.step) -
                       static_cast<ptrdiff_t>(across_.pad);
        const auto step = static_cast<ptrdiff_t>(across_.step), width = static_cast<ptrdiff_t>(across_.size);
        const auto inside = [&](ptrdiff_t pixels) {  // cells of the row that begin before pixel x + `pixels`
          return std::min(static_cast<size_t>((std::max<ptrdiff_t>(pixels, 0) + step - 1) / step), cells);
        };
        const bool exists = i < images && y >= 0 && y < static_cast<ptrdiff_t>(down_.size);
        lanes.push_back({static_cast<ptrdiff_t>(i) * image + y * width + x, exists ? inside(-x) : 0,
                         exists ? std::max(inside(-x), inside(width - x)) : 0});
      }
    }
  }
  return lanes;
}

// Where each lane's outputs of one tile go, row by row.
std::vector<Deinterleave::Lane> ConvPatches::targets(size_t row, size_t tile, size_t images) const {
  std::vector<Deinterleave::Lane> lanes;
  const Tiling& t = tiling_;
  const size_t first = tile * t.columns;
  for (size_t r = row; r < std::min(row + t.rows, t.patch_h); ++r) {
    for (size_t i = 0; i < t.images; ++i) {
      for (size_t down = 0; down < t.down; ++down) {
        for (size_t across = 0; across < t.across; ++across) {
          const size_t y = down * t.patch_h + r, x = across * t.patch_w + first;
          const size_t image = i * static_cast<size_t>(shape_.filters) * down_.out * across_.out;
          const bool exists = i < images && y < down_.out && x < across_.out;
          lanes.push_back({static_cast<ptrdiff_t>(image + y * across_.out + x),
                           exists ? std::min({t.columns, t.patch_w - first, across_.out - x}) : 0});
        }
      }
    }
  }
  return lanes;
}

void ConvPatches::run(const Epilogue& epilogue, const float* x, float* y, size_t images, Workers& workers,
                      Scratch& scratch) const {
  const Tiling& t = tiling_;
  const size_t channels = static_cast<size_t>(shape_.channels), filters = static_cast<size_t>(shape_.filters);
  const size_t image_in = channels * down_.size * across_.size, image_out = filters * down_.out * across_.out;
  const size_t rows = down_.cells(t.patch_h), vectors = row_vectors(t), channel_floats = vectors * lanes_.width;
  const size_t down = tiles_down(t), across = tiles_across(t), parts = ceil_div(filters, part_);
  const size_t groups = ceil_div(images, t.images);
  const size_t together =
      std::clamp<size_t>(kGroupBytes / sizeof(float) / group_pitch_, 1, std::max<size_t>(groups, 1));
  Scratch::Lease interleaved(scratch, together * group_pitch_);
  const auto images_of = [&](size_t group) { return std::min(t.images, images - group * t.images); };

  for (size_t first = 0; first < groups; first += together) {
    const size_t count = std::min(together, groups - first);
    workers.each(count * across * rows, [&](size_t task) {
      const size_t row = task % rows, tile = task / rows % across, group = first + task / rows / across;
      const auto lanes = sources(row, tile, images_of(group));
      float* to = interleaved.data() + (group - first) * group_pitch_ + (tile * rows + row) * row_pitch_;
      lanes_.interleave({lanes.data(), x + group * t.images * image_in, channels, down_.size * across_.size,
                         position_.size(), across_.step, position_.data(), to, channel_floats});
      std::fill_n(to + channels * channel_floats, channel_floats, 0.0f);
    });
    workers.each(count * parts * down * across, [&](size_t task) {
      const size_t tile = task % across, row = task / across % down * t.rows;
      const size_t part = task / across / down % parts, group = first + task / across / down / parts;
      const size_t begin = part * part_, here = std::min(part_, filters - begin);
      const size_t height = std::min(t.rows, t.patch_h - row);
      Scratch::Lease sums(scratch, here * height * t.columns * lanes_.width);
      const float* input =
          interleaved.data() + (group - first) * group_pitch_ + (tile * rows + row * down_.stride) * row_pitch_;
      Accumulate a{};
      a.row_stride = down_.stride * row_pitch_ * sizeof(float);
      a.sums = sums.data();
      a.bias = epilogue.bias ? epilogue.bias + begin : nullptr;
      for (size_t block = 0; block < taps_.blocks; ++block) {
        a.input = reinterpret_cast<const char*>(input + block * t.block * channel_floats);
        taps_.add(a, lanes_, height, t.columns, t.team, part, block);
      }
      const auto lanes = targets(row, tile, images_of(group));
      Epilogue rest = epilogue;
      const size_t out = group * t.images * image_out + begin * down_.out * across_.out;
      if (rest.residual) rest.residual += out;
      lanes_.deinterleave[static_cast<int>(rest.activation)](
          {lanes.data(), sums.data(), lanes_.width, here, height, t.columns, y + out, down_.out * across_.out, &rest});
    });
  }
}

}  // namespace sift
