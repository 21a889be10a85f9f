// Every row of the kernel table on the layers of Sparse-Wide ResNet-18 and of a BERT-base encoder, one thread.
//
//     bench_kernels [density] [word] [images]
//
// `density` is the share of weights kept (0.1); only lines that contain `word` are run, convolutions on `images`
// images. Printed are the milliseconds of the fastest call, GFLOP/s counted on kept weights (useful) and on all of them
// (dense-equivalent: what a dense kernel would need to be as fast), and the milliseconds to repack the weights, spent
// once a shape.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "dispatch/kernel.h"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

template <class Shape>
void bench(const std::string& title, const Shape& shape, size_t rows, size_t columns, size_t in, size_t out,
           size_t positions, size_t count, double density, const std::string& word) {
  for (const auto& kernel : sift::kernels<Shape>()) {
    const std::string line = title + " " + kernel.name + "/" + sift::name(kernel.isa);
    const auto& available = sift::available_isas();
    if (!std::count(available.begin(), available.end(), kernel.isa) || !kernel.supports(shape)) continue;
    if (line.find(word) == std::string::npos) continue;

    std::mt19937 random(0);
    std::bernoulli_distribution keep(density);
    std::vector<uint8_t> bitmask((rows * columns + 7) / 8);
    size_t kept = 0;
    for (size_t i = 0; i < rows * columns; ++i) {
      if (!keep(random)) continue;
      bitmask[i / 8] = static_cast<uint8_t>(bitmask[i / 8] | 1u << (i % 8));
      ++kept;
    }
    const std::vector<float> values(kept, 0.5f), x(in, 1.0f);
    std::vector<float> y(out);

    auto begin = Clock::now();
    const Shape representative = kernel.representative(shape);
    const auto prepared = kernel.prepare(representative, {rows, columns, bitmask.data(), values.data()},
                                         kernel.plans(representative, kept).front());
    const double prepare = milliseconds(begin);
    const auto scratch = sift::Scratch::shared();
    sift::NoWorkers workers;
    double best = 1e30, spent = 0;
    for (int i = 0; i < 3 || spent < 300; ++i) {
      begin = Clock::now();
      prepared->run({}, x.data(), y.data(), count, workers, *scratch);
      const double took = milliseconds(begin);
      if (i > 0) best = std::min(best, took);  // the first call touches fresh memory
      spent += took;
    }
    const double macs = static_cast<double>(positions) / best / 1e6;
    std::printf("%-48s %9.3f ms %7.1f useful %8.1f dense-equivalent GFLOP/s, repacked in %.1f ms\n", line.c_str(), best,
                2 * macs * static_cast<double>(kept), 2 * macs * static_cast<double>(rows * columns), prepare);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double density = argc > 1 ? std::atof(argv[1]) : 0.1;
  const std::string word = argc > 2 ? argv[2] : "";
  const int64_t images = argc > 3 ? std::atoi(argv[3]) : 1;

  struct Conv {
    int64_t channels, filters, kernel, stride, size;
  };
  for (const Conv& c : {Conv{202, 202, 3, 1, 56},
                        {202, 404, 3, 2, 56},
                        {202, 404, 1, 2, 56},
                        {404, 404, 3, 1, 28},
                        {808, 808, 3, 1, 14},
                        {808, 1616, 1, 2, 14},
                        {1616, 1616, 3, 1, 7},
                        {512, 512, 3, 1, 4},
                        {48, 288, 1, 1, 56},
                        {1152, 320, 1, 1, 7}}) {
    const int64_t pad = c.kernel / 2;
    const sift::ConvShape shape{c.channels, c.size, c.size, c.filters, c.kernel, c.kernel, c.stride, c.stride,
                                1,          1,      pad,    pad,       pad,      pad,      1,        images};
    const auto columns = static_cast<size_t>(c.channels * c.kernel * c.kernel), rows = static_cast<size_t>(c.filters);
    const auto positions = static_cast<size_t>(shape.out_height() * shape.out_width());
    const std::string title = "conv " + std::to_string(c.channels) + ">" + std::to_string(c.filters) + " " +
                              std::to_string(c.kernel) + "x" + std::to_string(c.kernel) + "/" +
                              std::to_string(c.stride) + " at " + std::to_string(c.size);
    bench(title, shape, rows, columns, static_cast<size_t>(images * c.channels * c.size * c.size),
          static_cast<size_t>(images) * rows * positions, static_cast<size_t>(images) * positions,
          static_cast<size_t>(images), density, word);
  }
  for (const size_t tokens : {1, 4, 16, 128, 512}) {
    const sift::LinearShape shape{768, 3072, static_cast<int64_t>(tokens)};
    bench("linear 768>3072 on " + std::to_string(tokens), shape, 3072, 768, tokens * 768, tokens * 3072, tokens, tokens,
          density, word);
  }
}
