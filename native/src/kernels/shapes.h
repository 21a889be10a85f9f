// The problems kernels solve, as plain numbers that the caller has checked.
#pragma once

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
  bool operator==(const Halo& other) const { return tied() == other.tied(); }
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
  // Which tensors are arranged (see arranged.h). X may be where the stride is 1 and Y has its size.
  bool arranged_x = false, arranged_y = false, arranged_residual = false;
  Halo halo_y{}, halo_residual{};  // of what is arranged

  // Output size; below 1 where the dilated kernel does not fit into the padded image.
  int64_t out_height() const { return extent(height + top + bottom, kernel_h, dilation_h, stride_h); }
  int64_t out_width() const { return extent(width + left + right, kernel_w, dilation_w, stride_w); }
  int64_t group_channels() const { return channels / groups; }

  // Of the input, as far as the layer leaves them open.
  std::vector<int64_t> sizes() const { return {images, height, width}; }

  bool arranged() const { return arranged_x || arranged_y || arranged_residual; }
  Halo halo() const {
    return {top, left, (kernel_h - 1) * dilation_h - top, (kernel_w - 1) * dilation_w - left};
  }  // of X where it may be arranged

  auto tied() const {
    return std::tuple_cat(
        std::tie(channels, height, width, filters, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top,
                 left, bottom, right, groups, images, arranged_x, arranged_y, arranged_residual),
        halo_y.tied(), halo_residual.tied());
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
