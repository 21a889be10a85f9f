// Any bytes as a weight, a shape, a plan and the header of an arranged tensor, through all that lies between the stored
// form and the kernels. What is no weight is refused; of what is one, every way to compute it gives what a naive loop
// does, to the bit, for all numbers are small integers.
//
//     fuzz_formats [FIRST COUNT]
//
// makes bytes at random, with as many seeds; it aborts at what is wrong. Built with Clang's -fsanitize=fuzzer and
// -DSIFT_LIBFUZZER, libFuzzer makes them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch/ways.h"
#include "ops/arranged_tensor.h"

namespace {

using sift::ConvShape;
using sift::LinearShape;

constexpr int64_t kMostWork = 1 << 17;  // multiplications of the naive loop, and pixels of a padded image

void expect(bool truth, const std::string& what) {
  if (truth) return;
  std::fprintf(stderr, "rule broken: %s\n", what.c_str());
  std::abort();
}

// Numbers from bytes; zeros behind their end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

  uint8_t byte() { return data_ == end_ ? uint8_t{0} : *data_++; }
  int64_t between(int64_t least, int64_t most) { return least + byte() % (most - least + 1); }
  // Most often between `least` and `most`, and sometimes anything that the ops accept.
  int64_t extent(int64_t least, int64_t most) {
    if (byte() % 32 != 0) return between(least, most);
    constexpr int64_t kEdges[] = {
        15, 16, 17, 1 << 10, 1 << 16, 1 << 20, 1 << 30, sift::kMaxExtent - 1, sift::kMaxExtent};
    return kEdges[byte() % std::size(kEdges)];
  }
  float small() { return static_cast<float>(between(-3, 3)); }
  std::vector<float> smalls(int64_t count) {
    std::vector<float> made(static_cast<size_t>(count));
    for (float& one : made) one = small();
    return made;
  }

 private:
  const uint8_t *data_, *end_;
};

// The stored form of a weight, in a type of `values` that is any of theirs.
struct Stored {
  Stored(Bytes& bytes, size_t rows_, size_t columns_)
      : rows(rows_), columns(columns_), bitmask((rows * columns + 7) / 8), dense(rows * columns) {
    for (uint8_t& one : bitmask) one = bytes.byte();
    if (rows * columns % 8) bitmask.back() &= static_cast<uint8_t>((1u << (rows * columns % 8)) - 1);
    type = static_cast<sift::ValueType>(bytes.byte() % 3);
    for (size_t i = 0; i < dense.size(); ++i) {
      if (bitmask[i / 8] >> (i % 8) & 1) store(dense[i] = bytes.small());
    }
  }

  void store(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint16_t half = static_cast<uint16_t>(bits >> 16);
    if (type == sift::ValueType::kFloat16 && value != 0) {  // a normal number, which loses no bit
      half = static_cast<uint16_t>((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023));
    }
    const size_t size = type == sift::ValueType::kFloat ? sizeof bits : sizeof half, end = values.size();
    values.resize(end + size);
    std::memcpy(values.data() + end, type == sift::ValueType::kFloat ? static_cast<void*>(&bits) : &half, size);
    ++kept;
  }

  sift::Weights weights() const { return {rows, columns, bitmask.data(), {values.data(), type}}; }

  size_t rows, columns, kept = 0;
  std::vector<uint8_t> bitmask, values;
  std::vector<float> dense;
  sift::ValueType type;
};

void check_refusals(Bytes& bytes, const Stored& stored) {
  const size_t weights = stored.rows * stored.columns;
  const auto refused = [&](const std::vector<uint8_t>& bitmask, size_t values, size_t count) {
    return !sift::why_invalid(bitmask.data(), bitmask.size(), values, count).empty();
  };
  expect(!refused(stored.bitmask, stored.kept, weights), "a weight is accepted");
  expect(sift::count_kept(stored.weights()) == stored.kept, "its bits are counted");
  const size_t wrong = bytes.byte() % 2 ? stored.kept + 1 + bytes.byte() : ~size_t{bytes.byte()};
  expect(refused(stored.bitmask, wrong, weights), "another number of values is refused");
  std::vector<uint8_t> other = stored.bitmask;
  const size_t bit = static_cast<size_t>(bytes.between(0, 255)) % (8 * other.size());
  other[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
  expect(refused(other, stored.kept, weights), "another bit is refused");
  other = stored.bitmask;
  other.resize(bytes.byte() % 2 ? other.size() - 1 : other.size() + 1 + bytes.byte());
  expect(refused(other, stored.kept, weights), "another length is refused");
  expect(refused(stored.bitmask, stored.kept, ~size_t{bytes.byte()}), "another shape is refused");
}

// A way as a node's `plan` has it, of this shape or not, a byte of it changed or not.
template <class Shape>
sift::Way<Shape> way(Bytes& bytes, const Shape& shape, size_t kept) {
  const auto all = sift::ways(shape, kept);
  const sift::Way<Shape>& usual = all[bytes.byte() % all.size()];
  std::string text = sift::to_string({sift::cpu(), shape.sizes(), usual.kernel->name, usual.plan});
  for (int64_t i = bytes.between(0, 3); i > 0; --i) {
    const size_t at = text.size() - 1 - bytes.byte() % text.size();
    if (bytes.byte() % 3 == 0) text.erase(at, 1);
    if (!text.empty()) text[std::min(at, text.size() - 1)] = "0123456789 x\n"[bytes.byte() % 13];
  }
  try {
    const sift::StoredWay stored = sift::parse_way(text);
    return sift::way_of(shape, kept, &stored);
  } catch (const std::invalid_argument&) {
    return usual;
  }
}

template <class Shape>
void check_ways(Bytes& bytes, const Shape& shape, const Stored& stored, const std::vector<float>& x,
                const std::vector<float>& want, int64_t count) {
  const auto run = [&](const sift::Kernel<Shape>& kernel, const sift::Plan& plan) {
    const auto prepared = kernel.prepare(kernel.representative(shape), stored.weights(), plan);
    std::vector<float> y(want.size(), 1e30f);
    sift::NoWorkers alone;
    sift::Scratch scratch;  // of its own, so that each buffer ends where it does
    prepared->run({}, x.data(), y.data(), static_cast<size_t>(count), alone, scratch);
    expect(y == want, std::string(kernel.name) + "/" + name(kernel.isa) + " computes what the naive loop does");
  };
  const sift::Way<Shape> stored_way = way(bytes, shape, stored.kept);
  run(*stored_way.kernel, stored_way.plan);
  for (const sift::Kernel<Shape>& kernel : sift::kernels<Shape>()) {
    const auto& isas = sift::available_isas();
    if (std::count(isas.begin(), isas.end(), kernel.isa) == 0 || !kernel.supports(shape)) continue;
    const auto plans = kernel.plans(kernel.representative(shape), stored.kept);
    run(kernel, plans[bytes.byte() % plans.size()]);
  }
}

void linear(Bytes& bytes) {
  const LinearShape shape{bytes.between(1, 80), bytes.between(1, 80), bytes.between(1, 40)};
  const Stored stored(bytes, static_cast<size_t>(shape.outputs), static_cast<size_t>(shape.inputs));
  check_refusals(bytes, stored);
  const std::vector<float> x = bytes.smalls(shape.tokens * shape.inputs);
  std::vector<float> want;
  for (int64_t token = 0; token < shape.tokens; ++token) {
    for (size_t output = 0; output < stored.rows; ++output) {
      float sum = 0;
      for (size_t i = 0; i < stored.columns; ++i) {
        sum += stored.dense[output * stored.columns + i] * x[static_cast<size_t>(token) * stored.columns + i];
      }
      want.push_back(sum);
    }
  }
  check_ways(bytes, shape, stored, x, want, shape.tokens);
}

std::vector<float> naive(const ConvShape& s, const Stored& stored, const std::vector<float>& x) {
  std::vector<float> y;
  for (int64_t n = 0; n < s.images; ++n) {
    for (int64_t m = 0; m < s.filters; ++m) {
      for (int64_t row = 0; row < s.out_height(); ++row) {
        for (int64_t column = 0; column < s.out_width(); ++column) {
          float sum = 0;
          size_t index = static_cast<size_t>(m) * stored.columns;
          for (int64_t c = 0; c < s.group_channels(); ++c) {
            const int64_t channel = n * s.channels + m / (s.filters / s.groups) * s.group_channels() + c;
            for (int64_t i = 0; i < s.kernel_h; ++i) {
              for (int64_t j = 0; j < s.kernel_w; ++j, ++index) {
                const int64_t h = row * s.stride_h - s.top + i * s.dilation_h;
                const int64_t w = column * s.stride_w - s.left + j * s.dilation_w;
                if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
                sum += stored.dense[index] * x[static_cast<size_t>((channel * s.height + h) * s.width + w)];
              }
            }
          }
          y.push_back(sum);
        }
      }
    }
  }
  return y;
}

void convolution(Bytes& bytes) {
  ConvShape s{};
  s.groups = bytes.between(1, 3);
  s.channels = s.groups * bytes.between(1, 4), s.filters = s.groups * bytes.between(1, 4);
  s.kernel_h = bytes.between(1, 3), s.kernel_w = bytes.between(1, 3);
  s.height = bytes.between(1, 12), s.width = bytes.between(1, 20), s.images = bytes.between(1, 5);
  s.stride_h = bytes.extent(1, 3), s.stride_w = bytes.extent(1, 3);
  s.dilation_h = bytes.extent(1, 3), s.dilation_w = bytes.extent(1, 3);
  s.top = bytes.extent(0, 3), s.left = bytes.extent(0, 3), s.bottom = bytes.extent(0, 3), s.right = bytes.extent(0, 3);
  if (s.out_height() < 1 || s.out_width() < 1) return;
  const Stored stored(bytes, static_cast<size_t>(s.filters),
                      static_cast<size_t>(s.group_channels() * s.kernel_h * s.kernel_w));
  check_refusals(bytes, stored);
  const auto padded =
      static_cast<double>(s.height + s.top + s.bottom) * static_cast<double>(s.width + s.left + s.right);
  const double outputs = static_cast<double>(s.out_height()) * static_cast<double>(s.out_width());
  const double work =
      static_cast<double>(s.images) * std::max(outputs * static_cast<double>(stored.dense.size()), padded);
  if (work > kMostWork) {  // its plans and its refusal take no time
    const auto plans = sift::ways(s, stored.kept);
    expect(!plans.empty(), "there is a way");
    if (padded / 1024 < 1 << 30) return;
    try {
      plans[0].kernel->prepare(plans[0].kernel->representative(s), stored.weights(), plans[0].plan);
      expect(outputs < padded / 1024, "an image of 2^40 pixels is refused");
    } catch (const std::length_error&) {
    }
    return;
  }
  const std::vector<float> x = bytes.smalls(s.images * s.channels * s.height * s.width);
  check_ways(bytes, s, stored, x, naive(s, stored, x), s.images);
}

// Whatever a header says, what it is taken for lies within the tensor.
void arranged(Bytes& bytes) {
  constexpr size_t kLanes = 8;
  std::vector<float> floats(static_cast<size_t>(bytes.extent(0, 200)) % 1000 + sift::kHeaderFloats, 0.0f);
  sift::begin_arranged(floats.data(), {bytes.between(1, 3), bytes.between(1, 3), bytes.between(1, 3), 1}, {}, kLanes);
  for (int64_t i = bytes.between(0, 40); i > 0; --i) {
    reinterpret_cast<uint8_t*>(floats.data())[bytes.byte() % (sift::kHeaderFloats * sizeof(float))] = bytes.byte();
  }
  floats.resize(floats.size() - static_cast<size_t>(bytes.between(0, 70)) % floats.size());
  const std::vector<float> tensor(floats);
  const sift::Meaning meaning = sift::open_arranged(
      {{static_cast<int64_t>(tensor.size())}, const_cast<float*>(tensor.data()), sift::ort::kFloat}, kLanes);
  expect(meaning.data >= tensor.data() && meaning.data + meaning.floats <= tensor.data() + tensor.size(),
         "an arranged tensor ends where its floats do");
  expect(meaning.dimensions.size() <= sift::kMaxArrangedRank, "it has few axes");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  switch (bytes.byte() % 4) {
    case 0:
      linear(bytes);
      break;
    case 1:
      arranged(bytes);
      break;
    default:
      convolution(bytes);
  }
  return 0;
}

#ifndef SIFT_LIBFUZZER
int main(int argc, char** argv) {
  const unsigned long first = argc > 2 ? std::strtoul(argv[1], nullptr, 10) : 1;
  const unsigned long count = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 2000;
  for (unsigned long seed = first; seed < first + count; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<uint8_t> data(16 + random() % 4096);
    for (uint8_t& one : data) one = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  std::printf("%lu inputs, 0 failures\n", count);
}
#endif
