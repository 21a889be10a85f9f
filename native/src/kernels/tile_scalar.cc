// Plain C++: the kernel every processor has, and the one the others are compared with.
#include "kernels/tile.h"

namespace sift {
namespace {

constexpr size_t kWidth = 8;

template <size_t Vectors>
void tile(const TileArgs& args) {
  const Tap* tap = args.taps;
  for (const Run* run = args.runs; run != args.runs + args.run_count; ++run) {
    const Tap* end = tap + run->taps;
    float* sums = args.sums + run->row * args.pitch;
    for (size_t v = 0; v < Vectors * kWidth; v += kWidth) {
      float sum[kWidth];
      for (size_t i = 0; i < kWidth; ++i) sum[i] = sums[v + i];
      for (const Tap* t = tap; t != end; ++t) {
        const float* input = args.input + v + t->offset;
        for (size_t i = 0; i < kWidth; ++i) sum[i] += t->weight * input[i];
      }
      for (size_t i = 0; i < kWidth; ++i) sums[v + i] = sum[i];
    }
    tap = end;
  }
}

void transpose(const float* from, size_t from_pitch, float* to, size_t to_pitch, size_t rows, size_t columns) {
  for (size_t c = 0; c < columns; ++c) {
    for (size_t r = 0; r < rows; ++r) to[c * to_pitch + r] = from[r * from_pitch + c];
  }
}

}  // namespace

const Lanes kScalarLanes = {kWidth,
                            {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>, tile<9>,
                             tile<10>, tile<11>, tile<12>, tile<13>, tile<14>},
                            transpose};

}  // namespace sift
