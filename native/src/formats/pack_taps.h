// From the stored form to what the "rows" kernels read.
#pragma once

#include "formats/bitmask.h"
#include "kernels/taps.h"

namespace sift {

Taps pack_taps(const Weights& weights, const TapLayout& layout);

}  // namespace sift
