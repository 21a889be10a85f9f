// What an instruction set brings: the leaf functions of the kernels whose vector lanes are output positions.
//
// Such a kernel computes tiles. A tile is `rows` × `columns` vectors of output positions; what its lanes stand for is
// the kernel's own affair. For each output channel the tile's sums are held in registers, every tap adds
// weight * input[offset + position] to them, one load and one multiplication a vector, and they are stored again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/columns.h"
#include "kernels/epilogue.h"
#include "kernels/target.h"

namespace sift {

// One kept weight: where its input lies, in bytes from the tile's first, and its value. Read as one 64-bit word.
struct Tap {
  uint32_t offset;
  float weight;
};

// `teams` teams of output channels, computed together; each channel of them has `taps` taps, but those of a trio.
struct Run {
  uint32_t taps;
  uint32_t teams;
};

// Add the taps of one block of input channels to a tile's sums.
struct Accumulate {
  const Run* runs;
  size_t run_count;
  const uint32_t* channels;  // [team][channel of the team]: whose sums
  const Tap* taps;           // [team][tap][channel of the team], or the words of trios
  const char* input;
  size_t row_stride;  // bytes, from the input of one row of the tile to that of the next
  float* sums;        // [channel][row][column] vectors
  bool first;         // sums begin as the bias, whatever they were
  const float* bias;  // by channel, or null
};

// Bring cells of an image into the lanes of vectors: to[channel][position[cell]] gets cell `cell` of each lane's own
// part of the image.
struct Interleave {
  struct Lane {
    ptrdiff_t offset;   // floats from `from` to cell 0 in channel 0, which may lie outside the image
    size_t begin, end;  // the cells inside it; all others are 0
  };
  const Lane* lanes;
  const float* from;
  size_t channels, from_pitch;  // floats from one channel to the next
  size_t cells, step;           // floats from one cell to the next
  const uint32_t* position;     // by cell, in vectors
  float* to;
  size_t to_pitch;  // floats from one channel to the next
};

// The way back, with the epilogue but for its bias: y gets the sums of `channels` output channels.
struct Deinterleave {
  struct Lane {
    ptrdiff_t offset;  // floats from y to column 0 in channel 0
    size_t columns;    // that exist: 0 … Deinterleave::columns
  };
  const Lane* lanes;    // [row][lane]
  const float* sums;    // [channel][row][column] vectors
  size_t vector_pitch;  // floats from one column's vector to the next; rows and channels follow without a gap
  size_t channels, rows, columns;
  float* y;
  size_t y_pitch;  // floats from one channel to the next
  const Epilogue* epilogue;
};

// Inputs of tokens into lanes: to[input][token], and 0 in the lanes that are left over.
struct ToLanes {
  const float* x;
  size_t pitch;           // floats from one token to the next
  size_t tokens, inputs;  // no more tokens than lanes
  float* to;
  size_t to_pitch;  // floats from one input to the next
};

// The way back, with the epilogue but for its bias: y[token][output].
struct FromLanes {
  const float* sums;  // [output][token]
  size_t sums_pitch;  // floats from one output to the next
  size_t tokens, outputs;
  float* y;
  const float* residual;  // or null
  size_t pitch;           // floats from one token to the next, of both
  const Epilogue* epilogue;
};

// The epilogue where the sums lie as in y: y = activation(sums + bias + residual); bias and residual may be null.
struct Finish {
  const float *sums, *bias, *residual;
  float* y;
  size_t count;
  const Epilogue* epilogue;  // for its activation's parameters
};

// The epilogue but for its bias, and then each vector of sums to where an arranged image has it (see arranged.h).
struct Arrange {
  struct Target {
    static constexpr int32_t kSame = -1;
    size_t offset;        // floats, from channel 0
    int32_t permutation;  // which, or kSame
    bool partial;         // it has lanes that are others'
  };
  static constexpr int32_t kZero = -1, kOthers = -2;
  const float* sums;                                  // [channel][row][column] vectors
  const float* residual;                              // of column 0, row 0 and channel 0, or null
  size_t residual_row_pitch, residual_channel_pitch;  // floats
  size_t channels, rows, columns, sums_columns;       // of the columns that the sums have, the first that are stored
  float* y;
  size_t y_pitch;         // floats from one channel to the next
  bool zeros;             // store a channel of zeros behind the last
  const uint32_t* first;  // [row][column]: the first of its targets; the next one's first is behind the last
  size_t first_pitch;     // from one row to the next
  const Target* targets;
  const int32_t* permutations;  // [permutation][lane]: the lane of the sums, kZero, or kOthers for one that stays
  const Epilogue* epilogue;
};

constexpr size_t kMaxRows = 4, kMaxColumns = 8;
// Channels in a team. Those of a trio read each input that several of them need once; it has a stream of its own:
//
//     singles, pairs, triples
//     singles times, for each of its channels: offset, weight
//     pairs times, for channels 0 and 1, 1 and 2, 2 and 0: offset, weight, weight
//     triples times: offset, three weights
//
// in words of 32 bits, one team's behind the other's. An AVX-512 register's load and its multiplication cost the same
// (Xeon, 2.5 of both a cycle): a trio is 1.21 times as fast as a team on weights of which half are kept, 1.11 on a
// quarter, and no faster on a tenth.
constexpr size_t kTeams[] = {1, 2, 4, 3};
constexpr size_t kTrio = 3;  // index into kTeams
constexpr size_t kTeamKinds = sizeof(kTeams) / sizeof(*kTeams);

struct Lanes {
  size_t width;  // floats in a vector
  size_t most;   // sums in registers: rows * columns * channels of a team is no more
  // By rows, columns and index into kTeams; null where that is too many.
  void (*accumulate[kMaxRows + 1][kMaxColumns + 1][kTeamKinds])(const Accumulate&);
  void (*interleave)(const Interleave&);
  void (*deinterleave[kActivations])(const Deinterleave&);
  void (*to_lanes)(const ToLanes&);
  void (*from_lanes[kActivations])(const FromLanes&);
  void (*finish[kActivations])(const Finish&);
  void (*arrange[kActivations])(const Arrange&);
  Columns columns;
  // As fast as registers allow: rounds * kChains multiplications and additions of vectors.
  float (*multiply)(size_t rounds);
};

constexpr size_t kChains = 12;

extern const Lanes kPortableLanes;
#ifdef SIFT_HAS_X86
extern const Lanes kAvx2Lanes;
extern const Lanes kAvx512Lanes;
#endif

}  // namespace sift
