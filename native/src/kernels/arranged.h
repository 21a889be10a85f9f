// Tensors between two sparse layers, in the form in which the second one reads them: nothing has to be rearranged where
// the one ends and the other begins. The form follows from the shape and the width of vectors alone, so both know it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/lanes.h"
#include "kernels/shapes.h"

namespace sift {

// How lanes share the outputs of a convolution that has to do with arranged images.
struct Grid {
  Grid(size_t lanes, int64_t images, int64_t height, int64_t width);

  size_t images, down, across;
  size_t patch_h, patch_w;  // pixels
  size_t columns, tiles;    // pixels of a tile, tiles of a patch
};

// Images for convolutions whose lanes are patches (see conv_patches.h):
//
//     [group of images][tile across][row of cells][channel, and one of zeros][cell][lane]
//
// A patch is cut into `tiles` of `columns` pixels across; each has its halo. The grid is that of the outputs of those
// that read it: a patch has the pixels of theirs times their strides. Cells are sorted by their phase in the stride.
struct ArrangedImage : Grid {
  // Throws std::length_error where a group would have 2^32 bytes or more.
  ArrangedImage(size_t lanes, int64_t images, int64_t channels, int64_t height, int64_t width, const Reading& reading);

  size_t rows, cells;               // of a tile, with the halo
  size_t phases, phase_vectors;     // the stride across, and the cells of each phase, rounded up
  size_t channel_pitch, row_pitch;  // floats
  size_t tile_pitch, group_pitch;

  size_t floats(size_t all_images) const { return (all_images + images - 1) / images * group_pitch; }
  // Where a cell lies in its row, in vectors.
  size_t position(size_t cell) const { return cell % phases * phase_vectors + cell / phases; }
};

// Where a convolution's outputs go in an arranged image whose lanes have as many images: each to its own cell, and to
// the halos of other lanes or tiles. Where the image has other patches than the outputs, lanes of one vector go to
// several.
class Scattering {
 public:
  Scattering() = default;
  Scattering(size_t lanes, const Grid& sums, const ArrangedImage& image, int64_t height, int64_t width,
             const Halo& halo);

  const Arrange::Target* targets() const { return targets_.data(); }
  const int32_t* permutations() const { return permutations_.data(); }
  // By pixel of the patch, row by row: its first target.
  const uint32_t* first() const { return first_.data(); }

 private:
  std::vector<Arrange::Target> targets_;
  std::vector<uint32_t> first_;
  std::vector<int32_t> permutations_;
};

// Tokens for linear layers whose lanes are tokens: [tile][feature, and one of zeros][column][lane].
struct ArrangedTokens {
  ArrangedTokens(size_t lanes, int64_t tokens, int64_t features);

  // Fewer tokens than this stay as they are: kernels for few do not rearrange them.
  static constexpr int64_t kLeast = 16;

  size_t columns;     // vectors
  size_t tile_pitch;  // floats

  size_t floats(size_t all_tokens) const;

 private:
  size_t lanes_;
};

}  // namespace sift
