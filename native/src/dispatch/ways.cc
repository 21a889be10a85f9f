#include "dispatch/ways.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <utility>

#ifdef SIFT_HAS_X86
#include <cpuid.h>

#include <cstring>
#endif

namespace sift {
namespace {

constexpr size_t kMost = 12;  // plans of a kernel, of some hundred

std::string processor() {
#ifdef SIFT_HAS_X86
  unsigned most = 0, words[3] = {}, signature = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0, &most, &words[0], &words[2], &words[1]) && __get_cpuid(1, &signature, &b, &c, &d)) {
    char vendor[13] = {};
    std::memcpy(vendor, words, 12);
    std::replace_if(
        vendor, vendor + 12, [](char letter) { return letter <= ' ' || letter == '/' || letter > '~'; }, '_');
    const unsigned base = signature >> 8 & 0xf;
    const unsigned family = base + (base == 0xf ? signature >> 20 & 0xff : 0);
    const unsigned model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0);
    return std::string(vendor) + "/" + std::to_string(family) + "/" + std::to_string(model);
  }
#endif
  return "other";
}

bool is_number(const std::string& word) {
  return !word.empty() && word.size() <= 9 && word.find_first_not_of("0123456789") == std::string::npos;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text + separator);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// A text that may be anything, for a sentence.
std::string quoted(std::string text) {
  constexpr size_t kLongest = 80;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  std::replace_if(text.begin(), text.end(), [](char letter) { return letter < ' ' || letter > '~'; }, '?');
  return "'" + text + "'";
}

template <class Number>
std::vector<Number> numbers(std::vector<std::string>::const_iterator begin,
                            std::vector<std::string>::const_iterator end) {
  std::vector<Number> found;
  for (; begin != end; ++begin) {
    if (!is_number(*begin)) throw std::invalid_argument(quoted(*begin) + " is no number");
    found.push_back(static_cast<Number>(std::stoul(*begin)));
  }
  return found;
}

template <class Shape>
std::vector<Way<Shape>> best_ways(const Kernel<Shape>& kernel, const Shape& shape, size_t kept) {
  std::vector<Way<Shape>> found;
  for (Plan& plan : kernel.plans(kernel.representative(shape), kept)) {
    if (found.size() < kMost) found.push_back({&kernel, std::move(plan)});
  }
  return found;
}

}  // namespace

std::string to_string(const StoredWay& way) {
  std::string sizes, text;
  for (const int64_t size : way.sizes) sizes += (sizes.empty() ? "" : "x") + std::to_string(size);
  text = way.cpu + " " + sizes + " " + way.kernel;
  for (const uint32_t number : way.plan) text += " " + std::to_string(number);
  return text;
}

StoredWay parse_way(const std::string& text) {
  const std::vector<std::string> words = split(text, ' ');
  try {
    if (words.size() < 3 || words[0].empty() || words[2].empty()) throw std::invalid_argument("it is too short");
    const std::vector<std::string> sizes = split(words[1], 'x');
    return {words[0], numbers<int64_t>(sizes.begin(), sizes.end()), words[2],
            numbers<uint32_t>(words.begin() + 3, words.end())};
  } catch (const std::invalid_argument& why) {
    throw std::invalid_argument("attribute plan " + quoted(text) +
                                " is not a processor, sizes, a kernel and numbers: " + why.what());
  }
}

const std::string& cpu() {
  static const std::string text = processor() + "/" + name(usable_isas().front());
  return text;
}

template <class Shape>
std::vector<Way<Shape>> ways(const Shape& shape, size_t kept) {
  const Kernel<Shape>& usual = choose(shape);
  std::vector<Way<Shape>> found = best_ways(usual, shape, kept);
  for (const Kernel<Shape>& kernel : kernels<Shape>()) {
    if (&kernel == &usual || kernel.isa != usable_isas().front() || !kernel.supports(shape)) continue;
    for (Way<Shape>& way : best_ways(kernel, shape, kept)) found.push_back(std::move(way));
  }
  return found;
}

template <class Shape>
Way<Shape> way_of(const Shape& shape, size_t kept, const StoredWay* stored) {
  if (stored) {
    for (const Kernel<Shape>& kernel : kernels<Shape>()) {
      if (kernel.name != stored->kernel || kernel.isa != usable_isas().front() || !kernel.supports(shape)) continue;
      const std::vector<Plan> plans = kernel.plans(kernel.representative(shape), kept);
      if (std::count(plans.begin(), plans.end(), stored->plan)) return {&kernel, stored->plan};
    }
  }
  const Kernel<Shape>& usual = choose(shape);
  return {&usual, usual.plans(usual.representative(shape), kept).front()};
}

template std::vector<Way<ConvShape>> ways(const ConvShape&, size_t);
template std::vector<Way<LinearShape>> ways(const LinearShape&, size_t);
template Way<ConvShape> way_of(const ConvShape&, size_t, const StoredWay*);
template Way<LinearShape> way_of(const LinearShape&, size_t, const StoredWay*);

}  // namespace sift
