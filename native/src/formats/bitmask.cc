#include "formats/bitmask.h"

#include <bitset>

namespace sift {

size_t count_kept(const Weights& weights) {
  size_t kept = 0;
  for (size_t i = 0; i < (weights.rows * weights.columns + 7) / 8; ++i)
    kept += std::bitset<8>(weights.bitmask[i]).count();
  return kept;
}

std::string why_invalid(const uint8_t* bitmask, size_t bytes, size_t values, size_t weights) {
  const size_t need = weights / 8 + (weights % 8 != 0);
  if (bytes != need) {
    return "bitmask has " + std::to_string(bytes) + " bytes where " + std::to_string(weights) + " weights need " +
           std::to_string(need);
  }
  size_t kept = 0;
  for (size_t i = 0; i < bytes; ++i) kept += std::bitset<8>(bitmask[i]).count();
  if (weights % 8 != 0 && bitmask[bytes - 1] >> (weights % 8)) return "bitmask has bits set past its last weight";
  if (kept != values) {
    return "bitmask keeps " + std::to_string(kept) + " weights but there are " + std::to_string(values) + " values";
  }
  return {};
}

}  // namespace sift
