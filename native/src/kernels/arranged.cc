#include "kernels/arranged.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "kernels/ceil_div.h"

namespace sift {
namespace {

// A pixel of an image: whose sums have it, and where in a patch.
struct Source {
  int32_t lane;
  size_t pixel;
};

}  // namespace

Grid::Grid(size_t lanes, int64_t all_images, int64_t height, int64_t width) : images(1), down(1), across(lanes) {
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
}

ArrangedImage::ArrangedImage(size_t lanes, int64_t all_images, int64_t channels, int64_t height, int64_t width,
                             const Reading& reading)
    : Grid(lanes, all_images, (height + reading.stride_h - 1) / reading.stride_h,
           (width + reading.stride_w - 1) / reading.stride_w),
      phases(static_cast<size_t>(reading.stride_w)) {
  const Halo& halo = reading.halo;
  patch_h *= static_cast<size_t>(reading.stride_h);
  patch_w *= phases, columns *= phases;
  rows = patch_h + static_cast<size_t>(halo.top + halo.bottom);
  cells = columns + static_cast<size_t>(halo.left + halo.right);
  phase_vectors = ceil_div(cells, phases);
  const size_t limit = std::numeric_limits<uint32_t>::max() / sizeof(float) / lanes;  // a tap's offset is 32 bits
  const auto stored = static_cast<size_t>(channels) + 1;
  if (stored > limit / (phases * phase_vectors) / rows / tiles)
    throw std::length_error("the interleaved image is too large");
  channel_pitch = phases * phase_vectors * lanes;
  row_pitch = stored * channel_pitch;
  tile_pitch = rows * row_pitch;
  group_pitch = tiles * tile_pitch;
}

Scattering::Scattering(size_t lanes, const Grid& sums, const ArrangedImage& image, int64_t height, int64_t width,
                       const Halo& halo) {
  const auto source = [&](size_t lane, ptrdiff_t y, ptrdiff_t x) -> std::optional<Source> {
    if (y < 0 || y >= height || x < 0 || x >= width) return std::nullopt;
    const auto row = static_cast<size_t>(y), column = static_cast<size_t>(x);
    const size_t which = lane / (image.down * image.across) * sums.down + row / sums.patch_h;
    return Source{static_cast<int32_t>(which * sums.across + column / sums.patch_w),
                  row % sums.patch_h * sums.patch_w + column % sums.patch_w};
  };
  std::vector<std::vector<Arrange::Target>> of(sums.patch_h * sums.patch_w);
  std::map<std::vector<int32_t>, int32_t> known;
  std::vector<int32_t> same(lanes);
  std::iota(same.begin(), same.end(), 0);
  known[same] = Arrange::Target::kSame;
  for (size_t row = 0; row < image.rows; ++row) {
    for (size_t tile = 0; tile < image.tiles; ++tile) {
      for (size_t cell = 0; cell < image.cells; ++cell) {
        // By pixel of the patches of sums, which of its lanes are for which of the target's. What lies outside of the
        // image is 0; the first pixel sees to that.
        std::map<size_t, std::vector<int32_t>> from;
        std::vector<size_t> outside;
        for (size_t lane = 0; lane < lanes; ++lane) {
          const size_t down = lane / image.across % image.down, across = lane % image.across;
          const auto found =
              source(lane, static_cast<ptrdiff_t>(down * image.patch_h + row) - halo.top,
                     static_cast<ptrdiff_t>(across * image.patch_w + tile * image.columns + cell) - halo.left);
          if (found) {
            from.try_emplace(found->pixel, lanes, Arrange::kOthers).first->second[lane] = found->lane;
          } else {
            outside.push_back(lane);
          }
        }
        auto& first = from.empty() ? from.try_emplace(0, lanes, Arrange::kOthers).first->second : from.begin()->second;
        for (const size_t lane : outside) first[lane] = Arrange::kZero;
        const size_t offset = tile * image.tile_pitch + row * image.row_pitch + image.position(cell) * lanes;
        for (const auto& [pixel, permutation] : from) {
          const auto [at, is_new] = known.emplace(permutation, static_cast<int32_t>(permutations_.size() / lanes));
          if (is_new) permutations_.insert(permutations_.end(), permutation.begin(), permutation.end());
          of[pixel].push_back({offset, at->second, from.size() > 1});
        }
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
