// What the processor can do, to compare kernels with.
#pragma once

namespace sift {

// GFLOP/s of one thread in multiplications and additions of float32 in registers, with the best of usable_isas(); takes
// some 30 milliseconds.
double peak_gflops();

}  // namespace sift
