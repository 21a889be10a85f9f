#include "kernels/scratch.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace sift {
namespace {

constexpr size_t kAlignment = 64;

float* aligned(float* memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  return memory + ((kAlignment - address % kAlignment) % kAlignment) / sizeof(float);
}

}  // namespace

Scratch::Lease::Lease(Scratch& pool, size_t floats) : pool_(pool), floats_(floats + kAlignment / sizeof(float)) {
  {
    const std::lock_guard<std::mutex> lock(pool.mutex_);
    const auto fits = [&](const Buffer& buffer) { return buffer.floats >= floats_; };
    // The smallest that is large enough, else the largest, to be replaced: the pool then never holds more buffers than
    // were once in use at the same time.
    auto best = std::min_element(pool.free_.begin(), pool.free_.end(), [&](const Buffer& a, const Buffer& b) {
      return fits(a) != fits(b) ? fits(a) : fits(a) ? a.floats < b.floats : a.floats > b.floats;
    });
    if (best != pool.free_.end()) {
      if (fits(*best)) {
        memory_ = std::move(best->memory);
        floats_ = best->floats;
      }
      std::swap(*best, pool.free_.back());
      pool.free_.pop_back();
    }
  }
  if (!memory_) memory_.reset(new float[floats_]);
  data_ = aligned(memory_.get());
}

Scratch::Lease::~Lease() {
  const std::lock_guard<std::mutex> lock(pool_.mutex_);
  try {
    pool_.free_.push_back({std::move(memory_), floats_});
  } catch (...) {  // no memory to remember the buffer: it is freed instead
  }
}

std::shared_ptr<Scratch> Scratch::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Scratch> pool;
  const std::lock_guard<std::mutex> lock(mutex);
  auto alive = pool.lock();
  if (!alive) pool = alive = std::make_shared<Scratch>();
  return alive;
}

}  // namespace sift
