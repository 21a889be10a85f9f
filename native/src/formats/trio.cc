#include "formats/trio.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>

namespace sift {

void Trio::split(const std::array<Row, 3>& rows) {
  for (auto* entries : {&single_[0], &single_[1], &single_[2], &pair_[0], &pair_[1], &pair_[2], &triple_}) {
    entries->clear();
  }
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  std::array<size_t, 3> next{};
  for (;;) {
    Entry entry{kNone, {}};
    for (size_t q = 0; q < 3; ++q) {
      if (next[q] < rows[q].count) entry.column = std::min(entry.column, rows[q].kept[next[q]].column);
    }
    if (entry.column == kNone) break;
    size_t keepers = 0;
    for (size_t q = 0; q < 3; ++q) {
      if (next[q] == rows[q].count || rows[q].kept[next[q]].column != entry.column) continue;
      entry.weights[q] = rows[q].kept[next[q]++].weight;
      keepers |= size_t{1} << q;
    }
    add(entry, keepers);
  }
  balance();
}

void Trio::add(const Entry& entry, size_t keepers) {
  if (keepers == 7) {
    triple_.push_back(entry);
  } else if (keepers == 1 || keepers == 2 || keepers == 4) {
    single_[keepers / 2].push_back(entry);
  } else {
    pair_[keepers == 3 ? 0 : keepers == 6 ? 1 : 2].push_back(entry);
  }
}

size_t Trio::fewest_pairs() const {
  const auto fewer = [](const auto& a, const auto& b) { return a.size() < b.size(); };
  return static_cast<size_t>(std::min_element(std::begin(pair_), std::end(pair_), fewer) - std::begin(pair_));
}

// As many pairs of each kind, for one loop. A triple becomes a pair that is missing and a single, and a pair that is
// left over two singles; either costs a load more, and no multiplication.
void Trio::balance() {
  const size_t most = std::max({pair_[0].size(), pair_[1].size(), pair_[2].size()});
  for (size_t q = fewest_pairs(); !triple_.empty() && pair_[q].size() < most; q = fewest_pairs()) {
    pair_[q].push_back(triple_.back());
    single_[(q + 2) % 3].push_back(triple_.back());
    triple_.pop_back();
  }
  const size_t count = pair_[fewest_pairs()].size();
  for (size_t q = 0; q < 3; ++q) {
    for (; pair_[q].size() > count; pair_[q].pop_back()) {
      single_[q].push_back(pair_[q].back());
      single_[(q + 1) % 3].push_back(pair_[q].back());
    }
  }
}

uint32_t Trio::bits(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  return word;
}

}  // namespace sift
