// The ops of the domain "sift", version 1.
#pragma once

#include <vector>

#include "ops/ort_api.h"

namespace sift {

// SparseConv and SparseLinear, each with every epilogue: the name of an op is that of its parts, such as
// SparseConvAddRelu.
const std::vector<const ort::CustomOp*>& sparse_convs();
const std::vector<const ort::CustomOp*>& sparse_linears();

// Max pooling between sparse convolutions.
const ort::CustomOp& arranged_max_pool();

}  // namespace sift
