#include "formats/pack_taps.h"

#include <algorithm>
#include <numeric>

namespace sift {
namespace {

// Where a row's taps in one block go: tap i to first + i * step.
struct Place {
  size_t first;
  uint32_t step, taps;
};

// Cuts the rows of one part and block, sorted by their number of taps, into teams and rows alone.
class Cutter {
 public:
  Cutter(const TapLayout& layout, Taps& packed) : layout_(layout), packed_(packed) {}

  // places: of the part's rows in this block, their counts known.
  void cut(Place* places, size_t rows, size_t block) {
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
    slice(places, teams, order_.end(), layout_.team, block);
    slice(places, busy, teams, 1, block);
  }

 private:
  using Rows = std::vector<uint32_t>::const_iterator;

  void slice(Place* places, Rows begin, Rows end, size_t team, size_t block) {
    packed_.slices.push_back({packed_.runs.size(), packed_.channels.size(), packed_.taps.size()});
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

  const TapLayout& layout_;
  Taps& packed_;
  std::vector<uint32_t> order_;
};

}  // namespace

Taps pack_taps(const Weights& weights, const TapLayout& layout) {
  std::vector<Place> places(layout.rows * layout.blocks, Place{0, 0, 0});  // [part][block][row of the part]
  const auto places_of = [&](size_t row, uint32_t block) -> Place& {
    const size_t first = row / layout.rows_per_part * layout.rows_per_part;
    const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
    return places[first * layout.blocks + block * rows + (row - first)];
  };
  size_t kept = 0;
  for_each_kept(weights, [&](size_t row, size_t column, float) {
    ++places_of(row, layout.columns[row / layout.rows_per_group][column].block).taps;
    ++kept;
  });

  Taps packed;
  packed.blocks = layout.blocks;
  packed.taps.reserve(kept + kept / 32);
  Cutter cutter(layout, packed);
  Place* place = places.data();
  for (size_t first = 0; first < layout.rows; first += layout.rows_per_part) {
    const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
    for (size_t block = 0; block < layout.blocks; ++block, place += rows) cutter.cut(place, rows, block);
  }
  packed.slices.push_back({packed.runs.size(), packed.channels.size(), packed.taps.size()});

  for_each_kept(weights, [&](size_t row, size_t column, float value) {
    const Column& target = layout.columns[row / layout.rows_per_group][column];
    Place& here = places_of(row, target.block);
    packed.taps[here.first] = {target.offset, value};
    here.first += here.step;
  });
  return packed;
}

}  // namespace sift
