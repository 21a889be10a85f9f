// The problems kernels solve, as plain numbers that the caller has checked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

namespace sift {

// Largest dimension, stride, dilation or padding accepted; sums and products of two of them stay within int64.
constexpr int64_t kMaxExtent = INT32_MAX;

// Pixels, or zeros, that a convolution reads around what it computes.
struct Halo {
  int64_t top = 0, left = 0, bottom = 0, right = 0;

  auto tied() const { return std::tie(top, left, bottom, right); }
  // Whether there is all of `other` in it.
  bool covers(const Halo& other) const {
    return top >= other.top && left >= other.left && bottom >= other.bottom && right >= other.right;
  }
};

// How convolutions read an arranged image: with so much around it, and in these strides.
struct Reading {
  Halo halo;
  int64_t stride_h = 1, stride_w = 1;

  auto tied() const { return std::tuple_cat(halo.tied(), std::tie(stride_h, stride_w)); }
};

struct ConvShape {
  int64_t channels, height, width;  // of one input image
  int64_t filters;                  // output channels
  int64_t kernel_h, kernel_w;
  int64_t stride_h = 1, stride_w = 1;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;  // zeros around the image
  int64_t groups = 1;
  int64_t images = 1;
  // Which tensors are arranged (see arranged.h), and for whom: X for convolutions of the same strides.
  bool arranged_x = false, arranged_y = false, arranged_residual = false;
  Reading reading_x{}, reading_y{}, reading_residual{};

  // Output size; below 1 where the dilated kernel does not fit into the padded image.
  int64_t out_height() const { return extent(height + top + bottom, kernel_h, dilation_h, stride_h); }
  int64_t out_width() const { return extent(width + left + right, kernel_w, dilation_w, stride_w); }
  int64_t group_channels() const { return channels / groups; }

  // Of the input, as far as the layer leaves them open.
  std::vector<int64_t> sizes() const { return {images, height, width}; }

  bool arranged() const { return arranged_x || arranged_y || arranged_residual; }
  // X may be arranged where Y has its size, divided by the strides and rounded up: whatever that size is, Y has it with
  // this padding alone.
  bool same_size() const {
    return top + bottom == (kernel_h - 1) * dilation_h && left + right == (kernel_w - 1) * dilation_w;
  }
  // What it needs around X then: the last output stands at the first pixel of its stride, and reaches less far past it.
  Halo halo() const {
    return {top, left, std::max<int64_t>(bottom - stride_h + 1, 0), std::max<int64_t>(right - stride_w + 1, 0)};
  }

  auto tied() const {
    return std::tuple_cat(
        std::tie(channels, height, width, filters, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top,
                 left, bottom, right, groups, images, arranged_x, arranged_y, arranged_residual),
        reading_x.tied(), reading_y.tied(), reading_residual.tied());
  }

 private:
  static int64_t extent(int64_t padded, int64_t kernel, int64_t dilation, int64_t stride) {
    const int64_t room = padded - ((kernel - 1) * dilation + 1);
    return room < 0 ? 0 : room / stride + 1;
  }
};

struct LinearShape {
  int64_t inputs, outputs;
  int64_t tokens;                               // rows of the input
  bool arranged_x = false, arranged_y = false;  // see arranged.h

  std::vector<int64_t> sizes() const { return {tokens}; }

  bool arranged() const { return arranged_x || arranged_y; }

  auto tied() const { return std::tie(inputs, outputs, tokens, arranged_x, arranged_y); }
};

}  // namespace sift
