// Every row of the kernel table against a naive loop in double precision, on shapes chosen for their edges.
//
// Prints a line a kernel, or what differs and where, and then returns 1. With an argument, only kernels whose name or
// instruction set contains it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch/kernel.h"
#include "kernels/arranged.h"
#include "kernels/max_pool.h"
#include "threads.h"

namespace {

using sift::ConvShape;
using sift::Kernel;
using sift::LinearShape;

enum class Fill { kRandom, kNone, kAll, kEmptyRows, kEmptyColumns };

// A weight in the stored form, and dense beside it.
struct Matrix {
  Matrix(size_t rows_, size_t columns_, Fill fill, std::mt19937& random)
      : rows(rows_), columns(columns_), kept(rows * columns), dense(rows * columns), bitmask((rows * columns + 7) / 8) {
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < kept.size(); ++i) {
      const size_t row = i / columns, column = i % columns;
      const bool pick = random() % 4 == 0;
      kept[i] = fill == Fill::kAll || (fill == Fill::kRandom && pick) ||
                (fill == Fill::kEmptyRows && row % 3 == 1 && pick) ||
                (fill == Fill::kEmptyColumns && column % 3 == 1 && pick);
      if (!kept[i]) continue;
      dense[i] = i % 7 == 3 ? 0.0f : normal(random);  // a kept weight may be zero
      bitmask[i / 8] = static_cast<uint8_t>(bitmask[i / 8] | 1u << (i % 8));
      values.push_back(dense[i]);
    }
  }

  sift::Weights weights() const { return {rows, columns, bitmask.data(), values.data()}; }

  size_t rows, columns;
  std::vector<bool> kept;
  std::vector<float> dense;
  std::vector<uint8_t> bitmask;
  std::vector<float> values;
};

// One output as the definition says it, and how far rounding may take a float sum of the same terms from it: each of
// the at most n roundings errs by half an ulp of a partial sum, and no partial sum exceeds the sum of magnitudes.
struct Exact {
  double sum = 0, magnitude = 0;
  size_t terms = 0;

  void add(double term) {
    sum += term;
    magnitude += std::fabs(term);
    ++terms;
  }

  bool matches(float found) const {
    if (!std::isfinite(sum)) return std::isnan(sum) ? std::isnan(found) : static_cast<double>(found) == sum;
    const double unit = std::numeric_limits<float>::epsilon() / 2;
    return std::fabs(found - sum) <=
           unit * static_cast<double>(2 * terms + 1) * magnitude + std::numeric_limits<float>::min();
  }
};

Exact exact(const ConvShape& s, const Matrix& matrix, const float* bias, const float* image, int64_t m, int64_t y,
            int64_t x) {
  Exact result;
  if (bias) result.add(bias[m]);
  const int64_t group = m / (s.filters / s.groups);
  size_t index = static_cast<size_t>(m) * matrix.columns;
  for (int64_t c = group * s.group_channels(); c < (group + 1) * s.group_channels(); ++c) {
    for (int64_t i = 0; i < s.kernel_h; ++i) {
      for (int64_t j = 0; j < s.kernel_w; ++j, ++index) {
        const int64_t row = y * s.stride_h - s.top + i * s.dilation_h,
                      column = x * s.stride_w - s.left + j * s.dilation_w;
        const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
        if (matrix.kept[index] && inside) {
          result.add(static_cast<double>(matrix.dense[index]) * image[(c * s.height + row) * s.width + column]);
        }
      }
    }
  }
  return result;
}

std::vector<float> normals(size_t count, std::mt19937& random, bool special) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  if (special && count > 0) {
    values[random() % count] = std::numeric_limits<float>::infinity();
    values[random() % count] = std::numeric_limits<float>::quiet_NaN();
  }
  return values;
}

// Floats at an address that is a multiple of 4 and of nothing more, the bytes around them guarded by a sanitizer.
class Unaligned {
 public:
  Unaligned(const std::vector<float>& values) : floats_(values.size() + 1) {
    std::copy(values.begin(), values.end(), data());
  }
  float* data() { return floats_.data() + 1; }

 private:
  std::vector<float> floats_;
};

// Floats where vectors may be loaded, every one as `value`.
class Aligned {
 public:
  Aligned(size_t size, float value) : size_(size), floats_(size + 16, value) {}
  float* data() {
    const auto address = reinterpret_cast<uintptr_t>(floats_.data());
    return floats_.data() + (64 - address % 64) % 64 / sizeof(float);
  }
  size_t size() const { return size_; }

 private:
  size_t size_;
  std::vector<float> floats_;
};

// Calls visit(number of the float, number of the pixel in the plain image) for all that an arranged image stores;
// pixels around the image are -1.
template <class Visit>
void each_arranged(size_t lanes, const sift::ArrangedImage& a, size_t images, int64_t channels, int64_t height,
                   int64_t width, const sift::Reading& reading, const Visit& visit) {
  const auto stride = static_cast<size_t>(reading.stride_w), vectors = (a.cells + stride - 1) / stride * stride;
  const sift::Halo& halo = reading.halo;
  size_t index = 0;
  for (size_t group = 0; group * a.images < images; ++group) {
    for (size_t tile = 0; tile < a.tiles; ++tile) {
      for (size_t row = 0; row < a.rows; ++row) {
        for (int64_t channel = 0; channel <= channels; ++channel) {
          for (size_t vector = 0; vector < vectors; ++vector) {
            const size_t cell = vector % (vectors / stride) * stride + vector / (vectors / stride);
            for (size_t lane = 0; lane < lanes; ++lane, ++index) {
              const size_t image = group * a.images + lane / (a.down * a.across);
              const auto y = static_cast<int64_t>(lane / a.across % a.down * a.patch_h + row) - halo.top;
              const auto x = static_cast<int64_t>(lane % a.across * a.patch_w + tile * a.columns + cell) - halo.left;
              if (image >= images || cell >= a.cells) continue;
              const bool inside = channel < channels && y >= 0 && y < height && x >= 0 && x < width;
              const int64_t pixel = ((static_cast<int64_t>(image) * channels + channel) * height + y) * width + x;
              visit(index, inside ? pixel : -1);
            }
          }
        }
      }
    }
  }
}

struct Case {
  bool biased;
  Fill fill;
  bool special;
  unsigned seed;

  bool adds() const { return seed % 3 == 1; }
  bool relu() const { return seed % 4 == 1; }
  size_t threads() const { return 2 + seed / 4 % 2; }
};

// What a kernel gets, and what the definition makes of its sums.
struct Problem {
  Problem(const Case& c, size_t rows, size_t inputs, size_t outputs, std::mt19937& random)
      : which(c),
        x(normals(inputs, random, c.special)),
        bias(normals(rows, random, false)),
        residual(normals(outputs, random, c.special)) {
    if (inputs > 0) x[random() % inputs] = std::numeric_limits<float>::denorm_min();
  }

  const float* bias_or_null() const { return which.biased ? bias.data() : nullptr; }

  bool matches(Exact want, size_t output, float found) const {
    if (which.adds()) want.add(residual[output]);
    if (which.relu() && want.sum < 0) {  // the rounded sum may lie on either side of 0
      want.sum = 0;
      return found == 0 || (found > 0 && want.matches(found));
    }
    return want.matches(found);
  }

  void expect(const std::vector<Exact>& wants, const std::vector<float>& y, const std::string& how) const {
    for (size_t index = 0; index < y.size(); ++index) {
      if (!matches(wants[index], index, y[index])) {
        throw std::runtime_error(how + ": output " + std::to_string(index) + " is " + std::to_string(y[index]) +
                                 ", not " + std::to_string(wants[index].sum));
      }
    }
  }

  // Runs alone, then with threads, which must give the same bits; y begins as a value no output has.
  std::vector<float> run(const sift::Prepared& prepared, size_t count) const {
    const auto scratch = sift::Scratch::shared();
    const std::vector<float> untouched(residual.size(), 1e30f);
    Unaligned input(x), y(untouched), added(residual);
    sift::NoWorkers alone;
    sift::Epilogue epilogue;
    epilogue.bias = bias_or_null();
    if (which.adds()) epilogue.residual = added.data();
    if (which.relu()) epilogue.activation = sift::Activation::kRelu;
    prepared.run(epilogue, input.data(), y.data(), count, alone, *scratch);
    const size_t size = residual.size();
    sift::Threads threads(which.threads());
    Unaligned again(untouched);
    prepared.run(epilogue, input.data(), again.data(), count, threads, *scratch);
    if (size > 0 && std::memcmp(y.data(), again.data(), size * sizeof(float)) != 0)
      throw std::runtime_error("threads change the result");
    return {y.data(), y.data() + size};
  }

  // As `run`, with those tensors arranged that the shape says.
  std::vector<float> run_arranged(const sift::Prepared& prepared, const ConvShape& s, size_t lanes,
                                  size_t count) const {
    const int64_t height = s.out_height(), width = s.out_width();
    const auto arranged = [&](const std::vector<float>& plain, int64_t channels, int64_t high, int64_t wide,
                              const sift::Reading& reading) {
      const sift::ArrangedImage image(lanes, s.images, channels, high, wide, reading);
      Aligned result(image.floats(count), std::numeric_limits<float>::quiet_NaN());
      each_arranged(lanes, image, count, channels, high, wide, reading, [&](size_t at, int64_t pixel) {
        result.data()[at] = pixel >= 0 ? plain[static_cast<size_t>(pixel)] : 0.0f;
      });
      return result;
    };
    Unaligned plain_x(x), plain_y(std::vector<float>(residual.size(), 1e30f)), plain_residual(residual);
    Aligned lanes_x = arranged(x, s.channels, s.height, s.width, s.reading_x);
    Aligned lanes_residual = arranged(residual, s.filters, height, width, s.reading_residual);
    const sift::ArrangedImage image(lanes, s.images, s.filters, height, width, s.reading_y);
    sift::Epilogue epilogue;
    epilogue.bias = bias_or_null();
    if (which.adds()) epilogue.residual = s.arranged_residual ? lanes_residual.data() : plain_residual.data();
    if (which.relu()) epilogue.activation = sift::Activation::kRelu;
    const auto scratch = sift::Scratch::shared();
    std::vector<float> first;
    sift::NoWorkers alone;
    sift::Threads threads(which.threads());
    for (sift::Workers* workers : {static_cast<sift::Workers*>(&alone), static_cast<sift::Workers*>(&threads)}) {
      Aligned lanes_y(s.arranged_y ? image.floats(count) : 0, 1e30f);
      prepared.run(epilogue, s.arranged_x ? lanes_x.data() : plain_x.data(),
                   s.arranged_y ? lanes_y.data() : plain_y.data(), count, *workers, *scratch);
      std::vector<float> y(plain_y.data(), plain_y.data() + residual.size());
      if (s.arranged_y) {
        each_arranged(lanes, image, count, s.filters, height, width, s.reading_y, [&](size_t at, int64_t pixel) {
          const float value = lanes_y.data()[at];
          if (pixel < 0 && (value != 0 || std::signbit(value))) throw std::runtime_error("no zero around the image");
          if (pixel >= 0) {
            float& seen = y[static_cast<size_t>(pixel)];
            if (seen != 1e30f && std::memcmp(&seen, &value, sizeof(value)) != 0) {
              throw std::runtime_error("a halo is not its pixel");
            }
            seen = value;
          }
        });
      }
      if (!first.empty() && std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) != 0) {
        throw std::runtime_error("threads change the result");
      }
      first = y;
    }
    return first;
  }

  std::vector<float> run_arranged(const sift::Prepared& prepared, const LinearShape& s, size_t lanes,
                                  size_t count) const {
    const auto place = [&](int64_t features, size_t token, int64_t feature) {
      const sift::ArrangedTokens tokens(lanes, s.tokens, features);
      const size_t row = tokens.columns * lanes;
      return token / row * tokens.tile_pitch + static_cast<size_t>(feature) * row + token % row;
    };
    const auto floats = [&](int64_t features) { return sift::ArrangedTokens(lanes, s.tokens, features).floats(count); };
    Aligned lanes_x(floats(s.inputs), 0.0f), lanes_y(floats(s.outputs), 1e30f);
    for (size_t token = 0; token < count; ++token) {
      for (int64_t k = 0; k < s.inputs; ++k) {
        lanes_x.data()[place(s.inputs, token, k)] = x[token * static_cast<size_t>(s.inputs) + static_cast<size_t>(k)];
      }
    }
    Unaligned plain_x(x), plain_y(std::vector<float>(residual.size(), 1e30f)), plain_residual(residual);
    sift::Epilogue epilogue;
    epilogue.bias = bias_or_null();
    if (which.adds()) epilogue.residual = plain_residual.data();
    if (which.relu()) epilogue.activation = sift::Activation::kRelu;
    sift::Threads threads(which.threads());
    prepared.run(epilogue, s.arranged_x ? lanes_x.data() : plain_x.data(),
                 s.arranged_y ? lanes_y.data() : plain_y.data(), count, threads, *sift::Scratch::shared());
    std::vector<float> y(plain_y.data(), plain_y.data() + residual.size());
    if (!s.arranged_y) return y;
    for (size_t token = 0; token < count; ++token) {
      for (int64_t n = 0; n < s.outputs; ++n) {
        y[token * static_cast<size_t>(s.outputs) + static_cast<size_t>(n)] = lanes_y.data()[place(s.outputs, token, n)];
      }
    }
    for (size_t token = 0; token < count; ++token) {
      if (lanes_y.data()[place(s.outputs, token, s.outputs)] != 0) {
        throw std::runtime_error("no zeros behind the outputs");
      }
    }
    return y;
  }

  const Case which;
  std::vector<float> x, bias, residual;
};

// Which of a case's tensors are arranged, of those that may be: as many ways in turn as there are.
ConvShape arranged(ConvShape s, const Case& c, size_t lanes) {
  const unsigned ways = 1 + c.seed % 7;
  s.arranged_x = (ways & 1) && s.same_size();
  s.arranged_residual = (ways & 4) && c.adds();
  if (s.arranged_x) {
    const sift::Halo halo = s.halo();
    s.reading_x = {{halo.top + c.seed % 2, halo.left + c.seed % 3, halo.bottom + c.seed % 4, halo.right + c.seed % 2},
                   s.stride_h,
                   s.stride_w};
  }
  if (ways & 2) s.reading_y = {{c.seed % 3, c.seed % 2, c.seed % 4, c.seed % 5}, 1 + c.seed % 2, 1 + c.seed / 2 % 3};
  if (s.arranged_residual) s.reading_residual = {{c.seed % 2, c.seed % 3, 0, 1}};
  // For readers that have another number of images in their lanes, y stays as it is.
  s.arranged_y =
      (ways & 2) && sift::ArrangedImage(lanes, s.images, 1, s.out_height(), s.out_width(), s.reading_y).images ==
                        sift::Grid(lanes, s.images, s.out_height(), s.out_width()).images;
  return s;
}

LinearShape arranged(LinearShape s, const Case& c, size_t) {
  s.arranged_x = c.seed % 3 != 0;
  s.arranged_y = c.seed % 3 != 1 && !c.adds();
  return s;
}

constexpr size_t kCases = 20;  // a shape

// The plan that the kernel prefers, and of the others one in kCases: in about as many cases as there are, each.
template <class Shape>
void compare(const Kernel<Shape>& kernel, const Shape& s, const Matrix& matrix, const Problem& problem, size_t count,
             const std::vector<Exact>& wants) {
  const Shape shape = kernel.representative(s);
  const std::vector<sift::Plan> plans = kernel.plans(shape, matrix.values.size());
  for (size_t plan = 0; plan < plans.size(); plan = plan ? plan + kCases : 1 + problem.which.seed % kCases) {
    const auto prepared = kernel.prepare(shape, matrix.weights(), plans[plan]);
    problem.expect(wants, problem.run(*prepared, count), "plan " + std::to_string(plan));
  }
  Shape lanes = arranged(s, problem.which, sift::lanes_of(kernel.isa).width);
  if (!lanes.arranged() || !kernel.supports(lanes) || count == 0) return;
  lanes = kernel.representative(lanes);
  const std::vector<sift::Plan> few = kernel.plans(lanes, matrix.values.size());
  const auto prepared = kernel.prepare(lanes, matrix.weights(), few[problem.which.seed % few.size()]);
  problem.expect(wants, problem.run_arranged(*prepared, lanes, sift::lanes_of(kernel.isa).width, count), "arranged");
}

void check(const Kernel<ConvShape>& kernel, const ConvShape& s, size_t images, const Case& c) {
  std::mt19937 random(c.seed);
  const Matrix matrix(static_cast<size_t>(s.filters), static_cast<size_t>(s.group_channels() * s.kernel_h * s.kernel_w),
                      c.fill, random);
  const auto image = static_cast<size_t>(s.channels * s.height * s.width);
  const int64_t out_h = s.out_height(), out_w = s.out_width();
  const size_t size = images * static_cast<size_t>(s.filters * out_h * out_w);
  const Problem problem(c, matrix.rows, images * image, size, random);
  std::vector<Exact> wants;
  for (size_t n = 0; n < images; ++n) {
    for (int64_t m = 0; m < s.filters; ++m) {
      for (int64_t row = 0; row < out_h; ++row) {
        for (int64_t column = 0; column < out_w; ++column) {
          wants.push_back(exact(s, matrix, problem.bias_or_null(), problem.x.data() + n * image, m, row, column));
        }
      }
    }
  }
  compare(kernel, s, matrix, problem, images, wants);
}

void check(const Kernel<LinearShape>& kernel, const LinearShape& s, size_t tokens, const Case& c) {
  std::mt19937 random(c.seed);
  const Matrix matrix(static_cast<size_t>(s.outputs), static_cast<size_t>(s.inputs), c.fill, random);
  const Problem problem(c, matrix.rows, tokens * matrix.columns, tokens * matrix.rows, random);
  std::vector<Exact> wants;
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t n = 0; n < matrix.rows; ++n) {
      Exact want;
      if (c.biased) want.add(problem.bias[n]);
      for (size_t k = 0; k < matrix.columns; ++k) {
        if (matrix.kept[n * matrix.columns + k])
          want.add(static_cast<double>(matrix.dense[n * matrix.columns + k]) * problem.x[t * matrix.columns + k]);
      }
      wants.push_back(want);
    }
  }
  compare(kernel, s, matrix, problem, tokens, wants);
}

ConvShape conv(int64_t channels, int64_t height, int64_t width, int64_t filters, int64_t kernel, int64_t stride = 1,
               int64_t pad = 0, int64_t dilation = 1, int64_t groups = 1) {
  return {channels, height,   width, filters, kernel, kernel, stride, stride,
          dilation, dilation, pad,   pad,     pad,    pad,    groups};
}

std::vector<std::pair<ConvShape, size_t>> edges(const ConvShape*) {
  std::vector<std::pair<ConvShape, size_t>> shapes = {
      {conv(1, 1, 1, 1, 1), 1},                 // nothing smaller
      {conv(3, 5, 7, 4, 3, 1, 1), 0},           // no images
      {conv(3, 1, 1, 5, 3, 1, 1), 2},           // all taps but one in the padding
      {conv(2, 3, 4, 3, 5, 1, 2), 3},           // kernel larger than the image
      {conv(2, 4, 4, 3, 1, 1, 3), 1},           // more padding than the kernel reaches
      {conv(2, 20, 20, 3, 1, 1, 9), 1},         // the same over several tiles
      {conv(2, 9, 9, 3, 2, 4), 1},              // stride larger than the kernel: rows that no tap reads
      {conv(3, 11, 8, 4, 3, 2, 1), 2},          // stride
      {conv(3, 10, 13, 4, 3, 3, 2, 2), 1},      // stride and dilation with a common phase pattern
      {conv(3, 12, 12, 4, 3, 2, 2, 2), 2},      // dilation a multiple of the stride: one phase
      {conv(4, 9, 6, 6, 3, 1, 1, 1, 2), 2},     // groups
      {conv(12, 8, 8, 12, 3, 1, 1, 1, 12), 1},  // depthwise
      {conv(6, 8, 8, 12, 3, 2, 1, 1, 6), 2},    // depthwise with a multiplier
      {conv(5, 3, 200, 3, 3, 1, 1), 1},         // rows longer than a tile
      {conv(3, 40, 3, 3, 3, 1, 1), 1},          // tiles of many rows
      {conv(130, 9, 9, 40, 3, 1, 1), 2},        // several blocks of channels and parts of filters
      {conv(70, 32, 32, 5, 1), 1},              // planes of exactly 4 KB
      {conv(131, 7, 9, 70, 1), 3},              // 1x1: several blocks and parts, pixels that fill no vector
      {conv(5, 6, 5, 7, 3, 1, 1), 17},          // images share the lanes, and one is left over
      {conv(40, 30, 30, 9, 3, 1, 1), 5},        // lanes shared by images and patches
      {conv(4, 23, 31, 6, 7, 2, 3), 1},         // a stem
      {conv(6, 56, 56, 5, 3, 1, 1), 1},         // patches that are twice those of half the size
      {conv(3, 32, 64, 4, 3, 1, 1), 2},         // the same, of two images
      {conv(6, 28, 56, 5, 1, 2), 1},            // one pixel of each stride
      {conv(4, 29, 45, 3, 5, 3, 2), 1},         // a stride of 3 that the size is no multiple of
      {conv(3, 32, 32, 5, 16, 16), 1},          // patches of a transformer
  };
  ConvShape odd = conv(3, 7, 10, 5, 3);
  odd.kernel_h = 2, odd.kernel_w = 4, odd.stride_h = 1, odd.stride_w = 3, odd.dilation_h = 3;
  odd.top = 0, odd.left = 5, odd.bottom = 2, odd.right = 1;
  shapes.push_back({odd, 2});              // nothing symmetric
  for (const bool left : {false, true}) {  // zeros on one side only, which rows cannot share
    ConvShape lopsided = conv(3, 7, 9, 4, 3);
    (left ? lopsided.left : lopsided.right) = 2;
    (left ? lopsided.top : lopsided.bottom) = 2;
    shapes.push_back({lopsided, 1});
  }
  for (int64_t width = 2; width <= 16; ++width)
    shapes.push_back({conv(2, 8, width, 3, 3, 1, 1), 1});  // every number of vectors
  return shapes;
}

std::vector<std::pair<LinearShape, size_t>> edges(const LinearShape*) {
  std::vector<std::pair<LinearShape, size_t>> shapes;
  for (const size_t tokens : {0, 1, 2, 7, 8, 9, 15, 16, 33, 95, 96, 97, 200, 641}) {
    for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{1, 1}, {5, 3}, {37, 70}, {300, 9}}) {
      shapes.push_back({{inputs, outputs, static_cast<int64_t>(tokens)}, tokens});
    }
  }
  shapes.push_back({{9000, 2, 130}, 130});  // so many inputs that their panels take turns
  return shapes;
}

std::string describe(const ConvShape& s) {
  return std::to_string(s.channels) + "x" + std::to_string(s.height) + "x" + std::to_string(s.width) + " to " +
         std::to_string(s.filters) + " kernel " + std::to_string(s.kernel_h) + "x" + std::to_string(s.kernel_w) +
         " stride " + std::to_string(s.stride_h) + "," + std::to_string(s.stride_w) + " dilation " +
         std::to_string(s.dilation_h) + "," + std::to_string(s.dilation_w) + " pad " + std::to_string(s.top) + "," +
         std::to_string(s.left) + " groups " + std::to_string(s.groups);
}

std::string describe(const LinearShape& s) { return std::to_string(s.inputs) + " to " + std::to_string(s.outputs); }

void set_count(ConvShape& shape, size_t images) { shape.images = static_cast<int64_t>(images); }
void set_count(LinearShape& shape, size_t tokens) { shape.tokens = static_cast<int64_t>(tokens); }

template <class Shape>
size_t check_all(const std::string& only) {
  size_t failures = 0;
  const auto& available = sift::available_isas();
  for (const Kernel<Shape>& kernel : sift::kernels<Shape>()) {
    const std::string title = std::string(kernel.name) + "/" + sift::name(kernel.isa);
    if (title.find(only) == std::string::npos) continue;
    if (!std::count(available.begin(), available.end(), kernel.isa)) {
      std::printf("%s: skipped, this processor lacks it\n", title.c_str());
      continue;
    }
    size_t cases = 0;
    for (auto [shape, count] : edges(static_cast<const Shape*>(nullptr))) {
      set_count(shape, count);
      if (!kernel.supports(shape)) continue;
      for (const Fill fill : {Fill::kRandom, Fill::kNone, Fill::kAll, Fill::kEmptyRows, Fill::kEmptyColumns}) {
        for (const bool biased : {false, true}) {
          for (const bool special : {false, true}) {
            ++cases;
            try {
              check(kernel, shape, count, {biased, fill, special, static_cast<unsigned>(cases)});
            } catch (const std::exception& error) {
              ++failures;
              std::printf("%s: %s, count %zu, fill %d, bias %d, special %d: %s\n", title.c_str(),
                          describe(shape).c_str(), count, static_cast<int>(fill), biased, special, error.what());
            }
          }
        }
      }
    }
    std::printf("%s: %zu cases\n", title.c_str(), cases);
  }
  return failures;
}

// The largest number of each window, by the definition.
std::vector<float> pooled(const sift::PoolShape& s, const std::vector<float>& x) {
  std::vector<float> y;
  for (int64_t plane = 0; plane < s.images * s.channels; ++plane) {
    for (int64_t row = 0; row < s.out_height(); ++row) {
      for (int64_t column = 0; column < s.out_width(); ++column) {
        const auto pixel = [&](int64_t i, int64_t j) {
          return x[static_cast<size_t>((plane * s.height + row * s.stride_h + i) * s.width + column * s.stride_w + j)];
        };
        float largest = pixel(0, 0);
        for (int64_t i = 0; i < s.kernel_h; ++i) {
          for (int64_t j = 0; j < s.kernel_w; ++j) {
            if (pixel(i, j) > largest) largest = pixel(i, j);
          }
        }
        y.push_back(largest);
      }
    }
  }
  return y;
}

void expect_same(const std::vector<float>& want, const float* found, const char* how) {
  if (!want.empty() && std::memcmp(want.data(), found, want.size() * sizeof(float)) != 0) throw std::runtime_error(how);
}

// `s` says of x and y how they are arranged; both also plain.
void check_pool(sift::PoolShape s, const sift::Lanes& lanes, unsigned seed) {
  std::mt19937 random(seed);
  const auto images = static_cast<size_t>(s.images);
  const std::vector<float> x = normals(images * static_cast<size_t>(s.channels * s.height * s.width), random, true);
  const std::vector<float> want = pooled(s, x), untouched(want.size(), 1e30f);
  sift::NoWorkers alone;
  sift::Threads threads(2 + seed % 2);
  Unaligned plain_x(x), plain_y(untouched);
  sift::max_pool(s, plain_x.data(), plain_y.data(), threads);
  expect_same(want, plain_y.data(), "plain");

  const sift::ArrangedImage image(lanes.width, s.images, s.channels, s.height, s.width, s.reading_x);
  Aligned lanes_x(image.floats(images), std::numeric_limits<float>::quiet_NaN());
  each_arranged(lanes.width, image, images, s.channels, s.height, s.width, s.reading_x, [&](size_t at, int64_t pixel) {
    lanes_x.data()[at] = pixel >= 0 ? x[static_cast<size_t>(pixel)] : 0.0f;
  });
  for (sift::Workers* workers : {static_cast<sift::Workers*>(&alone), static_cast<sift::Workers*>(&threads)}) {
    const sift::ArrangedMaxPool pool(s, lanes);
    Unaligned y(untouched);
    if (!pool.arranged_y()) {
      pool.run(lanes_x.data(), y.data(), *workers, *sift::Scratch::shared());
      expect_same(want, y.data(), "from lanes");
      continue;
    }
    const int64_t height = s.out_height(), width = s.out_width();
    const sift::ArrangedImage image_y(lanes.width, s.images, s.channels, height, width, s.reading_y);
    Aligned lanes_y(pool.y_floats(), 1e30f);
    pool.run(lanes_x.data(), lanes_y.data(), *workers, *sift::Scratch::shared());
    each_arranged(lanes.width, image_y, images, s.channels, height, width, s.reading_y, [&](size_t at, int64_t pixel) {
      const float wanted = pixel >= 0 ? want[static_cast<size_t>(pixel)] : 0.0f;
      if (std::memcmp(&wanted, lanes_y.data() + at, sizeof(wanted)) != 0) throw std::runtime_error("in lanes");
    });
  }
}

size_t check_pools(const std::string& only) {
  constexpr int64_t kShapes[][6] = {
      {1, 1, 1, 1, 1, 1},     // nothing smaller
      {16, 16, 2, 2, 2, 2},   // halves
      {17, 13, 2, 2, 2, 2},   // and leaves a row and a column over
      {17, 30, 3, 3, 2, 2},   // windows that overlap
      {9, 9, 3, 3, 1, 1},     // a window at each pixel
      {20, 21, 2, 3, 3, 4},   // pixels that no window has
      {5, 40, 5, 2, 1, 2},    // one row of outputs
      {23, 3, 2, 3, 2, 1},    // one column
      {64, 130, 2, 2, 2, 2},  // several tiles across
  };
  size_t failures = 0;
  for (const sift::Isa isa : sift::available_isas()) {
    const std::string title = std::string("max_pool/") + sift::name(isa);
    if (title.find(only) == std::string::npos) continue;
    unsigned cases = 0;
    for (const auto& [height, width, kernel_h, kernel_w, stride_h, stride_w] : kShapes) {
      for (const int64_t channels : {1, 5, 40}) {
        for (const int64_t images : {0, 1, 2, 3, 17}) {
          sift::PoolShape s{images, channels, height, width, kernel_h, kernel_w, stride_h, stride_w};
          ++cases;
          const sift::Halo halo = s.halo();
          s.reading_x = {{cases % 2, cases % 3, halo.bottom + cases % 2, halo.right + cases % 3}, stride_h, stride_w};
          s.reading_y = {{cases % 3, cases % 2, cases % 4, cases % 5}, 1 + cases % 2, 1 + cases / 2 % 3};
          for (const bool arranged : {false, true}) {
            s.arranged_y = arranged;
            try {
              check_pool(s, sift::lanes_of(isa), cases);
            } catch (const std::exception& error) {
              ++failures;
              std::printf("%s: %zux%zu of %zux%zu by %zux%zu, %zu images, %zu channels: %s\n", title.c_str(),
                          static_cast<size_t>(kernel_h), static_cast<size_t>(kernel_w), static_cast<size_t>(height),
                          static_cast<size_t>(width), static_cast<size_t>(stride_h), static_cast<size_t>(stride_w),
                          static_cast<size_t>(images), static_cast<size_t>(channels), error.what());
            }
          }
        }
      }
    }
    std::printf("%s: %u cases\n", title.c_str(), 2 * cases);
  }
  return failures;
}

// The rules around the kernels that no shape can show.
size_t check_rules() {
  size_t failures = 0;
  const auto expect = [&](bool truth, const char* what) {
    if (!truth) ++failures, std::printf("rule broken: %s\n", what);
  };
  const auto refused = [](const char* forced) {
    try {
      sift::choose_isas(forced, {sift::Isa::kPortable});
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  expect(refused("avx2"), "an instruction set the processor lacks is refused");
  expect(refused("AVX2") && refused("portable "), "names are exact");
  expect(sift::choose_isas("", {sift::Isa::kPortable}).size() == 1, "empty forces nothing");
  const uint8_t bits[] = {0xff, 0x03};
  expect(sift::why_invalid(bits, 2, 10, 10).empty(), "ten weights in two bytes");
  expect(!sift::why_invalid(bits, 2, 10, 9).empty(), "a bit past the end");
  expect(!sift::why_invalid(bits, 2, 9, 10).empty(), "a value missing");
  expect(!sift::why_invalid(bits, 2, 10, 17).empty(), "a byte missing");
  expect(!sift::why_invalid(bits, 2, 8, 8).empty(), "a byte too many");
  ConvShape huge = conv(1, 1 << 16, 1 << 16, 1, 2);
  try {
    const float value = 1;
    const uint8_t bit = 1;
    const auto& kernel = sift::choose(huge);
    kernel.prepare(huge, {1, 4, &bit, &value}, kernel.plans(huge, 1).front());
    expect(false, "planes of 2^32 elements are refused");
  } catch (const std::length_error&) {
  }
  sift::NoWorkers workers;
  try {
    workers.each(3, [](size_t task) {
      if (task == 1) throw std::runtime_error("task");
    });
    expect(false, "a task that throws is heard of");
  } catch (const std::bad_alloc&) {
  }
  return failures;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  const size_t failures = check_all<ConvShape>(only) + check_all<LinearShape>(only) + check_pools(only) + check_rules();
  std::printf("%zu failures\n", failures);
  return failures ? 1 : 0;
}
