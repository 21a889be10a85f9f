// All that is compiled for any processor: the kernels every machine has, and the ones the others are compared with.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/lanes.h"
#include "kernels/target.h"

// clang-format off: each needs the one before
#include "kernels/vector_portable.h"
#include "kernels/pick_portable.h"
#include "kernels/lanes_of_vector.h"
// clang-format on

namespace sift {

constexpr Lanes kPortableLanes = lanes_of_vector();

}  // namespace sift
