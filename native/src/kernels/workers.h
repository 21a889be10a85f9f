// Threads as kernels see them: somebody else's, and any number.
#pragma once

#include <atomic>
#include <cstddef>
#include <new>

namespace sift {

class Workers {
 public:
  virtual ~Workers() = default;

  // Calls task(0) … task(count - 1), each once, in any order, on any threads, and returns when all are done.
  //
  // Throws std::bad_alloc after that if a task threw: an exception must not unwind into the owner of the threads.
  template <class Task>
  void each(size_t count, const Task& task) {
    struct Shared {
      const Task& task;
      std::atomic<bool> failed{false};
    } shared{task};
    parallel_for(
        [](void* opaque, size_t index) {
          auto& my = *static_cast<Shared*>(opaque);
          try {
            my.task(index);
          } catch (...) {
            my.failed = true;
          }
        },
        count, &shared);
    if (shared.failed) throw std::bad_alloc();
  }

 protected:
  virtual void parallel_for(void (*task)(void* shared, size_t index), size_t count, void* shared) = 0;
};

// The calling thread alone.
class NoWorkers final : public Workers {
  void parallel_for(void (*task)(void* shared, size_t index), size_t count, void* shared) override {
    for (size_t index = 0; index < count; ++index) task(shared, index);
  }
};

}  // namespace sift
