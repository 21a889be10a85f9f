// Which kernel each op instance ran, for whoever asks through the C interface.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace sift {

// One op instance, listed from construction to destruction under the token its thread watched at construction.
class Record {
 public:
  Record(std::string node, const char* op);
  ~Record();
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  void ran(const char* kernel, const char* isa);

 private:
  friend std::string report(uint64_t token);
  const std::string node_;
  const char* const op_;
  const uint64_t token_;
  std::atomic<const char*> kernel_{nullptr}, isa_{nullptr};  // of the latest run
  std::atomic<uint64_t> runs_{0};
};

void watch(uint64_t token);

// JSON, as sift_report describes it.
std::string report(uint64_t token);

}  // namespace sift
