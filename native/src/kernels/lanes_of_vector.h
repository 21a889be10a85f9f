// The leaf functions of lanes.h, for whatever `Vector` is. Include it after SIFT_TARGET_BEGIN and a vector header.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/activate.h"
#include "kernels/columns_of_vector.h"
#include "kernels/lanes.h"

namespace sift {
namespace {

constexpr size_t kAhead = 2048;  // bytes of taps that are prefetched before they are needed

// The pointer in one register, or g++ adds its two parts anew in each instruction, which Intel's processors then split
// (4 % of the time).
#ifdef __GNUC__
#define SIFT_ONE_REGISTER(pointer) __asm__("" : "+r"(pointer))
#else
#define SIFT_ONE_REGISTER(pointer)
#endif

template <size_t Rows, size_t Columns, size_t Team>
void accumulate(const Accumulate& a) {
  const Tap* taps = a.taps;
  const uint32_t* channels = a.channels;
  const char* input[Rows];
#pragma GCC unroll 4
  for (size_t i = 0; i < Rows; ++i) input[i] = a.input + i * a.row_stride;
  for (const Run* run = a.runs; run != a.runs + a.run_count; ++run) {
    const size_t count = run->taps;
    for (size_t team = 0; team < run->teams; ++team, channels += Team) {
      // Indexed loops: g++ 12 keeps an array that a range-for touched on the stack, which was 2.8 times slower.
      Vector sums[Team][Rows][Columns];
      float* at[Team];
#pragma GCC unroll 4
      for (size_t q = 0; q < Team; ++q) {
        at[q] = a.sums + channels[q] * Rows * Columns * Vector::kWidth;
        if (a.first) {
          const Vector bias = Vector::broadcast(a.bias ? a.bias[channels[q]] : 0.0f);
#pragma GCC unroll 4
          for (size_t i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
            for (size_t j = 0; j < Columns; ++j) sums[q][i][j] = bias;
          }
        } else {
#pragma GCC unroll 4
          for (size_t i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
            for (size_t j = 0; j < Columns; ++j)
              sums[q][i][j] = Vector::load(at[q] + (i * Columns + j) * Vector::kWidth);
          }
        }
      }
      for (size_t byte = 0; byte < count * Team * sizeof(Tap); byte += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(taps) + kAhead + byte);
      }
      for (const Tap* end = taps + count * Team; taps != end; taps += Team) {
#pragma GCC unroll 4
        for (size_t q = 0; q < Team; ++q) {
          const Vector weight = Vector::broadcast(taps[q].weight);
          const size_t offset = taps[q].offset;
#pragma GCC unroll 4
          for (size_t i = 0; i < Rows; ++i) {
            const float* from = reinterpret_cast<const float*>(input[i] + offset);
            SIFT_ONE_REGISTER(from);
#pragma GCC unroll 8
            for (size_t j = 0; j < Columns; ++j) {
              sums[q][i][j] = Vector::fma(weight, Vector::load(from + j * Vector::kWidth), sums[q][i][j]);
            }
          }
        }
      }
#pragma GCC unroll 4
      for (size_t q = 0; q < Team; ++q) {
#pragma GCC unroll 4
        for (size_t i = 0; i < Rows; ++i) {
#pragma GCC unroll 8
          for (size_t j = 0; j < Columns; ++j) sums[q][i][j].store(at[q] + (i * Columns + j) * Vector::kWidth);
        }
      }
    }
  }
}

// Words of trios lie among taps, as which they must not be read.
inline uint32_t word(const uint32_t* words, size_t which) {
  uint32_t value;
  std::memcpy(&value, words + which, sizeof(value));
  return value;
}

// Adds weights times one input to the sums of the trio's channels First, First + 1 … of three. `words` are those of the
// tap: where the input lies, and `Count` weights.
template <size_t First, size_t Count, size_t Columns>
inline void add_shared(const char* input, const uint32_t* words, Vector (&sums)[3][Columns]) {
  const float* from = reinterpret_cast<const float*>(input + word(words, 0));
  SIFT_ONE_REGISTER(from);
  Vector weights[Count];
#pragma GCC unroll 3
  for (size_t k = 0; k < Count; ++k) {
    float weight;
    std::memcpy(&weight, words + 1 + k, sizeof(weight));
    weights[k] = Vector::broadcast(weight);
  }
#pragma GCC unroll 8
  for (size_t j = 0; j < Columns; ++j) {
    Vector value = Vector::load(from + j * Vector::kWidth);
    if (Count > 1) value.hold();
#pragma GCC unroll 3
    for (size_t k = 0; k < Count; ++k) {
      Vector& sum = sums[(First + k) % 3][j];
      sum = Vector::fma(weights[k], value, sum);
    }
  }
}

// Of tiles of one row: more of them would fill the registers of three channels.
template <size_t Columns>
void accumulate_trios(const Accumulate& a) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.taps);
  const uint32_t* channels = a.channels;
  size_t teams = 0;
  for (const Run* run = a.runs; run != a.runs + a.run_count; ++run) teams += run->teams;
  for (; teams > 0; --teams, channels += 3) {
    Vector sums[3][Columns];
    float* at[3];
#pragma GCC unroll 3
    for (size_t q = 0; q < 3; ++q) {
      at[q] = a.sums + channels[q] * Columns * Vector::kWidth;
      const Vector bias = Vector::broadcast(a.first && a.bias ? a.bias[channels[q]] : 0.0f);
#pragma GCC unroll 8
      for (size_t j = 0; j < Columns; ++j) sums[q][j] = a.first ? bias : Vector::load(at[q] + j * Vector::kWidth);
    }
    const size_t singles = word(words, 0), pairs = word(words, 1), triples = word(words, 2);
    words += 3;
    for (const uint32_t* end = words + singles * 6; words != end; words += 6) {
      __builtin_prefetch(reinterpret_cast<const char*>(words) + kAhead);
      add_shared<0, 1>(a.input, words, sums);
      add_shared<1, 1>(a.input, words + 2, sums);
      add_shared<2, 1>(a.input, words + 4, sums);
    }
    for (const uint32_t* end = words + pairs * 9; words != end; words += 9) {
      __builtin_prefetch(reinterpret_cast<const char*>(words) + kAhead);
      add_shared<0, 2>(a.input, words, sums);
      add_shared<1, 2>(a.input, words + 3, sums);
      add_shared<2, 2>(a.input, words + 6, sums);
    }
    for (const uint32_t* end = words + triples * 4; words != end; words += 4) {
      __builtin_prefetch(reinterpret_cast<const char*>(words) + kAhead);
      add_shared<0, 3>(a.input, words, sums);
    }
#pragma GCC unroll 3
    for (size_t q = 0; q < 3; ++q) {
#pragma GCC unroll 8
      for (size_t j = 0; j < Columns; ++j) sums[q][j].store(at[q] + j * Vector::kWidth);
    }
  }
}

// Elements `begin` … `end` - 1 of a row, `step` apart; the rest is 0.
inline Vector strided(const float* from, size_t step, size_t begin, size_t end) {
  constexpr size_t kWidth = Vector::kWidth;
  if (step == 2 && begin < end) {
    const size_t first = 2 * begin, past = 2 * end - 1;  // what lies behind the last is not the row's
    const auto half = [&](size_t at) {
      const auto within = [&](size_t element) { return std::clamp(element, at, at + kWidth) - at; };
      return Vector::load(from + at, Vector::range(within(first), within(past)));
    };
    return Vector::evens(half(0), half(kWidth));
  }
  alignas(64) float elements[kWidth] = {};
  for (size_t i = begin; i < end; ++i) elements[i] = from[i * step];
  return Vector::load(elements);
}

void interleave(const Interleave& a) {
  constexpr size_t kWidth = Vector::kWidth;
  for (size_t first = 0; first < a.cells; first += kWidth) {
    const size_t count = std::min(kWidth, a.cells - first);
    size_t begin[kWidth], end[kWidth];
    typename Vector::Range range[kWidth];
    const float* from[kWidth];
    for (size_t lane = 0; lane < kWidth; ++lane) {
      const auto within = [&](size_t cell) { return std::clamp(cell, first, first + count) - first; };
      begin[lane] = within(a.lanes[lane].begin), end[lane] = std::max(begin[lane], within(a.lanes[lane].end));
      range[lane] = Vector::range(begin[lane], end[lane]);
      from[lane] = a.from + a.lanes[lane].offset + first * a.step;
    }
    for (size_t channel = 0; channel < a.channels; ++channel) {
      Vector square[kWidth];
      if (a.step == 1) {
#pragma GCC unroll 16
        for (size_t lane = 0; lane < kWidth; ++lane) {
          square[lane] = Vector::load(from[lane] + channel * a.from_pitch, range[lane]);
        }
      } else {
        for (size_t lane = 0; lane < kWidth; ++lane) {
          square[lane] = strided(from[lane] + channel * a.from_pitch, a.step, begin[lane], end[lane]);
        }
      }
      Vector::transpose(square);
      float* to = a.to + channel * a.to_pitch;
      for (size_t i = 0; i < count; ++i) square[i].store(to + a.position[first + i] * kWidth);
    }
  }
}

template <Activation activation>
void deinterleave(const Deinterleave& a) {
  constexpr size_t kWidth = Vector::kWidth;
  const size_t units = a.channels * a.rows;                     // rows of columns
  const size_t together = std::min(kWidth / a.columns, units);  // in a square
  const float* const residual = a.epilogue->residual;
  size_t channel = 0, row = 0;
  for (size_t first = 0; first < units; first += together) {
    const size_t count = std::min(together, units - first), vectors = count * a.columns;
    const float* sums = a.sums + first * a.columns * a.vector_pitch;
    Vector square[kWidth];
#pragma GCC unroll 16
    for (size_t i = 0; i < kWidth; ++i) {
      square[i] = i < vectors ? Vector::load(sums + i * a.vector_pitch) : Vector::zero();
    }
    Vector::transpose(square);
    const Deinterleave::Lane* lanes[kWidth];
    ptrdiff_t base[kWidth];  // from y to column 0 of the square, had it been in this unit's row
    for (size_t i = 0; i < count; ++i) {
      lanes[i] = a.lanes + row * kWidth;
      base[i] = static_cast<ptrdiff_t>(channel * a.y_pitch) - static_cast<ptrdiff_t>(i * a.columns);
      if (++row == a.rows) row = 0, ++channel;
    }
    for (size_t lane = 0; lane < kWidth; ++lane) {
      Vector value = square[lane];
      if (residual) {
        for (size_t i = 0; i < count; ++i) {
          const size_t begin = i * a.columns;
          value = value + Vector::load(residual + base[i] + lanes[i][lane].offset,
                                       Vector::range(begin, begin + lanes[i][lane].columns));
        }
      }
      value = activate<activation>(value, *a.epilogue);
      for (size_t i = 0; i < count; ++i) {
        const size_t begin = i * a.columns;
        value.store(a.y + base[i] + lanes[i][lane].offset, Vector::range(begin, begin + lanes[i][lane].columns));
      }
    }
  }
}

void to_lanes(const ToLanes& a) {
  constexpr size_t kWidth = Vector::kWidth;
  for (size_t first = 0; first < a.inputs; first += kWidth) {
    const size_t count = std::min(kWidth, a.inputs - first);
    const typename Vector::Range range = Vector::range(0, count);
    const float* const from = a.x + first;
    Vector square[kWidth];
#pragma GCC unroll 16
    for (size_t token = 0; token < kWidth; ++token) {
      square[token] = token < a.tokens ? Vector::load(from + token * a.pitch, range) : Vector::zero();
    }
    Vector::transpose(square);
    for (size_t i = 0; i < count; ++i) square[i].store(a.to + (first + i) * a.to_pitch);
  }
}

template <Activation activation>
void from_lanes(const FromLanes& a) {
  constexpr size_t kWidth = Vector::kWidth;
  for (size_t first = 0; first < a.outputs; first += kWidth) {
    const size_t count = std::min(kWidth, a.outputs - first);
    const typename Vector::Range range = Vector::range(0, count);
    const float* const sums = a.sums + first * a.sums_pitch;
    Vector square[kWidth];
#pragma GCC unroll 16
    for (size_t i = 0; i < kWidth; ++i) square[i] = i < count ? Vector::load(sums + i * a.sums_pitch) : Vector::zero();
    Vector::transpose(square);
    for (size_t token = 0; token < a.tokens; ++token) {
      const size_t at = token * a.pitch + first;
      Vector value = square[token];
      if (a.residual) value = value + Vector::load(a.residual + at, range);
      activate<activation>(value, *a.epilogue).store(a.y + at, range);
    }
  }
}

template <Activation activation>
void finish(const Finish& a) {
  for (size_t i = 0; i < a.count; i += Vector::kWidth) {
    const typename Vector::Range range = Vector::range(0, std::min(Vector::kWidth, a.count - i));
    Vector value = Vector::load(a.sums + i, range);
    if (a.bias) value = value + Vector::load(a.bias + i, range);
    if (a.residual) value = value + Vector::load(a.residual + i, range);
    activate<activation>(value, *a.epilogue).store(a.y + i, range);
  }
}

template <Activation activation>
void arrange(const Arrange& a) {
  constexpr size_t kWidth = Vector::kWidth;
  for (size_t channel = 0; channel < a.channels + a.zeros; ++channel) {
    float* const y = a.y + channel * a.y_pitch;
    for (size_t row = 0; row < a.rows; ++row) {
      const float* const sums = a.sums + (channel * a.rows + row) * a.sums_columns * kWidth;
      const size_t beside = channel * a.residual_channel_pitch + row * a.residual_row_pitch;
      for (size_t column = 0; column < a.columns; ++column) {
        Vector value = Vector::zero();
        if (channel < a.channels) {
          value = Vector::load(sums + column * kWidth);
          if (a.residual) value = value + Vector::load(a.residual + beside + column * kWidth);
          value = activate<activation>(value, *a.epilogue);
        }
        const uint32_t* const first = a.first + row * a.first_pitch + column;
        for (const Arrange::Target* target = a.targets + first[0]; target != a.targets + first[1]; ++target) {
          if (target->permutation == Arrange::Target::kSame) {
            value.store(y + target->offset);
            continue;
          }
          const int32_t* const lanes = a.permutations + static_cast<size_t>(target->permutation) * kWidth;
          const Vector permuted = Vector::permute(value, lanes);
          if (target->partial) {
            permuted.store_where(lanes, y + target->offset);
          } else {
            permuted.store(y + target->offset);
          }
        }
      }
    }
  }
}

float multiply(size_t rounds) {
  // Lanes differ and all are needed, or compilers leave some out. They go to 2 or 4: denormals took a tenth of the
  // time.
  alignas(64) float lanes[Vector::kWidth];
  for (size_t lane = 0; lane < Vector::kWidth; ++lane) lanes[lane] = static_cast<float>(lane);
  Vector sums[kChains];
#pragma GCC unroll 12
  for (size_t i = 0; i < kChains; ++i) sums[i] = Vector::load(lanes) * Vector::broadcast(static_cast<float>(i + 1));
  const Vector factor = Vector::broadcast(0.5f), term = Vector::broadcast(static_cast<float>(rounds % 2 + 1));
  for (size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (size_t i = 0; i < kChains; ++i) sums[i] = Vector::fma(sums[i], factor, term);
  }
#pragma GCC unroll 12
  for (size_t i = 1; i < kChains; ++i) sums[0] = sums[0] + sums[i];
  sums[0].store(lanes);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

template <size_t Most, size_t Rows, size_t Columns, size_t Team>
constexpr auto accumulate_if_few() -> void (*)(const Accumulate&) {
  if constexpr (Rows * Columns * Team <= Most) {
    return accumulate<Rows, Columns, Team>;
  } else {
    return nullptr;
  }
}

template <size_t Most, size_t Rows, size_t Columns>
constexpr void add_columns(Lanes& lanes) {
  lanes.accumulate[Rows][Columns][0] = accumulate_if_few<Most, Rows, Columns, kTeams[0]>();
  lanes.accumulate[Rows][Columns][1] = accumulate_if_few<Most, Rows, Columns, kTeams[1]>();
  lanes.accumulate[Rows][Columns][2] = accumulate_if_few<Most, Rows, Columns, kTeams[2]>();
  if constexpr (Rows == 1 && Columns * 3 < Most) lanes.accumulate[Rows][Columns][kTrio] = accumulate_trios<Columns>;
  if constexpr (Columns < kMaxColumns) add_columns<Most, Rows, Columns + 1>(lanes);
}

template <size_t Most, size_t Rows = 1>
constexpr void add_rows(Lanes& lanes) {
  add_columns<Most, Rows, 1>(lanes);
  if constexpr (Rows < kMaxRows) add_rows<Most, Rows + 1>(lanes);
}

template <int... Index>
constexpr void add_activations(Lanes& lanes, std::integer_sequence<int, Index...>) {
  ((lanes.deinterleave[Index] = deinterleave<static_cast<Activation>(Index)>,
    lanes.from_lanes[Index] = from_lanes<static_cast<Activation>(Index)>,
    lanes.finish[Index] = finish<static_cast<Activation>(Index)>,
    lanes.arrange[Index] = arrange<static_cast<Activation>(Index)>),
   ...);
}

// One register is left for the weight, and one for the compiler; trios have three weights and an input.
constexpr Lanes lanes_of_vector() {
  constexpr size_t kMost = Vector::kRegisters - (Vector::kRegisters > 16 ? 4 : 2);
  Lanes lanes{};
  lanes.width = Vector::kWidth;
  lanes.most = kMost;
  add_rows<kMost>(lanes);
  lanes.interleave = interleave;
  lanes.to_lanes = to_lanes;
  lanes.multiply = multiply;
  lanes.columns = columns_of_vector();
  add_activations(lanes, std::make_integer_sequence<int, kActivations>());
  return lanes;
}

}  // namespace
}  // namespace sift
