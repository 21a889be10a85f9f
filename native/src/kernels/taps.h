// Weights as the "rows" kernels read them: one pass through memory per part, block after block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/tile.h"

namespace sift {

// Where a column of the weight matrix lands: its block of input channels, and its offset within that block.
struct Column {
  uint32_t block;
  int32_t offset;
};

// How a kernel wants the rows × columns weight matrix cut.
struct TapLayout {
  size_t rows = 0;
  size_t rows_per_part = 0;                  // a part is a range of rows that one task computes
  size_t blocks = 0;                         // a block is a range of input channels whose inputs stay in the L1 cache
  size_t rows_per_group = 0;                 // rows that read the same channels; all rows where there are no groups
  std::vector<std::vector<Column>> columns;  // by group

  size_t parts() const { return (rows + rows_per_part - 1) / rows_per_part; }
};

struct Taps {
  struct Slice {
    size_t run;
    size_t tap;
  };
  std::vector<Tap> taps;      // by part, block, row, column
  std::vector<Run> runs;      // by part, block, row; Run::row counts from the part's first row
  std::vector<Slice> slices;  // [part][block] -> first run and first tap; one more at the end
};

}  // namespace sift
