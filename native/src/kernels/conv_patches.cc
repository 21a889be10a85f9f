#include "kernels/conv_patches.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "formats/pack_taps.h"
#include "kernels/ceil_div.h"
#include "kernels/tiles.h"

namespace sift {
namespace {

constexpr size_t kTasks = 16;                    // a group of images is cut into at least so many, for threads to share
constexpr size_t kMinPart = 32;                  // filters
constexpr size_t kGroupBytes = 8 * 1024 * 1024;  // of interleaved images at a time
constexpr size_t kPlaces = size_t{1} << 22;

}  // namespace

ConvPatches::Axis::Axis(int64_t size_, int64_t out_, int64_t kernel_, int64_t stride_, int64_t dilation_, int64_t pad_,
                        bool arranged)
    : size(static_cast<size_t>(size_)),
      out(static_cast<size_t>(out_)),
      kernel(static_cast<size_t>(kernel_)),
      stride(out == 1 && !arranged ? 1 : static_cast<size_t>(stride_)),  // of one output it says nothing
      dilation(static_cast<size_t>(dilation_)),
      // Of pixels that no tap reads none is stored: of a 1x1 kernel with a stride of 2, every other.
      step(arranged ? 1 : std::gcd(stride, kernel == 1 ? stride : dilation)),
      pad(static_cast<size_t>(pad_)) {
  stride /= step;
  dilation = kernel == 1 ? 0 : dilation / step;
}

ConvShape ConvPatches::representative(ConvShape shape, const Lanes& lanes) {
  int64_t images = 1;
  while (images * 2 <= std::min<int64_t>(shape.images, static_cast<int64_t>(lanes.width))) images *= 2;
  shape.images = images;
  return shape;
}

ConvPatches::ConvPatches(const ConvShape& shape, const Lanes& lanes)
    : shape_(shape),
      lanes_(lanes),
      down_(shape.height, shape.out_height(), shape.kernel_h, shape.stride_h, shape.dilation_h, shape.top,
            shape.arranged_x),
      across_(shape.width, shape.out_width(), shape.kernel_w, shape.stride_w, shape.dilation_w, shape.left,
              shape.arranged_x) {}

ConvPatches::ConvPatches(const ConvShape& shape, const Lanes& lanes, const Weights& weights, const Plan& plan)
    : ConvPatches(shape, lanes) {
  tiling_ = tiling(plan);
  const size_t filters = static_cast<size_t>(shape.filters);
  if (shape.arranged_x) {
    const ArrangedImage image(lanes.width, shape.images, shape.channels, shape.height, shape.width, shape.reading_x);
    channel_pitch_ = image.channel_pitch, row_pitch_ = image.row_pitch;
    tile_pitch_ = image.tile_pitch, group_pitch_ = image.group_pitch;
    for (size_t cell = 0; cell < image.cells; ++cell) position_.push_back(static_cast<uint32_t>(image.position(cell)));
  } else {
    interleave_anew();
  }
  const size_t tiles = tiles_down(tiling_) * tiles_across(tiling_);
  part_ = std::min(filters, std::max(ceil_div(filters, ceil_div(kTasks, tiles)), kMinPart));
  taps_ = pack(weights);
  const auto arranged = [&](const Reading& reading) {
    return ArrangedImage(lanes.width, shape.images, shape.filters, shape.out_height(), shape.out_width(), reading);
  };
  if (shape.arranged_residual) arranged_residual_ = arranged(shape.reading_residual);
  if (shape.arranged_y) {
    ascending_.resize(tiling_.columns);
    std::iota(ascending_.begin(), ascending_.end(), 0u);
    arranged_y_ = arranged(shape.reading_y);
    const Grid grid(lanes.width, shape.images, shape.out_height(), shape.out_width());
    scattering_ =
        Scattering(lanes.width, grid, *arranged_y_, shape.out_height(), shape.out_width(), shape.reading_y.halo);
  }
}

// How x is laid out where that is this layer's own affair.
void ConvPatches::interleave_anew() {
  const size_t stored = static_cast<size_t>(shape_.channels) + 1, vectors = row_vectors(tiling_);
  const size_t rows = down_.cells(tiling_.patch_h), tiles = tiles_across(tiling_);
  const size_t limit =
      std::numeric_limits<uint32_t>::max() / (lanes_.width * sizeof(float));  // a tap's offset is 32 bits
  if (stored > limit / vectors / rows / tiles) throw std::length_error("the interleaved image is too large");
  channel_pitch_ = vectors * lanes_.width;
  row_pitch_ = stored * channel_pitch_;
  tile_pitch_ = rows * row_pitch_;
  group_pitch_ = tiles * tile_pitch_;
  for (size_t cell = 0; cell < across_.cells(tiling_.columns); ++cell) {
    position_.push_back(static_cast<uint32_t>(cell % across_.stride * phase_vectors(tiling_) + cell / across_.stride));
  }
}

size_t ConvPatches::block_vectors(const Tiling& t) const {
  const size_t rows = std::min(down_.cells(t.rows), t.rows * down_.kernel);
  return rows * std::min(row_vectors(t), across_.kernel * t.columns);
}

Plan ConvPatches::Tiling::plan() const {
  Plan plan;
  for (const size_t number : {images, down, rows, columns, team, block}) plan.push_back(static_cast<uint32_t>(number));
  return plan;
}

ConvPatches::Tiling ConvPatches::tiling(const Plan& plan) const {
  Tiling t{};
  t.images = plan[0], t.down = plan[1], t.rows = plan[2], t.columns = plan[3], t.team = plan[4], t.block = plan[5];
  t.across = lanes_.width / t.images / t.down;
  t.patch_h = ceil_div(down_.out, t.down);
  t.patch_w = ceil_div(across_.out, t.across);
  return t;
}

std::vector<Plan> ConvPatches::plans(const ConvShape& shape, const Lanes& lanes, size_t kept) {
  const ConvPatches of(shape, lanes);
  std::vector<Estimate> found;
  Tiling t{};
  const auto channels = static_cast<size_t>(shape.channels), filters = static_cast<size_t>(shape.filters);
  // Weights are sorted into places, one for each filter and block. With groups most are empty, and a depthwise layer of
  // a million channels would need terabytes of them.
  const size_t weights = filters * static_cast<size_t>(shape.group_channels() * shape.kernel_h * shape.kernel_w);
  const size_t smallest = ceil_div(channels, std::max<size_t>(std::max(kPlaces, weights) / filters, 1));
  std::optional<Grid> given;
  if (shape.arranged()) given.emplace(lanes.width, shape.images, shape.out_height(), shape.out_width());
  for (t.images = 1; t.images <= std::min(lanes.width, static_cast<size_t>(shape.images)); t.images *= 2) {
    for (t.down = 1; t.images * t.down <= lanes.width; t.down *= 2) {
      t.across = lanes.width / t.images / t.down;
      t.patch_h = ceil_div(of.down_.out, t.down);
      t.patch_w = ceil_div(of.across_.out, t.across);
      if (given && (t.images != given->images || t.down != given->down)) continue;
      const size_t most = given ? given->columns : std::min(kMaxColumns, t.patch_w);
      const size_t fewest = given ? most : std::min(kMaxColumns / 2, t.patch_w);
      for (t.rows = 1; t.rows <= std::min(kMaxRows, t.patch_h); ++t.rows) {
        for (t.columns = most; t.columns >= fewest; --t.columns) {
          t.block = std::clamp<size_t>(input_bytes() / (of.block_vectors(t) * lanes.width * sizeof(float)), smallest,
                                       channels);
          t.block = ceil_div(channels, ceil_div(channels, t.block));
          for (t.team = 0; t.team < std::size(kTeams); ++t.team) {
            if (lanes.accumulate[t.rows][t.columns][t.team]) found.emplace_back(of.cost(t, kept), t.plan());
          }
        }
      }
    }
  }
  return ranked(std::move(found));
}

// Cycles for shape_.images images, one thread. Only the order of tilings matters.
double ConvPatches::cost(const Tiling& t, size_t kept) const {
  const size_t width = lanes_.width;
  const Cycles each(lanes_);
  const double line = 3.0;  // a vector, or a piece of a row, between the image and the lanes
  const double channels = static_cast<double>(shape_.channels), filters = static_cast<double>(shape_.filters);
  const double elements = filters * static_cast<double>(shape_.group_channels() * shape_.kernel_h * shape_.kernel_w);
  const double taps = static_cast<double>(kept), across = static_cast<double>(tiles_across(t));
  const double groups = std::ceil(static_cast<double>(shape_.images) / static_cast<double>(t.images));
  const double sums = static_cast<double>(t.patch_h * t.columns) * across;  // vectors a filter, all tiles
  const double tiles = static_cast<double>(tiles_down(t)) * across;
  const double blocks = std::ceil(channels / static_cast<double>(t.block));
  const double team = static_cast<double>(kTeams[t.team]);
  const double stream =
      taps * sizeof(Tap) > 1.5e6 ? 0.06 : 0.03;  // cycles a byte of weights from beyond, from in the L2
  // Squares that are transposed, and the pieces of rows that are stored from them.
  const double squares_in =
      channels * across * static_cast<double>(down_.cells(t.patch_h) * ceil_div(across_.cells(t.columns), width));
  const double pieces_out = filters * across * static_cast<double>(t.patch_h * width);
  const double squares_out = pieces_out / static_cast<double>(width / t.columns * width);
  return groups * (taps * (sums * each.multiply(t.team, taps / elements) + tiles * (each.tap + stream * sizeof(Tap))) +
                   blocks * filters * (sums * each.spill + tiles * each.visit(t.team) / team) +
                   line * (static_cast<double>(width) * (squares_in + squares_out) + pieces_out));
}

Taps ConvPatches::pack(const Weights& weights) const {
  const size_t vector_bytes = lanes_.width * sizeof(float), channel_bytes = channel_pitch_ * sizeof(float);
  const size_t channels = static_cast<size_t>(shape_.channels);
  TapLayout layout;
  layout.rows = static_cast<size_t>(shape_.filters);
  layout.rows_per_part = part_;
  layout.blocks = ceil_div(channels, tiling_.block);
  layout.rows_per_group = static_cast<size_t>(shape_.filters / shape_.groups);
  layout.team = kTeams[tiling_.team];
  // Of what an arranged x has around it, others may need more.
  const Halo& around = shape_.reading_x.halo;
  const size_t above = shape_.arranged_x ? static_cast<size_t>(around.top - shape_.top) : 0;
  const size_t left = shape_.arranged_x ? static_cast<size_t>(around.left - shape_.left) : 0;
  for (size_t block = 0; block < layout.blocks; ++block) {
    layout.zeros.push_back(static_cast<uint32_t>((channels - block * tiling_.block) * channel_bytes));
  }
  for (int64_t group = 0; group < shape_.groups; ++group) {
    for (int64_t c = group * shape_.group_channels(); c < (group + 1) * shape_.group_channels(); ++c) {
      const size_t channel = static_cast<size_t>(c);
      for (size_t i = 0; i < down_.kernel; ++i) {
        for (size_t j = 0; j < across_.kernel; ++j) {
          const size_t cell = left + j * across_.dilation;
          const size_t offset = (above + i * down_.dilation) * row_pitch_ * sizeof(float) +
                                channel % tiling_.block * channel_bytes + position_[cell] * vector_bytes;
          layout.columns.push_back({static_cast<uint32_t>(channel / tiling_.block), static_cast<uint32_t>(offset)});
        }
      }
    }
  }
  return pack_taps(weights, layout);
}

// Where each lane's cells of row `row` of its patch come from, for the tile `tile` across of the first `images` images.
std::vector<Interleave::Lane> ConvPatches::sources(size_t row, size_t tile, size_t images) const {
  std::vector<Interleave::Lane> lanes;
  const Tiling& t = tiling_;
  const auto image = static_cast<ptrdiff_t>(shape_.channels * shape_.height * shape_.width);
  const size_t cells = position_.size();
  for (size_t i = 0; i < t.images; ++i) {
    for (size_t down = 0; down < t.down; ++down) {
      for (size_t across = 0; across < t.across; ++across) {
        const auto y = static_cast<ptrdiff_t>((down * t.patch_h * down_.stride + row) * down_.step) -
                       static_cast<ptrdiff_t>(down_.pad);
        const auto x = static_cast<ptrdiff_t>((across * t.patch_w + tile * t.columns) * across_.stride * across_.step) -
                       static_cast<ptrdiff_t>(across_.pad);
        const auto step = static_cast<ptrdiff_t>(across_.step), width = static_cast<ptrdiff_t>(across_.size);
        const auto inside = [&](ptrdiff_t pixels) {  // cells of the row that begin before pixel x + `pixels`
          return std::min(static_cast<size_t>((std::max<ptrdiff_t>(pixels, 0) + step - 1) / step), cells);
        };
        const bool exists = i < images && y >= 0 && y < static_cast<ptrdiff_t>(down_.size);
        lanes.push_back({static_cast<ptrdiff_t>(i) * image + y * width + x, exists ? inside(-x) : 0,
                         exists ? std::max(inside(-x), inside(width - x)) : 0});
      }
    }
  }
  return lanes;
}

// Where each lane's outputs of one tile go, row by row.
std::vector<Deinterleave::Lane> ConvPatches::targets(size_t row, size_t tile, size_t images) const {
  std::vector<Deinterleave::Lane> lanes;
  const Tiling& t = tiling_;
  const size_t first = tile * t.columns;
  for (size_t r = row; r < std::min(row + t.rows, t.patch_h); ++r) {
    for (size_t i = 0; i < t.images; ++i) {
      for (size_t down = 0; down < t.down; ++down) {
        for (size_t across = 0; across < t.across; ++across) {
          const size_t y = down * t.patch_h + r, x = across * t.patch_w + first;
          const size_t image = i * static_cast<size_t>(shape_.filters) * down_.out * across_.out;
          const bool exists = i < images && y < down_.out && x < across_.out;
          lanes.push_back({static_cast<ptrdiff_t>(image + y * across_.out + x),
                           exists ? std::min({t.columns, t.patch_w - first, across_.out - x}) : 0});
        }
      }
    }
  }
  return lanes;
}

void ConvPatches::run(const Epilogue& epilogue, const float* x, float* y, size_t images, Workers& workers,
                      Scratch& scratch) const {
  const Tiling& t = tiling_;
  const size_t channels = static_cast<size_t>(shape_.channels), filters = static_cast<size_t>(shape_.filters);
  const size_t image_in = channels * down_.size * across_.size;
  const size_t rows = down_.cells(t.patch_h);
  const size_t down = tiles_down(t), across = tiles_across(t), parts = ceil_div(filters, part_);
  const size_t groups = ceil_div(images, t.images);
  const size_t most = shape_.arranged_x ? groups : kGroupBytes / sizeof(float) / group_pitch_;
  const size_t together = std::clamp<size_t>(most, 1, std::max<size_t>(groups, 1));
  Scratch::Lease interleaved(scratch, shape_.arranged_x ? 0 : together * group_pitch_);
  const float* const inputs = shape_.arranged_x ? x : interleaved.data();
  const auto images_of = [&](size_t group) { return std::min(t.images, images - group * t.images); };

  for (size_t first = 0; first < groups; first += together) {
    const size_t count = std::min(together, groups - first);
    workers.each(shape_.arranged_x ? 0 : count * across * rows, [&](size_t task) {
      const size_t row = task % rows, tile = task / rows % across, group = first + task / rows / across;
      const auto lanes = sources(row, tile, images_of(group));
      float* to = interleaved.data() + (group - first) * group_pitch_ + tile * tile_pitch_ + row * row_pitch_;
      lanes_.interleave({lanes.data(), x + group * t.images * image_in, channels, down_.size * across_.size,
                         position_.size(), across_.step, position_.data(), to, channel_pitch_});
      std::fill_n(to + channels * channel_pitch_, channel_pitch_, 0.0f);
    });
    workers.each(count * parts * down * across, [&](size_t task) {
      const size_t tile = task % across, row = task / across % down * t.rows;
      const size_t part = task / across / down % parts, group = first + task / across / down / parts;
      const size_t begin = part * part_, here = std::min(part_, filters - begin);
      const size_t height = std::min(t.rows, t.patch_h - row);
      Scratch::Lease sums(scratch, here * height * t.columns * lanes_.width);
      const float* input =
          inputs + (group - first) * group_pitch_ + tile * tile_pitch_ + row * down_.stride * row_pitch_;
      Accumulate a{};
      a.row_stride = down_.stride * row_pitch_ * sizeof(float);
      a.sums = sums.data();
      a.bias = epilogue.bias ? epilogue.bias + begin : nullptr;
      for (size_t block = 0; block < taps_.blocks; ++block) {
        a.input = reinterpret_cast<const char*>(input + block * t.block * channel_pitch_);
        taps_.add(a, lanes_, height, t.columns, t.team, part, block);
      }
      const Piece piece{group, images_of(group), tile, row, height, begin, here, sums.data()};
      shape_.arranged_y ? store_arranged(piece, epilogue, y, scratch) : store(piece, epilogue, y);
    });
  }
}

// Where a piece's part of an arranged residual begins.
size_t ConvPatches::within(const ArrangedImage& image, const Halo& halo, const Piece& piece) const {
  return piece.group * image.group_pitch + piece.tile * image.tile_pitch +
         (piece.row + static_cast<size_t>(halo.top)) * image.row_pitch + piece.filter * image.channel_pitch +
         static_cast<size_t>(halo.left) * lanes_.width;
}

void ConvPatches::store(const Piece& piece, const Epilogue& epilogue, float* y) const {
  const size_t plane = down_.out * across_.out, columns = tiling_.columns;
  const size_t out = (piece.group * tiling_.images * static_cast<size_t>(shape_.filters) + piece.filter) * plane;
  Epilogue rest = epilogue;
  if (arranged_residual_) {
    const float* const residual = epilogue.residual + within(*arranged_residual_, shape_.reading_residual.halo, piece);
    for (size_t filter = 0; filter < piece.filters; ++filter) {
      for (size_t row = 0; row < piece.rows; ++row) {
        float* const sums = piece.sums + (filter * piece.rows + row) * columns * lanes_.width;
        lanes_.finish[static_cast<int>(Activation::kNone)](
            {sums, nullptr, residual + filter * arranged_residual_->channel_pitch + row * arranged_residual_->row_pitch,
             sums, columns * lanes_.width, &rest});
      }
    }
    rest.residual = nullptr;
  } else if (rest.residual) {
    rest.residual += out;
  }
  const auto lanes = targets(piece.row, piece.tile, piece.images);
  lanes_.deinterleave[static_cast<int>(rest.activation)](
      {lanes.data(), piece.sums, lanes_.width, piece.filters, piece.rows, columns, y + out, plane, &rest});
}

void ConvPatches::store_arranged(const Piece& piece, const Epilogue& epilogue, float* y, Scratch& scratch) const {
  const size_t columns = tiling_.columns, plane = down_.out * across_.out, row_floats = columns * lanes_.width;
  const ArrangedImage& image = *arranged_y_;
  Arrange a{};
  a.sums = piece.sums;
  a.channels = piece.filters, a.rows = piece.rows;
  a.columns = std::min(columns, tiling_.patch_w - piece.tile * columns), a.sums_columns = columns;
  a.y = y + piece.group * image.group_pitch + piece.filter * image.channel_pitch;
  a.y_pitch = image.channel_pitch;
  a.zeros = piece.filter + piece.filters == static_cast<size_t>(shape_.filters);
  a.first = scattering_.first() + piece.row * tiling_.patch_w + piece.tile * columns;
  a.first_pitch = tiling_.patch_w;
  a.targets = scattering_.targets();
  a.permutations = scattering_.permutations();
  a.epilogue = &epilogue;
  Scratch::Lease interleaved(scratch,
                             epilogue.residual && !arranged_residual_ ? piece.filters * piece.rows * row_floats : 0);
  if (arranged_residual_) {
    a.residual = epilogue.residual + within(*arranged_residual_, shape_.reading_residual.halo, piece);
    a.residual_row_pitch = arranged_residual_->row_pitch, a.residual_channel_pitch = arranged_residual_->channel_pitch;
  } else if (epilogue.residual) {
    const float* const from =
        epilogue.residual + (piece.group * tiling_.images * static_cast<size_t>(shape_.filters) + piece.filter) * plane;
    const auto lanes = targets(piece.row, piece.tile, piece.images);
    for (size_t row = 0; row < piece.rows; ++row) {
      std::vector<Interleave::Lane> of_row;
      for (size_t lane = 0; lane < lanes_.width; ++lane) {
        const Deinterleave::Lane& target = lanes[row * lanes_.width + lane];
        of_row.push_back({target.offset, 0, target.columns});
      }
      lanes_.interleave({of_row.data(), from, piece.filters, plane, columns, 1, ascending_.data(),
                         interleaved.data() + row * row_floats, piece.rows * row_floats});
    }
    a.residual = interleaved.data();
    a.residual_row_pitch = row_floats, a.residual_channel_pitch = piece.rows * row_floats;
  }
  lanes_.arrange[static_cast<int>(epilogue.activation)](a);
}

}  // namespace sift
