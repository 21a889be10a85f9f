// All that is compiled for AVX2 with FMA.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/lanes.h"
#include "kernels/target.h"

#ifdef SIFT_HAS_X86

#include <immintrin.h>

SIFT_TARGET_BEGIN("avx2,fma")
// clang-format off: each needs the one before
#include "kernels/vector_avx2.h"
#include "kernels/pick_avx2.h"
#include "kernels/lanes_of_vector.h"
// clang-format on

namespace sift {

constexpr Lanes kAvx2Lanes = lanes_of_vector();

}  // namespace sift

SIFT_TARGET_END

#endif
