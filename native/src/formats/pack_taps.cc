#include "formats/pack_taps.h"

#include <algorithm>

namespace sift {

Taps pack_taps(const Weights& weights, const TapLayout& layout) {
  const size_t cells = layout.rows * layout.blocks;
  // A cell is one row of one block. Cells are numbered in the order they are packed: by part, block, row.
  struct Place {
    size_t first, step;  // the row's cell in block b is first + b * step
    const Column* columns;
  };
  std::vector<Place> places;
  for (size_t row = 0; row < layout.rows; ++row) {
    const size_t first = row / layout.rows_per_part * layout.rows_per_part;
    const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
    places.push_back({first * layout.blocks + (row - first), rows, layout.columns[row / layout.rows_per_group].data()});
  }

  std::vector<size_t> next(cells + 1, 0);  // first the count of each cell, then where its next tap goes
  for_each_kept(weights, [&](size_t row, size_t column, float) {
    const Place& place = places[row];
    ++next[place.first + place.columns[column].block * place.step + 1];
  });

  Taps packed;
  for (size_t first = 0, cell = 0; first < layout.rows; first += layout.rows_per_part) {
    const size_t rows = std::min(layout.rows_per_part, layout.rows - first);
    for (size_t block = 0; block < layout.blocks; ++block) {
      packed.slices.push_back({packed.runs.size(), next[cell]});
      for (size_t row = 0; row < rows; ++row, ++cell) {
        const size_t taps = next[cell + 1];
        if (taps) packed.runs.push_back({static_cast<uint32_t>(row), static_cast<uint32_t>(taps)});
        next[cell + 1] += next[cell];
      }
    }
  }
  packed.slices.push_back({packed.runs.size(), next[cells]});
  packed.taps.resize(next[cells]);
  for_each_kept(weights, [&](size_t row, size_t column, float value) {
    const Place& place = places[row];
    const Column& target = place.columns[column];
    packed.taps[next[place.first + target.block * place.step]++] = {target.offset, value};
  });
  return packed;
}

}  // namespace sift
