#include "kernels/max_pool.h"

#include "kernels/ceil_div.h"

namespace sift {
namespace {

constexpr size_t kTasks = 16;    // a group of images is cut into at least so many, for threads to share
constexpr size_t kMinPart = 16;  // channels

// What compilers make of it, with any vectors, waits for memory.
void raise(float* __restrict to, const float* __restrict from, size_t step, size_t count) {
  if (step == 1) {
    for (size_t i = 0; i < count; ++i) to[i] = from[i] > to[i] ? from[i] : to[i];
  } else {
    for (size_t i = 0; i < count; ++i) to[i] = from[i * step] > to[i] ? from[i * step] : to[i];
  }
}

Grid grid_of(const PoolShape& s, size_t lanes) {
  return {lanes, s.images, (s.height + s.stride_h - 1) / s.stride_h, (s.width + s.stride_w - 1) / s.stride_w};
}

}  // namespace

void max_pool(const PoolShape& s, const float* x, float* y, Workers& workers) {
  const auto width = static_cast<size_t>(s.width), plane = static_cast<size_t>(s.height) * width;
  const auto high = static_cast<size_t>(s.out_height()), wide = static_cast<size_t>(s.out_width());
  const auto kernel_h = static_cast<size_t>(s.kernel_h), kernel_w = static_cast<size_t>(s.kernel_w);
  const auto down = static_cast<size_t>(s.stride_h), across = static_cast<size_t>(s.stride_w);
  workers.each(static_cast<size_t>(s.images * s.channels), [&](size_t task) {
    for (size_t row = 0; row < high; ++row) {
      const float* const from = x + task * plane + row * down * width;
      float* const to = y + (task * high + row) * wide;
      for (size_t column = 0; column < wide; ++column) to[column] = from[column * across];
      for (size_t i = 0; i < kernel_h; ++i) {
        for (size_t j = 0; j < kernel_w; ++j) raise(to, from + i * width + j, across, wide);
      }
    }
  });
}

ArrangedMaxPool::ArrangedMaxPool(const PoolShape& shape, const Lanes& lanes)
    : shape_(shape),
      lanes_(lanes),
      grid_(grid_of(shape, lanes.width)),
      x_(lanes.width, shape.images, shape.channels, shape.height, shape.width, shape.reading_x) {
  const Halo& around = shape.reading_x.halo;
  for (int64_t i = around.top; i < around.top + shape.kernel_h; ++i) {
    for (int64_t j = around.left; j < around.left + shape.kernel_w; ++j) {
      taps_.push_back(static_cast<size_t>(i) * x_.row_pitch + x_.position(static_cast<size_t>(j)) * lanes.width);
    }
  }
  const int64_t height = shape.out_height(), width = shape.out_width();
  if (!shape.arranged_y) return;
  const ArrangedImage image(lanes.width, shape.images, shape.channels, height, width, shape.reading_y);
  if (image.images != grid_.images) return;
  scattering_ = Scattering(lanes.width, grid_, image, height, width, shape.reading_y.halo);
  y_ = image;
}

void ArrangedMaxPool::run(const float* x, float* y, Workers& workers, Scratch& scratch) const {
  const auto channels = static_cast<size_t>(shape_.channels), down = static_cast<size_t>(shape_.stride_h);
  const size_t rows = grid_.patch_h, tiles = grid_.tiles, floats = grid_.columns * lanes_.width;
  const size_t part = std::max(ceil_div(channels, ceil_div(kTasks, rows * tiles)), kMinPart);
  const size_t parts = ceil_div(channels, part), groups = ceil_div(static_cast<size_t>(shape_.images), grid_.images);
  workers.each(groups * parts * rows * tiles, [&](size_t task) {
    const size_t tile = task % tiles, row = task / tiles % rows;
    const size_t begin = task / tiles / rows % parts * part, group = task / tiles / rows / parts;
    const size_t here = std::min(part, channels - begin);
    Scratch::Lease lease(scratch, here * floats);
    for (size_t channel = 0; channel < here; ++channel) {
      // Of neighbouring outputs, the inputs of a tap are neighbours.
      const float* const from = x + group * x_.group_pitch + tile * x_.tile_pitch + row * down * x_.row_pitch +
                                (begin + channel) * x_.channel_pitch;
      float* const to = lease.data() + channel * floats;
      std::copy_n(from + taps_.front(), floats, to);
      for (size_t tap = 1; tap < taps_.size(); ++tap) raise(to, from + taps_[tap], 1, floats);
    }
    const Piece piece{group, tile, row, begin, here, lease.data()};
    y_ ? store_arranged(piece, y) : store(piece, y);
  });
}

void ArrangedMaxPool::store(const Piece& piece, float* y) const {
  const auto high = static_cast<size_t>(shape_.out_height()), wide = static_cast<size_t>(shape_.out_width());
  const auto channels = static_cast<size_t>(shape_.channels), images = static_cast<size_t>(shape_.images);
  const size_t first = piece.tile * grid_.columns, plane = high * wide, before = piece.group * grid_.images;
  std::vector<Deinterleave::Lane> lanes;
  for (size_t lane = 0; lane < lanes_.width; ++lane) {
    const size_t image = lane / (grid_.down * grid_.across);
    const size_t row = lane / grid_.across % grid_.down * grid_.patch_h + piece.row;
    const size_t column = lane % grid_.across * grid_.patch_w + first;
    const bool exists = before + image < images && row < high && column < wide;
    lanes.push_back({static_cast<ptrdiff_t>(image * channels * plane + row * wide + column),
                     exists ? std::min({grid_.columns, grid_.patch_w - first, wide - column}) : 0});
  }
  const Epilogue nothing;
  lanes_.deinterleave[static_cast<int>(Activation::kNone)](
      {lanes.data(), piece.largest, lanes_.width, piece.channels, 1, grid_.columns,
       y + (before * channels + piece.channel) * plane, plane, &nothing});
}

void ArrangedMaxPool::store_arranged(const Piece& piece, float* y) const {
  const Epilogue nothing;
  const size_t first = piece.tile * grid_.columns;
  Arrange a{};
  a.sums = piece.largest;
  a.channels = piece.channels, a.rows = 1;
  a.columns = std::min(grid_.columns, grid_.patch_w - first), a.sums_columns = grid_.columns;
  a.y = y + piece.group * y_->group_pitch + piece.channel * y_->channel_pitch;
  a.y_pitch = y_->channel_pitch;
  a.zeros = piece.channel + piece.channels == static_cast<size_t>(shape_.channels);
  a.first = scattering_.first() + piece.row * grid_.patch_w + first;
  a.first_pitch = grid_.patch_w;
  a.targets = scattering_.targets();
  a.permutations = scattering_.permutations();
  a.epilogue = &nothing;
  lanes_.arrange[static_cast<int>(Activation::kNone)](a);
}

}  // namespace sift
