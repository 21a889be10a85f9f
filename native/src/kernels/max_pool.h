// Max pooling of images, without padding, between convolutions whose lanes are patches (see arranged.h).
//
// The largest of a window is its first number, or one behind it in row-major order that is larger than all before: a
// NaN counts where it comes first, and nowhere else.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "kernels/arranged.h"
#include "kernels/lanes.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/workers.h"

namespace sift {

struct PoolShape {
  int64_t images, channels, height, width;  // of the input, which no kernel exceeds
  int64_t kernel_h, kernel_w, stride_h, stride_w;
  // Of arranged images (see arranged.h): x for the strides here, and y where `arranged_y`.
  bool arranged_y = false;
  Reading reading_x{}, reading_y{};

  int64_t out_height() const { return (height - kernel_h) / stride_h + 1; }
  int64_t out_width() const { return (width - kernel_w) / stride_w + 1; }

  // What it needs around an arranged x: the last output may stand at the first pixel of its stride.
  Halo halo() const {
    return {0, 0, std::max<int64_t>(kernel_h - stride_h, 0), std::max<int64_t>(kernel_w - stride_w, 0)};
  }

  auto tied() const {
    return std::tuple_cat(std::tie(images, channels, height, width, kernel_h, kernel_w, stride_h, stride_w, arranged_y),
                          reading_x.tied(), reading_y.tied());
  }
};

// x: [images][channels][height][width], y: [images][channels][out height][out width].
void max_pool(const PoolShape& shape, const float* x, float* y, Workers& workers);

// The same of an arranged x.
class ArrangedMaxPool {
 public:
  // Y becomes plain where its readers have another number of images in their lanes.
  //
  // Throws std::length_error where an arranged image is too large.
  ArrangedMaxPool(const PoolShape& shape, const Lanes& lanes);

  const PoolShape& shape() const { return shape_; }
  bool arranged_y() const { return y_.has_value(); }
  size_t y_floats() const { return y_->floats(static_cast<size_t>(shape_.images)); }

  void run(const float* x, float* y, Workers& workers, Scratch& scratch) const;

 private:
  struct Piece {
    size_t group, tile, row, channel, channels;
    const float* largest;  // [channel][column] vectors
  };
  void store(const Piece& piece, float* y) const;
  void store_arranged(const Piece& piece, float* y) const;

  const PoolShape shape_;
  const Lanes& lanes_;
  const Grid grid_;  // of the outputs
  const ArrangedImage x_;
  std::vector<size_t> taps_;  // of an output, in floats from the first cell of its row
  std::optional<ArrangedImage> y_;
  Scattering scattering_;
};

}  // namespace sift
