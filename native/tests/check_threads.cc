// Many threads at once in all that they share: the registration, the pool of buffers, a kernel's weights, and an op
// that repacks its weights and forgets them again while others run it. For ThreadSanitizer.
//
// Prints what differs from one thread alone, and then returns 1.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dispatch/kernel.h"
#include "fake_onnxruntime.h"
#include "threads.h"

namespace {

constexpr size_t kThreads = 4;

std::atomic<size_t> failures{0};

void expect(bool truth, const std::string& what) {
  if (!truth) ++failures, std::printf("%s\n", what.c_str());
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> normals(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Every third weight is kept.
struct Matrix {
  Matrix(size_t rows, size_t columns) : bitmask((rows * columns + 7) / 8) {
    for (size_t i = 0; i < rows * columns; i += 3) bitmask[i / 8] = static_cast<uint8_t>(bitmask[i / 8] | 1u << i % 8);
    values = normals((rows * columns + 2) / 3, 0);
  }

  std::vector<uint8_t> bitmask;
  std::vector<float> values;
};

// A buffer belongs to one thread at a time, and pools come and go.
void check_scratch() {
  sift::at_once(kThreads, [](size_t thread) {
    std::mt19937 random(static_cast<unsigned>(thread));
    for (size_t round = 0; round < 100; ++round) {
      const auto scratch = sift::Scratch::shared();
      const size_t floats = random() % 1000 + 1;
      const sift::Scratch::Lease lease(*scratch, floats), other(*scratch, 10);
      std::fill_n(lease.data(), floats, static_cast<float>(thread));
      std::fill_n(other.data(), 10, -1.0f);
      const bool kept = std::all_of(lease.data(), lease.data() + floats,
                                    [&](float value) { return value == static_cast<float>(thread); });
      expect(kept, "two threads have the same buffer");
    }
  });
}

// Several runs of the same repacked weights, each with its own number of images or tokens and of threads.
template <class Shape>
void check_kernels(const Shape& shape, size_t rows, size_t columns, size_t in, size_t out) {
  const Matrix matrix(rows, columns);
  const sift::Weights weights{rows, columns, matrix.bitmask.data(), {matrix.values.data()}};
  const auto& available = sift::available_isas();
  for (const sift::Kernel<Shape>& kernel : sift::kernels<Shape>()) {
    if (!std::count(available.begin(), available.end(), kernel.isa) || !kernel.supports(shape)) continue;
    const Shape representative = kernel.representative(shape);
    const auto plans = kernel.plans(representative, sift::count_kept(weights));
    const auto prepared = kernel.prepare(representative, weights, plans.front());
    const auto scratch = sift::Scratch::shared();
    const auto run = [&](size_t count, size_t threads) {
      const std::vector<float> x = normals(count * in, static_cast<unsigned>(count));
      std::vector<float> y(count * out);
      sift::Threads workers(threads);
      prepared->run({}, x.data(), y.data(), count, workers, *scratch);
      return y;
    };
    std::vector<std::vector<float>> alone;
    for (size_t count = 1; count <= kThreads; ++count) alone.push_back(run(count, 1));
    sift::at_once(kThreads, [&](size_t thread) {
      for (size_t round = 0; round < 3; ++round) {
        const size_t count = (thread + round) % kThreads + 1;
        expect(same_bits(run(count, thread % 3 + 1), alone[count - 1]),
               std::string(kernel.name) + "/" + sift::name(kernel.isa) + " differs on " + std::to_string(count));
      }
    });
  }
}

// One op, run by several threads with more shapes than it remembers, while others register the library, create and
// destroy ops and ask for reports.
void check_op(const std::string& op, const OrtKernelInfo& info, const std::vector<std::vector<int64_t>>& shapes) {
  std::vector<std::vector<float>> inputs, alone;
  const auto run = [&](const fake::Node& node, size_t index, size_t threads) {
    const OrtValue x{{shapes[index], sift::ort::kFloat}, inputs[index].data()};
    return node.run({&x}, threads);
  };
  for (size_t i = 0; i < shapes.size(); ++i) {
    size_t size = 1;
    for (const int64_t dimension : shapes[i]) size *= static_cast<size_t>(dimension);
    inputs.push_back(normals(size, static_cast<unsigned>(i)));
    alone.push_back(run(fake::Node(op, info), i, 1));
  }
  sift_watch(1);
  const fake::Node shared(op, info);
  sift_watch(0);
  sift::at_once(kThreads + 2, [&](size_t thread) {
    for (size_t round = 0; round < 2 * shapes.size(); ++round) {
      const size_t index = (round * (2 * thread + 1) + thread) % shapes.size();
      if (thread >= kThreads) {
        char text[256];
        expect(sift_report(1, text, sizeof(text)) > sizeof("[]"), "the shared op is not reported");
        expect(same_bits(run(fake::Node(op, info), index, 1), alone[index]), op + ": a new node differs");
      } else {
        expect(same_bits(run(shared, index, thread % 3 + 1), alone[index]),
               op + ": differs on shape " + std::to_string(index));
      }
    }
  });
}

OrtValue constant(const std::vector<float>& values) {
  return {{{static_cast<int64_t>(values.size())}, sift::ort::kFloat}, const_cast<float*>(values.data())};
}

OrtValue constant(const std::vector<uint8_t>& bytes) {
  return {{{static_cast<int64_t>(bytes.size())}, sift::ort::kUint8}, const_cast<uint8_t*>(bytes.data())};
}

void check_ops() {
  const Matrix conv(9, 8 * 3 * 3), linear(40, 33);
  const OrtValue conv_bitmask = constant(conv.bitmask), conv_values = constant(conv.values);
  const OrtValue linear_bitmask = constant(linear.bitmask), linear_values = constant(linear.values);
  check_op("SparseConvRelu",
           {{{"weight_shape", {9, 8, 3, 3}},
             {"strides", {1, 1}},
             {"dilations", {1, 1}},
             {"pads", {1, 1, 1, 1}},
             {"group", {1}}},
            {nullptr, &conv_bitmask, &conv_values}},
           {{1, 8, 9, 9}, {2, 8, 9, 9}, {1, 8, 5, 12}, {4, 8, 5, 12}, {1, 8, 16, 3}, {8, 8, 4, 4}});
  check_op("SparseLinearGelu", {{{"weight_shape", {40, 33}}}, {nullptr, &linear_bitmask, &linear_values}},
           {{1, 33}, {9, 33}, {2, 9, 33}, {40, 33}, {70, 33}, {3, 100, 33}});
}

}  // namespace

int main() {
  sift::at_once(kThreads, [](size_t) { fake::find_op("SparseConv"); });  // the first sessions of the process
  check_scratch();
  check_kernels(sift::ConvShape{8, 7, 6, 9, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, kThreads}, 9, 8 * 3 * 3, 8 * 7 * 6,
                9 * 7 * 6);
  check_kernels(sift::ConvShape{8, 7, 6, 70, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, kThreads}, 70, 8, 8 * 7 * 6, 70 * 7 * 6);
  check_kernels(sift::LinearShape{33, 70, 1}, 70, 33, 33, 70);
  check_kernels(sift::LinearShape{33, 70, 200}, 70, 33, 33, 70);
  check_ops();
  std::printf("%zu failures\n", failures.load());
  return failures ? 1 : 0;
}
