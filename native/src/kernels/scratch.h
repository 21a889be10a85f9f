// Working memory that all ops of a process share. A fresh allocation per call would go back to the system each time,
// and its page faults cost more than many a layer.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace sift {

class Scratch {
 public:
  // A buffer borrowed from the pool until the lease dies. Its content is undefined; it is aligned to 64 bytes.
  class Lease {
   public:
    Lease(Scratch& pool, size_t floats);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    float* data() const { return data_; }

   private:
    Scratch& pool_;
    std::unique_ptr<float[]> memory_;
    size_t floats_;
    float* data_;
  };

  // The process's pool; it is freed with its last owner.
  static std::shared_ptr<Scratch> shared();

 private:
  struct Buffer {
    std::unique_ptr<float[]> memory;
    size_t floats;
  };
  std::mutex mutex_;
  std::vector<Buffer> free_;
};

}  // namespace sift
