#include "kernels/conv_rows.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace sift {
namespace {

constexpr size_t kInputBytes = 24 * 1024;        // of the L1 cache for a block's inputs; the rest is weights and sums
constexpr size_t kTasks = 16;                    // an image is cut into at least so many, for threads to share
constexpr size_t kMinPart = 8;                   // filters
constexpr size_t kGroupBytes = 8 * 1024 * 1024;  // of padded images at a time, so that they stay in the L2/L3 cache

size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

// An odd number of cache lines: planes a power of two apart would all compete for the same few sets of the cache.
size_t spread(size_t floats) { return (ceil_div(floats, 16) | 1) * 16; }

size_t index_of(std::vector<size_t>& seen, size_t value) {
  const auto found = std::find(seen.begin(), seen.end(), value);
  if (found == seen.end()) seen.push_back(value);
  return static_cast<size_t>(std::find(seen.begin(), seen.end(), value) - seen.begin());
}

}  // namespace

ConvRows::Axis::Axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  std::vector<size_t> phases;
  size_t reach = 0;
  for (int64_t tap = 0; tap < kernel; ++tap) {
    phase_of.push_back(index_of(phases, static_cast<size_t>(tap * dilation % stride)));
    shift_of.push_back(static_cast<size_t>(tap * dilation / stride));
    reach = std::max(reach, shift_of.back());
  }
  cells = reach + static_cast<size_t>(out);
  shared = reach;  // at the most: a row's outputs are its own
  for (const size_t phase : phases) {
    first.push_back(static_cast<int64_t>(phase) - pad);
    const int64_t before = first.back() >= 0 ? 0 : (-first.back() + stride - 1) / stride;
    const int64_t inside =
        std::max<int64_t>(0, size - first.back() + stride - 1) / stride;  // first cell past the image
    const int64_t after = static_cast<int64_t>(cells) - std::min<int64_t>(inside, static_cast<int64_t>(cells));
    shared = std::min(shared, static_cast<size_t>(std::min(before, after)));
  }
}

ConvRows::ConvRows(const ConvShape& shape, const Lanes& lanes)
    : shape_(shape),
      lanes_(lanes),
      out_h_(static_cast<size_t>(shape.out_height())),
      out_w_(static_cast<size_t>(shape.out_width())),
      vertical_(shape.height, shape.out_height(), shape.kernel_h, shape.stride_h, shape.dilation_h, shape.top),
      horizontal_(shape.width, shape.out_width(), shape.kernel_w, shape.stride_w, shape.dilation_w, shape.left),
      pitch_(horizontal_.cells - horizontal_.shared) {
  const size_t limit = static_cast<size_t>(INT32_MAX) / phases() - 64;
  if (vertical_.cells > limit / pitch_ || vertical_.cells * pitch_ > limit - horizontal_.shared) {
    throw std::length_error("the padded image is too large");
  }
  // A tile's last vector may read past what its outputs need; there it finds zeros, or the next plane, and what it
  // computes from them is not stored.
  plane_ = spread(vertical_.cells * pitch_ + horizontal_.shared + lanes_.width);
  const size_t positions = (out_h_ - 1) * pitch_ + out_w_;
  vectors_ = ceil_div(positions, lanes_.width);
  tiles_ = ceil_div(vectors_, kMaxVectors);

  const size_t tile_floats = ceil_div(vectors_, tiles_) * lanes_.width;
  const size_t reach = vertical_.cells * pitch_ - out_h_ * pitch_ + horizontal_.cells - out_w_;
  const size_t touched = phases() * std::min(plane_, tile_floats + reach) * sizeof(float);
  const size_t channels = static_cast<size_t>(shape_.channels), filters = static_cast<size_t>(shape_.filters);
  block_ = std::clamp<size_t>(std::min(kInputBytes / touched, limit / plane_), 1, channels);
  part_ = std::max(ceil_div(filters, ceil_div(kTasks, tiles_)), std::min(kMinPart, filters));
}

TapLayout ConvRows::layout() const {
  TapLayout layout;
  layout.rows = static_cast<size_t>(shape_.filters);
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(static_cast<size_t>(shape_.channels), block_);
  layout.rows_per_group = static_cast<size_t>(shape_.filters / shape_.groups);
  for (int64_t group = 0; group < shape_.groups; ++group) {
    auto& columns = layout.columns.emplace_back();
    for (int64_t c = group * shape_.group_channels(); c < (group + 1) * shape_.group_channels(); ++c) {
      const size_t channel = static_cast<size_t>(c);
      for (size_t h = 0; h < vertical_.phase_of.size(); ++h) {
        for (size_t w = 0; w < horizontal_.phase_of.size(); ++w) {
          const size_t phase = vertical_.phase_of[h] * horizontal_.first.size() + horizontal_.phase_of[w];
          const size_t offset =
              (channel % block_ * phases() + phase) * plane_ + vertical_.shift_of[h] * pitch_ + horizontal_.shift_of[w];
          columns.push_back({static_cast<uint32_t>(channel / block_), static_cast<int32_t>(offset)});
        }
      }
    }
  }
  return layout;
}

ConvRows::Tile ConvRows::tile(size_t index) const {
  const size_t begin = vectors_ * index / tiles_, end = vectors_ * (index + 1) / tiles_;
  return {begin * lanes_.width, end - begin};
}

// One input channel into its planes, one for each pair of phases.
void ConvRows::pad(const float* channel, float* planes) const {
  std::memset(planes, 0, channel_floats() * sizeof(float));
  for (const int64_t first_row : vertical_.first) {
    for (const int64_t first_column : horizontal_.first) {
      const int64_t stride = shape_.stride_w;
      const int64_t skipped = first_column >= 0 ? 0 : (-first_column + stride - 1) / stride;
      const int64_t past = (shape_.width - first_column + stride - 1) / stride;
      const int64_t end = std::min<int64_t>(past, static_cast<int64_t>(horizontal_.cells));
      for (size_t r = 0; r < vertical_.cells && skipped < end; ++r) {
        const int64_t row = first_row + static_cast<int64_t>(r) * shape_.stride_h;
        if (row < 0 || row >= shape_.height) continue;
        const float* from = channel + row * shape_.width + first_column + skipped * stride;
        float* to = planes + r * pitch_ + static_cast<size_t>(skipped);
        if (stride == 1) {
          std::memcpy(to, from, static_cast<size_t>(end - skipped) * sizeof(float));
        } else {
          for (int64_t i = 0; i < end - skipped; ++i) to[i] = from[i * stride];
        }
      }
      planes += plane_;
    }
  }
}

// The outputs among one filter's sums; the positions between two rows of the image are left out.
void ConvRows::store(const float* sums, const Tile& tile, float* y) const {
  const size_t tile_end = tile.begin + tile.vectors * lanes_.width;
  for (size_t row = tile.begin / pitch_; row < out_h_ && row * pitch_ < tile_end; ++row) {
    const size_t begin = std::max(tile.begin, row * pitch_), end = std::min(tile_end, row * pitch_ + out_w_);
    if (begin >= end) continue;
    std::memcpy(y + row * out_w_ + (begin - row * pitch_), sums + (begin - tile.begin), (end - begin) * sizeof(float));
  }
}

void ConvRows::run(const Taps& taps, const float* bias, const float* x, float* y, size_t images, Workers& workers,
                   Scratch& scratch) const {
  const size_t channels = static_cast<size_t>(shape_.channels), filters = static_cast<size_t>(shape_.filters);
  const size_t image_floats = channels * channel_floats();
  const size_t image_in = channels * static_cast<size_t>(shape_.height * shape_.width),
               image_out = filters * out_h_ * out_w_;
  const size_t together =
      std::clamp<size_t>(kGroupBytes / sizeof(float) / image_floats, 1, std::max<size_t>(images, 1));
  const size_t parts = ceil_div(filters, part_), blocks = ceil_div(channels, block_);
  Scratch::Lease padded(scratch, together * image_floats);

  for (size_t first = 0; first < images; first += together) {
    const size_t group = std::min(together, images - first);
    workers.each(group * blocks, [&](size_t task) {
      const size_t image = task / blocks, begin = task % blocks * block_;
      for (size_t c = begin; c < std::min(begin + block_, channels); ++c) {
        pad(x + (first + image) * image_in + c * (image_in / channels),
            padded.data() + image * image_floats + c * channel_floats());
      }
    });
    workers.each(group * tiles_ * parts, [&](size_t task) {
      const size_t part = task % parts, image = task / parts / tiles_;
      const Tile here = tile(task / parts % tiles_);
      const size_t begin = part * part_, rows = std::min(part_, filters - begin);
      const size_t pitch = here.vectors * lanes_.width;
      Scratch::Lease sums(scratch, rows * pitch);
      for (size_t row = 0; row < rows; ++row) {
        std::fill_n(sums.data() + row * pitch, pitch, bias ? bias[begin + row] : 0.0f);
      }
      const float* input = padded.data() + image * image_floats + here.begin;
      for (size_t block = 0; block < blocks; ++block) {
        const Taps::Slice *slice = &taps.slices[part * blocks + block], *next = slice + 1;
        lanes_.tile[here.vectors]({taps.runs.data() + slice->run, next->run - slice->run, taps.taps.data() + slice->tap,
                                   input + block * block_ * channel_floats(), sums.data(), pitch});
      }
      for (size_t row = 0; row < rows; ++row) {
        store(sums.data() + row * pitch, here, y + (first + image) * image_out + (begin + row) * out_h_ * out_w_);
      }
    });
  }
}

}  // namespace sift
