// Weights as the kernels of lanes.h read them: one pass through memory per part, block after block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/lanes.h"

namespace sift {

// Where a column of the weight matrix lands: its block of input channels, and its offset within that block.
struct Column {
  uint32_t block;
  uint32_t offset;
};

// How a kernel wants the rows × columns weight matrix cut.
struct TapLayout {
  size_t rows = 0;
  size_t rows_per_part = 0;                  // a part is a range of rows that one task computes
  size_t blocks = 0;                         // a block is a range of input channels whose inputs stay in the L1 cache
  size_t rows_per_group = 0;                 // rows that read the same channels; all rows where there are no groups
  size_t team = 1;                           // rows that are computed together; the few that are left over, alone
  std::vector<uint32_t> zeros;               // by block: where its inputs are 0, for a team's shorter rows
  std::vector<std::vector<Column>> columns;  // by group

  size_t parts() const { return (rows + rows_per_part - 1) / rows_per_part; }
};

// Teams are made of rows with about the same number of taps in the block.
struct Taps {
  struct Slice {
    size_t run, channel, tap;  // the first of each
  };
  std::vector<Tap> taps;
  std::vector<Run> runs;
  std::vector<uint32_t> channels;  // rows, counted from the part's first
  std::vector<Slice> slices;       // [part][block][0: teams, 1: rows alone]; one more at the end

  // The slice's runs, taps and channels; the rest of `a` is the caller's.
  void point(Accumulate& a, size_t slice) const {
    const Slice &here = slices[slice], &next = slices[slice + 1];
    a.runs = runs.data() + here.run;
    a.run_count = next.run - here.run;
    a.channels = channels.data() + here.channel;
    a.taps = taps.data() + here.tap;
  }
};

}  // namespace sift
