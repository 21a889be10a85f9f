// Three rows of weights, split by which of the rows keep one in the same column: see kTrio in kernels/lanes.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sift {

class Trio {
 public:
  struct Kept {
    uint32_t column;
    float weight;
  };
  // A row's kept weights by ascending column.
  struct Row {
    const Kept* kept;
    size_t count;
  };

  // Forgets the rows before.
  void split(const std::array<Row, 3>& rows);

  // Appends the words; offset(column) says where an input lies, `zero` where one is that is 0.
  template <class Offset>
  void write(const Offset& offset, uint32_t zero, std::vector<uint32_t>& words) const;

 private:
  struct Entry {
    uint32_t column;
    float weights[3];
  };

  void add(const Entry& entry, size_t keepers);
  size_t fewest_pairs() const;
  void balance();
  static uint32_t bits(float value);

  std::vector<Entry> single_[3], pair_[3], triple_;  // pairs of the rows 0 and 1, 1 and 2, 2 and 0
};

template <class Offset>
void Trio::write(const Offset& offset, uint32_t zero, std::vector<uint32_t>& words) const {
  const auto put = [&](const Entry& entry, size_t first, size_t count) {
    words.push_back(offset(entry.column));
    for (size_t k = 0; k < count; ++k) words.push_back(bits(entry.weights[(first + k) % 3]));
  };
  size_t singles = 0;
  for (const auto& of_row : single_) singles = of_row.size() > singles ? of_row.size() : singles;
  for (const size_t count : {singles, pair_[0].size(), triple_.size()}) words.push_back(static_cast<uint32_t>(count));
  for (size_t i = 0; i < singles; ++i) {
    for (size_t q = 0; q < 3; ++q) {
      if (i < single_[q].size()) {
        put(single_[q][i], q, 1);
      } else {
        words.push_back(zero);
        words.push_back(bits(0.0f));
      }
    }
  }
  for (size_t i = 0; i < pair_[0].size(); ++i) {
    for (size_t q = 0; q < 3; ++q) put(pair_[q][i], q, 2);
  }
  for (const Entry& entry : triple_) put(entry, 0, 3);
}

}  // namespace sift
