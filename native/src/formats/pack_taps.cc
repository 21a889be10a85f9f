#include "formats/pack_taps.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "formats/trio.h"

namespace sift {
namespace {

using Row = Trio::Row;

// The kept weights by [part][block][row of the part], which is a place; columns as in TapLayout::columns.
struct Sorted {
  std::vector<size_t> first;  // by place, and the end
  std::vector<Trio::Kept> kept;

  Row row(size_t place) const { return {kept.data() + first[place], first[place + 1] - first[place]}; }
};

Sorted sort(const Weights& weights, const TapLayout& layout) {
  // Calls visit(place, column, weight).
  const auto each = [&](const auto& visit) {
    for_each_kept(weights, [&](size_t row, size_t column, float weight) {
      const size_t number = row / layout.rows_per_group * weights.columns + column;
      const size_t first = row / layout.rows_per_part * layout.rows_per_part;
      const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
      visit(first * layout.blocks + layout.columns[number].block * rows + (row - first), number, weight);
    });
  };
  Sorted sorted;
  sorted.first.resize(layout.rows * layout.blocks + 1);
  each([&](size_t place, size_t, float) { ++sorted.first[place + 1]; });
  std::partial_sum(sorted.first.begin(), sorted.first.end(), sorted.first.begin());
  sorted.kept.resize(sorted.first.back());
  std::vector<size_t> next = sorted.first;
  each([&](size_t place, size_t column, float weight) {
    sorted.kept[next[place]++] = {static_cast<uint32_t>(column), weight};
  });
  return sorted;
}

// Cuts the rows of one part and block, sorted by their number of taps, into teams and rows alone.
class Cutter {
 public:
  Cutter(const TapLayout& layout, Taps& packed) : layout_(layout), packed_(packed) {}

  void cut(const std::vector<Row>& rows, size_t block) {
    order_.resize(rows.size());
    std::iota(order_.begin(), order_.end(), 0u);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](uint32_t a, uint32_t b) { return rows[a].count < rows[b].count; });
    // All sums begin in the first block; later on a row without taps has nothing to do.
    const auto busy =
        block == 0 ? order_.begin()
                   : std::find_if(order_.begin(), order_.end(), [&](uint32_t row) { return rows[row].count > 0; });
    const size_t alone = static_cast<size_t>(order_.end() - busy) % layout_.team;
    const auto teams = busy + static_cast<ptrdiff_t>(alone);  // the shortest stay alone: teams are for long loops
    if (layout_.team == kTeams[kTrio]) {
      trios(rows, teams, order_.end(), block);
    } else {
      slice(rows, teams, order_.end(), layout_.team, block);
    }
    slice(rows, busy, teams, 1, block);
  }

 private:
  using Order = std::vector<uint32_t>::const_iterator;

  void begin_slice() { packed_.slices.push_back({packed_.runs.size(), packed_.channels.size(), packed_.taps.size()}); }

  void slice(const std::vector<Row>& rows, Order begin, Order end, size_t team, size_t block) {
    begin_slice();
    const size_t first_run = packed_.runs.size();
    packed_.channels.insert(packed_.channels.end(), begin, end);
    for (; begin != end; begin += static_cast<ptrdiff_t>(team)) {
      const size_t longest = rows[begin[static_cast<ptrdiff_t>(team) - 1]].count, first = packed_.taps.size();
      packed_.taps.resize(first + longest * team, Tap{layout_.zeros[block], 0.0f});
      for (size_t q = 0; q < team; ++q) {
        const Row& row = rows[begin[static_cast<ptrdiff_t>(q)]];
        for (size_t i = 0; i < row.count; ++i) {
          packed_.taps[first + i * team + q] = {layout_.columns[row.kept[i].column].offset, row.kept[i].weight};
        }
      }
      if (packed_.runs.size() > first_run && packed_.runs.back().taps == longest) {
        ++packed_.runs.back().teams;
      } else {
        packed_.runs.push_back({static_cast<uint32_t>(longest), 1});
      }
    }
  }

  void trios(const std::vector<Row>& rows, Order begin, Order end, size_t block) {
    begin_slice();
    if (begin == end) return;
    packed_.runs.push_back({0, static_cast<uint32_t>((end - begin) / 3)});
    packed_.channels.insert(packed_.channels.end(), begin, end);
    words_.clear();
    for (; begin != end; begin += 3) {
      trio_.split({rows[begin[0]], rows[begin[1]], rows[begin[2]]});
      trio_.write([&](uint32_t column) { return layout_.columns[column].offset; }, layout_.zeros[block], words_);
    }
    static_assert(sizeof(Tap) == 2 * sizeof(uint32_t));
    words_.resize((words_.size() + 1) / 2 * 2);
    const size_t taps = packed_.taps.size();
    packed_.taps.resize(taps + words_.size() / 2);
    std::memcpy(static_cast<void*>(packed_.taps.data() + taps), words_.data(), words_.size() * sizeof(uint32_t));
  }

  const TapLayout& layout_;
  Taps& packed_;
  std::vector<uint32_t> order_, words_;
  Trio trio_;
};

}  // namespace

Taps pack_taps(const Weights& weights, const TapLayout& layout) {
  const Sorted sorted = sort(weights, layout);
  Taps packed;
  packed.blocks = layout.blocks;
  packed.taps.reserve(sorted.kept.size() + sorted.kept.size() / 32);
  Cutter cutter(layout, packed);
  std::vector<Row> rows;
  size_t place = 0;
  for (size_t first = 0; first < layout.rows; first += layout.rows_per_part) {
    for (size_t block = 0; block < layout.blocks; ++block) {
      rows.clear();
      for (size_t row = first; row < std::min(first + layout.rows_per_part, layout.rows); ++row) {
        rows.push_back(sorted.row(place++));
      }
      cutter.cut(rows, block);
    }
  }
  packed.slices.push_back({packed.runs.size(), packed.channels.size(), packed.taps.size()});
  return packed;
}

}  // namespace sift
