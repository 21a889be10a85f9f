// Threads for checks.
#pragma once

#include <cstddef>
#include <thread>
#include <vector>

#include "kernels/workers.h"

namespace sift {

// Calls body(0) … body(count - 1) at once, each on a thread of its own, and returns when all are done.
template <class Body>
void at_once(size_t count, const Body& body) {
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < count; ++thread) threads.emplace_back([&body, thread] { body(thread); });
  for (std::thread& thread : threads) thread.join();
}

// Calls task(0) … task(count - 1) on so many threads, each of which has its own and begins with the last.
template <class Task>
void share(size_t threads, size_t count, const Task& task) {
  at_once(threads, [&](size_t thread) {
    for (size_t i = count; i-- > 0;) {
      if (i % threads == thread) task(i);
    }
  });
}

// Any number of threads, to see that the tasks of one call do not depend on each other.
class Threads final : public Workers {
 public:
  explicit Threads(size_t threads) : threads_(threads) {}

 private:
  void parallel_for(void (*task)(void*, size_t), size_t count, void* shared) override {
    share(threads_, count, [&](size_t index) { task(shared, index); });
  }

  const size_t threads_;
};

}  // namespace sift
