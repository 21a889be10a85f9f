// Stored ways: what texts say, which are refused, which are ignored, and that every way that is offered can be stored.
//
// Prints what differs, and then returns 1.
#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch/ways.h"

namespace {

size_t failures = 0;

void expect(bool truth, const std::string& what) {
  if (!truth) ++failures, std::printf("rule broken: %s\n", what.c_str());
}

bool refused(const std::string& text) {
  try {
    sift::parse_way(text);
    return false;
  } catch (const std::invalid_argument& why) {
    std::string shown = text;
    std::replace(shown.begin(), shown.end(), '\n', '?');  // a sentence has no control characters
    return std::string(why.what()).find("'" + shown + "'") != std::string::npos;
  }
}

void check_texts() {
  const sift::StoredWay way = sift::parse_way("GenuineIntel/6/143/avx512 1x56x57 conv_patches 1 4 0 123456789");
  expect(way.cpu == "GenuineIntel/6/143/avx512", "the processor comes first");
  expect(way.sizes == std::vector<int64_t>{1, 56, 57}, "sizes come second");
  expect(way.kernel == "conv_patches", "the kernel comes third");
  expect(way.plan == sift::Plan{1, 4, 0, 123456789}, "numbers come last");
  expect(sift::parse_way("a 7 linear_columns").plan.empty(), "a kernel may have no numbers");
  for (const char* text : {"",
                           " ",
                           "a",
                           "a 1",
                           "a 1 ",
                           " 1 k",
                           "a  k",
                           "a x k",
                           "a 1x k",
                           "a x1 k",
                           "a 1x-1 k",
                           "a 1,2 k",
                           "a 1 k 1.0",
                           "a 1 k -1",
                           "a 1 k 0x1",
                           "a 1 k +1",
                           "a 1 k 1 ",
                           "a 1 k  1",
                           "a 1 k 1234567890",
                           "a 1 k 1\n",
                           "a b k"}) {
    expect(refused(text), "'" + std::string(text) + "' is refused");
  }
}

template <class Shape>
void check_ways(const Shape& shape, size_t kept, const std::string& title) {
  const auto same = [](const sift::Way<Shape>& a, const sift::Way<Shape>& b) {
    return a.kernel == b.kernel && a.plan == b.plan;
  };
  const auto ways = sift::ways(shape, kept);
  const auto usual = sift::way_of<Shape>(shape, kept, nullptr);
  expect(!ways.empty() && same(ways.front(), usual), title + ": the first way is what is done without a stored one");
  expect(usual.kernel == &sift::choose(shape), title + ": without a stored one the preferred kernel runs");
  for (size_t i = 0; i < ways.size(); ++i) {
    for (size_t j = 0; j < i; ++j) expect(!same(ways[i], ways[j]), title + ": no way is offered twice");
    const sift::StoredWay stored{sift::cpu(), shape.sizes(), ways[i].kernel->name, ways[i].plan};
    const sift::StoredWay read = sift::parse_way(sift::to_string(stored));
    expect(same(sift::way_of(shape, kept, &read), ways[i]), title + ": what is stored is what is done");
  }
  sift::StoredWay strange{sift::cpu(), shape.sizes(), ways.back().kernel->name, ways.back().plan};
  strange.plan.push_back(1);
  expect(same(sift::way_of(shape, kept, &strange), usual), title + ": a plan with a number too many is ignored");
  strange = {sift::cpu(), shape.sizes(), ways.back().kernel->name, sift::Plan(ways.back().plan.size(), 999999999)};
  expect(strange.plan.empty() || same(sift::way_of(shape, kept, &strange), usual), title + ": odd numbers are ignored");
  strange = {sift::cpu(), shape.sizes(), "conv_of_tomorrow", ways.back().plan};
  expect(same(sift::way_of(shape, kept, &strange), usual), title + ": a kernel that there is not is ignored");
}

}  // namespace

int main() {
  check_texts();
  const sift::ConvShape window{64, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const sift::ConvShape points{64, 14, 14, 64, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1};
  check_ways(window, 9000, "3x3");
  check_ways(points, 1000, "1x1");
  for (const int64_t tokens : {1, 7, 128}) {
    check_ways(sift::LinearShape{256, 64, tokens}, 4000, std::to_string(tokens) + " tokens");
  }
  const auto offered = sift::ways(points, 1000);
  expect(offered.front().kernel != offered.back().kernel, "a 1x1 convolution is offered on two kernels");
  expect(sift::cpu().find(' ') == std::string::npos && !sift::cpu().empty(), "a processor is one word");
  std::printf("%s: %zu failures\n", sift::cpu().c_str(), failures);
  return failures ? 1 : 0;
}
