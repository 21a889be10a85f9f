#include "kernels/arranged.h"

#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>
#include <tuple>

#include "kernels/ceil_div.h"

namespace sift {
namespace {

// Pixels left of a patch belong to the one before it: the patch, counted from this one, and the pixel in it.
struct Place {
  ptrdiff_t patch;
  size_t pixel;
};

Place place(ptrdiff_t pixel, size_t patch) {
  const auto size = static_cast<ptrdiff_t>(patch);
  const ptrdiff_t which = pixel < 0 ? -((-pixel + size - 1) / size) : pixel / size;
  return {which, static_cast<size_t>(pixel - which * size)};
}

}  // namespace

ArrangedImage::ArrangedImage(size_t lanes, int64_t all_images, int64_t channels, int64_t height, int64_t width,
                             const Halo& halo)
    : images(1), down(1), across(lanes) {
  const auto h = static_cast<size_t>(height), w = static_cast<size_t>(width);
  // Few vectors, then few cells of halo: a vector of a tile costs as much as 0.8 multiplications, and each tap 0.6
  // more.
  std::tuple<double, size_t> least{std::numeric_limits<double>::infinity(), 0};
  for (size_t i = 1; i <= std::min(lanes, static_cast<size_t>(std::max<int64_t>(all_images, 1))); i *= 2) {
    for (size_t d = 1; i * d <= lanes; d *= 2) {
      const size_t a = lanes / i / d, patch_rows = ceil_div(h, d), patch_columns = ceil_div(w, a);
      const size_t pieces = ceil_div(patch_columns, kMaxColumns), piece = ceil_div(patch_columns, pieces);
      const double cycles = static_cast<double>(patch_rows * pieces) * (0.8 * static_cast<double>(piece) + 0.6);
      const std::tuple<double, size_t> cost{cycles / static_cast<double>(i), (patch_rows + 2) * pieces * (piece + 2)};
      if (cost < least) {
        least = cost;
        images = i, down = d, across = a;
        patch_h = patch_rows, patch_w = patch_columns;
        columns = piece, tiles = pieces;
      }
    }
  }
  rows = patch_h + static_cast<size_t>(halo.top + halo.bottom);
  cells = columns + static_cast<size_t>(halo.left + halo.right);
  const size_t limit = std::numeric_limits<uint32_t>::max() / sizeof(float) / lanes;  // a tap's offset is 32 bits
  const auto stored = static_cast<size_t>(channels) + 1;
  if (stored > limit / cells / rows / tiles) throw std::length_error("the interleaved image is too large");
  channel_pitch = cells * lanes;
  row_pitch = stored * channel_pitch;
  tile_pitch = rows * row_pitch;
  group_pitch = tiles * tile_pitch;
}

Scattering::Scattering(size_t lanes, const ArrangedImage& image, int64_t height, int64_t width, const Halo& halo) {
  const auto h = static_cast<size_t>(height), w = static_cast<size_t>(width);
  std::vector<std::vector<Arrange::Target>> of(image.patch_h * image.patch_w);
  std::map<std::vector<int32_t>, int32_t> known;
  std::vector<int32_t> from(lanes), same(lanes);
  for (size_t lane = 0; lane < lanes; ++lane) same[lane] = static_cast<int32_t>(lane);
  known[same] = Arrange::Target::kSame;
  for (size_t row = 0; row < image.rows; ++row) {
    const Place y = place(static_cast<ptrdiff_t>(row) - halo.top, image.patch_h);
    for (size_t tile = 0; tile < image.tiles; ++tile) {
      for (size_t cell = 0; cell < image.cells; ++cell) {
        const Place x = place(static_cast<ptrdiff_t>(tile * image.columns + cell) - halo.left, image.patch_w);
        // Lanes of the target, and the one among the sums that each gets; none for what lies outside of the image.
        for (size_t lane = 0; lane < lanes; ++lane) {
          const ptrdiff_t down = static_cast<ptrdiff_t>(lane / image.across % image.down) + y.patch;
          const ptrdiff_t across = static_cast<ptrdiff_t>(lane % image.across) + x.patch;
          const bool exists = down >= 0 && static_cast<size_t>(down) * image.patch_h + y.pixel < h && across >= 0 &&
                              static_cast<size_t>(across) * image.patch_w + x.pixel < w &&
                              static_cast<size_t>(down) < image.down && static_cast<size_t>(across) < image.across;
          const size_t first = lane / (image.down * image.across) * image.down * image.across;  // of the lane's image
          from[lane] =
              exists
                  ? static_cast<int32_t>(first + static_cast<size_t>(down) * image.across + static_cast<size_t>(across))
                  : -1;
        }
        const auto [found, is_new] = known.emplace(from, static_cast<int32_t>(permutations_.size() / lanes));
        if (is_new) permutations_.insert(permutations_.end(), from.begin(), from.end());
        of[y.pixel * image.patch_w + x.pixel].push_back(
            {tile * image.tile_pitch + row * image.row_pitch + cell * lanes, found->second});
      }
    }
  }
  for (const auto& targets : of) {
    first_.push_back(static_cast<uint32_t>(targets_.size()));
    targets_.insert(targets_.end(), targets.begin(), targets.end());
  }
  first_.push_back(static_cast<uint32_t>(targets_.size()));
}

ArrangedTokens::ArrangedTokens(size_t lanes, int64_t tokens, int64_t features) : columns(1), lanes_(lanes) {
  while (columns < kMaxColumns / 2 && columns * lanes < static_cast<size_t>(tokens)) columns *= 2;
  tile_pitch = (static_cast<size_t>(features) + 1) * columns * lanes;
}

size_t ArrangedTokens::floats(size_t all_tokens) const { return ceil_div(all_tokens, columns * lanes_) * tile_pitch; }

}  // namespace sift
