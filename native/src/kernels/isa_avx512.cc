// All that is compiled for AVX-512.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/lanes.h"
#include "kernels/target.h"

#ifdef SIFT_HAS_X86

#include <immintrin.h>

SIFT_TARGET_BEGIN("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,bmi2")
// clang-format off: each needs the one before
#include "kernels/vector_avx512.h"
#include "kernels/pick_avx512.h"
#include "kernels/lanes_of_vector.h"
// clang-format on

namespace sift {

constexpr Lanes kAvx512Lanes = lanes_of_vector();

}  // namespace sift

SIFT_TARGET_END

#endif
