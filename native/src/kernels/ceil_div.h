#pragma once

#include <cstddef>

namespace sift {

inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace sift
