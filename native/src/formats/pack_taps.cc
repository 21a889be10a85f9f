#include "formats/pack_taps.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "formats/trio.h"

namespace sift {
namespace {

// A row's taps in one block: tap i goes to first + i * step.
struct Place {
  size_t first;
  uint32_t step, taps;
};

// All kept weights by [part][block][row], which trios are made from.
struct Sorted {
  std::vector<uint32_t> columns;  // of all groups, counted on
  std::vector<float> weights;
  std::vector<size_t> first;  // by place
};

// Cuts the rows of one part and block, sorted by their number of taps, into teams and rows alone.
class Cutter {
 public:
  // `sorted` is null where there are no trios.
  Cutter(const TapLayout& layout, const Sorted* sorted, Taps& packed)
      : layout_(layout), sorted_(sorted), packed_(packed) {}

  // places: of the part's rows in this block, their counts known; `first` is the number of the first place.
  void cut(Place* places, size_t first, size_t rows, size_t block) {
    first_ = first;
    order_.resize(rows);
    std::iota(order_.begin(), order_.end(), 0u);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](uint32_t a, uint32_t b) { return places[a].taps < places[b].taps; });
    // All sums begin in the first block; later on a row without taps has nothing to do.
    const auto busy =
        block == 0 ? order_.begin()
                   : std::find_if(order_.begin(), order_.end(), [&](uint32_t row) { return places[row].taps > 0; });
    const size_t alone = static_cast<size_t>(order_.end() - busy) % layout_.team;
    const auto teams = busy + static_cast<ptrdiff_t>(alone);  // the shortest stay alone: teams are for long loops
    sorted_ ? trios(places, teams, order_.end(), block) : slice(places, teams, order_.end(), layout_.team, block);
    slice(places, busy, teams, 1, block);
  }

 private:
  using Rows = std::vector<uint32_t>::const_iterator;

  void begin_slice() { packed_.slices.push_back({packed_.runs.size(), packed_.channels.size(), packed_.taps.size()}); }

  void slice(Place* places, Rows begin, Rows end, size_t team, size_t block) {
    begin_slice();
    const size_t first_run = packed_.runs.size();
    for (; begin != end; begin += static_cast<ptrdiff_t>(team)) {
      const uint32_t longest = places[begin[static_cast<ptrdiff_t>(team) - 1]].taps;
      const size_t first = packed_.taps.size();
      for (size_t q = 0; q < team; ++q) {
        Place& place = places[begin[static_cast<ptrdiff_t>(q)]];
        place.first = first + q;
        place.step = static_cast<uint32_t>(team);
      }
      packed_.channels.insert(packed_.channels.end(), begin, begin + static_cast<ptrdiff_t>(team));
      packed_.taps.resize(first + longest * team, Tap{layout_.zeros[block], 0.0f});
      if (packed_.runs.size() > first_run && packed_.runs.back().taps == longest) {
        ++packed_.runs.back().teams;
      } else {
        packed_.runs.push_back({longest, 1});
      }
    }
  }

  void trios(Place* places, Rows begin, Rows end, size_t block) {
    begin_slice();
    if (begin == end) return;
    packed_.runs.push_back({0, static_cast<uint32_t>((end - begin) / 3)});
    packed_.channels.insert(packed_.channels.end(), begin, end);
    words_.clear();
    for (; begin != end; begin += 3) {
      std::array<Trio::Row, 3> rows;
      for (size_t q = 0; q < 3; ++q) {
        const uint32_t row = begin[static_cast<ptrdiff_t>(q)];
        const size_t first = sorted_->first[first_ + row];
        rows[q] = {sorted_->columns.data() + first, sorted_->weights.data() + first, places[row].taps};
        places[row].step = 0;
      }
      trio_.split(rows);
      trio_.write([&](uint32_t column) { return layout_.column(column).offset; }, layout_.zeros[block], words_);
    }
    static_assert(sizeof(Tap) == 2 * sizeof(uint32_t));
    words_.resize((words_.size() + 1) / 2 * 2);
    const size_t taps = packed_.taps.size();
    packed_.taps.resize(taps + words_.size() / 2);
    std::memcpy(static_cast<void*>(packed_.taps.data() + taps), words_.data(), words_.size() * sizeof(uint32_t));
  }

  const TapLayout& layout_;
  const Sorted* sorted_;
  Taps& packed_;
  size_t first_ = 0;
  std::vector<uint32_t> order_, words_;
  Trio trio_;
};

}  // namespace

Taps pack_taps(const Weights& weights, const TapLayout& layout) {
  std::vector<Place> places(layout.rows * layout.blocks, Place{0, 0, 0});  // [part][block][row of the part]
  const auto place_of = [&](size_t row, uint32_t block) {
    const size_t first = row / layout.rows_per_part * layout.rows_per_part;
    const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
    return first * layout.blocks + block * rows + (row - first);
  };
  size_t kept = 0;
  for_each_kept(weights, [&](size_t row, size_t column, float) {
    ++places[place_of(row, layout.columns[row / layout.rows_per_group][column].block)].taps;
    ++kept;
  });

  Sorted sorted;
  const bool trios = layout.team == kTeams[kTrio];
  if (trios) {
    sorted.columns.resize(kept), sorted.weights.resize(kept), sorted.first.resize(places.size());
    size_t first = 0;
    for (size_t place = 0; place < places.size(); first += places[place++].taps) sorted.first[place] = first;
    std::vector<size_t> next = sorted.first;
    for_each_kept(weights, [&](size_t row, size_t column, float value) {
      const size_t group = row / layout.rows_per_group;
      const size_t at = next[place_of(row, layout.columns[group][column].block)]++;
      sorted.columns[at] = static_cast<uint32_t>(group * weights.columns + column);
      sorted.weights[at] = value;
    });
  }

  Taps packed;
  packed.blocks = layout.blocks;
  packed.taps.reserve(kept + kept / 32);
  Cutter cutter(layout, trios ? &sorted : nullptr, packed);
  size_t place = 0;
  for (size_t first = 0; first < layout.rows; first += layout.rows_per_part) {
    const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
    for (size_t block = 0; block < layout.blocks; ++block, place += rows) {
      cutter.cut(places.data() + place, place, rows, block);
    }
  }
  packed.slices.push_back({packed.runs.size(), packed.channels.size(), packed.taps.size()});

  for_each_kept(weights, [&](size_t row, size_t column, float value) {
    const Column& target = layout.columns[row / layout.rows_per_group][column];
    Place& here = places[place_of(row, target.block)];
    if (here.step == 0) return;  // in a trio
    packed.taps[here.first] = {target.offset, value};
    here.first += here.step;
  });
  return packed;
}

}  // namespace sift
