// Sparse convolution, family "rows": vector lanes run along flattened image rows.
//
// An image is copied into zero-padded planes whose rows follow each other without a gap, so that the inputs of one tap,
// for all output positions, are one contiguous run: position p of the output reads plane[offset + p]. A few positions
// at the end of each row are computed for nothing. A stride splits the planes by phase, after which it is a stride of
// 1; a dilation or a group only changes offsets.
#pragma once

#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/taps.h"
#include "kernels/workers.h"

namespace sift {

class ConvRows {
 public:
  // Throws std::length_error where a padded plane has 2^31 elements or more.
  ConvRows(const ConvShape& shape, const Lanes& lanes);

  TapLayout layout() const;

  // x: [images][channels][height][width], y: [images][filters][out height][out width], bias: [filters] or null.
  // Each element of y is computed by one thread in one order, whatever their number.
  void run(const Taps& taps, const float* bias, const float* x, float* y, size_t images, Workers& workers,
           Scratch& scratch) const;

 private:
  // One axis of the image: the taps on it, by phase of the stride.
  struct Axis {
    Axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad);
    std::vector<size_t> phase_of, shift_of;  // by tap: index into `first`, and cells from the output position
    std::vector<int64_t> first;              // by phase in use: image coordinate of cell 0 (negative in the padding)
    size_t cells;                            // cells an output row can reach
    size_t shared;                           // zeros at both ends, which neighbouring rows can share
  };
  struct Tile {
    size_t begin, vectors;
  };

  size_t phases() const { return vertical_.first.size() * horizontal_.first.size(); }
  size_t channel_floats() const { return phases() * plane_; }
  Tile tile(size_t index) const;
  void pad(const float* channel, float* planes) const;
  void store(const float* sums, const Tile& tile, float* y) const;

  ConvShape shape_;
  const Lanes& lanes_;
  size_t out_h_, out_w_;
  Axis vertical_, horizontal_;
  size_t pitch_;    // floats from a plane's row to the next
  size_t plane_;    // floats from a plane to the next
  size_t vectors_;  // vectors that cover all positions
  size_t tiles_;
  size_t block_;  // input channels a block
  size_t part_;   // filters a part
};

}  // namespace sift
