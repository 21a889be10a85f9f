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
  size_t rows_per_part = 0;     // a part is a range of rows that one task computes
  size_t blocks = 0;            // a block is a range of input channels whose inputs stay in the L1 cache
  size_t rows_per_group = 0;    // rows that read the same channels; all rows where there are no groups
  size_t team = 1;              // rows that are computed together; the few that are left over, alone
  std::vector<uint32_t> zeros;  // by block: where its inputs are 0, for a team's shorter rows
  std::vector<Column> columns;  // [group][column]
};

// Teams are made of rows with about the same number of taps in the block.
struct Taps {
  struct Slice {
    size_t run, channel, tap;  // the first of each
  };
  std::vector<Tap> taps;  // and words of trios, each slice's in whole taps
  std::vector<Run> runs;
  std::vector<uint32_t> channels;  // rows, counted from the part's first
  std::vector<Slice> slices;       // [part][block][0: teams, 1: rows alone]; one more at the end
  size_t blocks;                   // to be added in order, from the first on

  // Adds a block to the sums of a tile of rows × columns vectors; `team` is an index into kTeams. Of `a` the caller
  // says where inputs and sums lie, and the bias.
  void add(Accumulate a, const Lanes& lanes, size_t tile_rows, size_t columns, size_t team, size_t part,
           size_t block) const {
    a.first = block == 0;
    const Slice* slice = &slices[(part * blocks + block) * 2];
    for (const size_t together : {team, size_t{0}}) {
      a.runs = runs.data() + slice->run;
      a.run_count = slice[1].run - slice->run;
      a.channels = channels.data() + slice->channel;
      a.taps = taps.data() + slice->tap;
      lanes.accumulate[tile_rows][columns][together](a);
      ++slice;
    }
  }
};

}  // namespace sift
