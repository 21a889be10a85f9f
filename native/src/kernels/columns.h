// Weights as linear_columns.cc packs them, and what an instruction set does with them.
//
// Vector lanes are outputs. Each lane has a queue of its kept weights, in the order of their inputs, and in each step
// takes one from it. What makes that fast is that lanes need not keep pace: two steps at a time share a window of
// inputs, which begins no later than the input that the slowest lane is at, and is so wide that the others rarely run
// out of it. A lane that does pauses, which costs as much as a weight.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sift {

constexpr size_t kMaxLanes = 16;
constexpr size_t kSteps = 2;              // that share a window
constexpr size_t kWindowUnit = 16;        // windows begin at multiples of this many inputs
constexpr size_t kLongestWindow = 128;    // inputs
constexpr size_t kMaxTokensTogether = 4;  // that share the loads of a weight

// A step's pick, by lane: where the weight's input lies in the window, or a pause, whose value is 0.
constexpr uint8_t kKept = 0x80;
constexpr uint8_t kPause = 0;

struct ColumnArgs {
  const uint16_t *windows, *windows_end;  // where each begins, in kWindowUnit
  const uint8_t* picks;                   // [window][step][lane]
  const float* values;                    // the same, aligned to 64 bytes
  // Input 0 of the first token, aligned to 64 bytes. kLongestWindow floats before input 0 and after the last are there
  // to be read; their values do not matter.
  const float* x;
  size_t x_pitch;  // floats from one token to the next
  float* sums;     // [token][lane]
};

struct Columns {
  size_t window;  // inputs, at most kLongestWindow
  size_t tokens;  // more of them are faster where they are the lanes: linear_panels.h
  void (*sum[kMaxTokensTogether + 1])(const ColumnArgs&);  // by number of tokens
};

}  // namespace sift
