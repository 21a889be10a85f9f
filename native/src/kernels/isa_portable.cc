// All that is compiled for any processor: the kernels every machine has, and the ones the others are compared with.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/lanes.h"
#include "kernels/target.h"

#include "kernels/vector_portable.h"
#include "kernels/pick_portable.h"
#include "kernels/lanes_of_vector.h"

namespace sift {

constexpr Lanes kPortableLanes = lanes_of_vector();

}  // namespace sift
