// Sparse convolution, family "patches": vector lanes are patches of the image, or the images of a batch.
//
// The outputs are cut into a grid of equal patches, one a lane; each lane holds the same position of its own patch,
// with its own halo of inputs around it. So the input of every tap, whatever its row, column or stride, is a whole
// aligned vector: an unaligned load costs twice, and a shifted copy for each tap would not fit into the L1 cache.
// Inputs are interleaved into that form once a call, or arrive in it (see arranged.h).
#pragma once

#include <optional>
#include <vector>

#include "formats/bitmask.h"
#include "kernels/arranged.h"
#include "kernels/lanes.h"
#include "kernels/plan.h"
#include "kernels/scratch.h"
#include "kernels/shapes.h"
#include "kernels/taps.h"
#include "kernels/workers.h"

namespace sift {

class ConvPatches {
 public:
  static bool supports(const ConvShape&, const Lanes&) { return true; }

  // The same for all batches that share their lanes in the same way.
  static ConvShape representative(ConvShape shape, const Lanes& lanes);

  // How lanes, registers and the L1 cache are used.
  struct Tiling {
    size_t images, down, across;  // the grid of lanes
    size_t patch_h, patch_w;      // outputs
    size_t rows, columns;         // of a tile, outputs of a patch
    size_t team;                  // index into kTeams
    size_t block;                 // input channels

    // Without what follows from the shape.
    Plan plan() const;
  };

  // All there are for weights of which `kept` are kept, cheapest first.
  static std::vector<Plan> plans(const ConvShape& shape, const Lanes& lanes, size_t kept);

  // shape.images counts for how the lanes are shared between images and patches; any number may be run. `plan` is one
  // of the shape's.
  //
  // Throws std::length_error where the interleaved image is too large.
  ConvPatches(const ConvShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan);

  // x: [images][channels][height][width], y: [images][filters][out height][out width], or arranged, as the shape says.
  // Each element of y is computed by one thread in one order, whatever their number.
  void run(const Epilogue& epilogue, const float* x, float* y, size_t images, Workers& workers, Scratch& scratch) const;

 private:
  // One axis of the image. A cell is a position that is stored; `step` pixels lie between two.
  struct Axis {
    // Of an arranged image each pixel is a cell.
    Axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, bool arranged);
    size_t cells(size_t outputs) const { return (outputs - 1) * stride + (kernel - 1) * dilation + 1; }

    size_t size, out, kernel;
    size_t stride, dilation;  // cells
    size_t step, pad;         // pixels
  };

  ConvPatches(const ConvShape& shape, const Lanes& lanes);  // to be asked for its plans

  size_t tiles_down(const Tiling& t) const { return (t.patch_h + t.rows - 1) / t.rows; }
  size_t tiles_across(const Tiling& t) const { return (t.patch_w + t.columns - 1) / t.columns; }
  // Vectors in a row of one channel of a tile: its cells, sorted by their phase in the stride, so that neighbouring
  // outputs find the input of a tap in neighbouring vectors.
  size_t row_vectors(const Tiling& t) const { return across_.stride * phase_vectors(t); }
  size_t phase_vectors(const Tiling& t) const {
    return (across_.cells(t.columns) + across_.stride - 1) / across_.stride;
  }
  size_t block_vectors(const Tiling& t) const;  // of one channel that the taps of a tile touch

  Tiling tiling(const Plan& plan) const;
  double cost(const Tiling& tiling, size_t kept) const;
  void interleave_anew();
  Taps pack(const Weights& weights) const;
  std::vector<Interleave::Lane> sources(size_t row, size_t tile, size_t images) const;
  std::vector<Deinterleave::Lane> targets(size_t row, size_t tile, size_t images) const;

  // What is stored at once: outputs of one tile, from its first row and filter on.
  struct Piece {
    size_t group, images, tile, row, rows, filter, filters;
    float* sums;
  };
  size_t within(const ArrangedImage& image, const Halo& halo, const Piece& piece) const;
  void store(const Piece& piece, const Epilogue& epilogue, float* y) const;
  void store_arranged(const Piece& piece, const Epilogue& epilogue, float* y, Scratch& scratch) const;

  ConvShape shape_;
  const Lanes& lanes_;
  Axis down_, across_;
  Tiling tiling_{};
  // Of the interleaved image, in floats: a row of cells of one channel, of all and one of zeros; all rows; all tiles.
  size_t channel_pitch_ = 0, row_pitch_ = 0, tile_pitch_ = 0, group_pitch_ = 0;
  size_t part_ = 0;                  // filters a part
  std::vector<uint32_t> position_;   // by cell, its vector in the row
  std::vector<uint32_t> ascending_;  // 0, 1, 2 …: positions of a residual's columns
  std::optional<ArrangedImage> arranged_y_, arranged_residual_;
  Scattering scattering_;  // of y where it is arranged
  Taps taps_;
};

}  // namespace sift
