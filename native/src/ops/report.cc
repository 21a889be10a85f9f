#include "ops/report.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <utility>
#include <vector>

namespace sift {
namespace {

thread_local uint64_t watching = 0;

struct Living {
  std::mutex mutex;
  std::vector<Record*> records;
};

// Never destroyed: a session may outlive the statics of this library when a process ends.
Living& living() {
  static Living& all = *new Living;
  return all;
}

std::string quoted(const char* text) {
  if (text == nullptr) return "null";
  std::string result = "\"";
  for (; *text; ++text) {
    const auto byte = static_cast<unsigned char>(*text);
    if (byte < 0x20) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", byte);
      result += escape;
      continue;
    }
    if (byte == '"' || byte == '\\') result += '\\';
    result += *text;
  }
  return result + '"';
}

}  // namespace

Record::Record(std::string node, const char* op) : node_(std::move(node)), op_(op), token_(watching) {
  const std::lock_guard<std::mutex> lock(living().mutex);
  living().records.push_back(this);
}

Record::~Record() {
  const std::lock_guard<std::mutex> lock(living().mutex);
  auto& records = living().records;
  records.erase(std::find(records.begin(), records.end(), this));
}

void Record::ran(const char* kernel, const char* isa) {
  kernel_ = kernel;
  isa_ = isa;
  ++runs_;
}

void watch(uint64_t token) { watching = token; }

std::string report(uint64_t token) {
  std::string text;
  const std::lock_guard<std::mutex> lock(living().mutex);
  for (const Record* record : living().records) {
    if (token == 0 || record->token_ != token) continue;
    text += (text.empty() ? "{\"node\":" : ",{\"node\":") + quoted(record->node_.c_str()) +
            ",\"op\":" + quoted(record->op_) + ",\"kernel\":" + quoted(record->kernel_) +
            ",\"isa\":" + quoted(record->isa_) + ",\"runs\":" + std::to_string(record->runs_) + "}";
  }
  return "[" + text + "]";
}

}  // namespace sift
