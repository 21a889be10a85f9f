// The ops of the domain "sift", version 1.
#pragma once

#include "ops/ort_api.h"

namespace sift {

const ort::CustomOp& sparse_conv();
const ort::CustomOp& sparse_linear();

}  // namespace sift
