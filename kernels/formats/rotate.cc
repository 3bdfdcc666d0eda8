#include "kernels/formats/rotate.h"

#include <array>
#include <cstdint>

#include "kernels/formats/formats.h"
#include "kernels/formats/kv_page.h"
#include "src/base/check.h"

namespace kernels {
namespace {

constexpr std::array<float, kMaxTile> make_sigma() {
  std::array<float, kMaxTile> sigma{};
  for (int word = 0; word < kMaxTile / 64; ++word) {
    const uint64_t bits = kSigmaWords[word];
    for (int bit = 0; bit < 64; ++bit) {
      sigma[64 * word + bit] = (bits >> bit & 1) != 0 ? -1.0F : 1.0F;
    }
  }
  return sigma;
}

constexpr std::array<float, kMaxTile> kSigma = make_sigma();

// Strides and tile sizes are template arguments so that the compiler sees whole vectors.
template <int kStride, int kTile>
void stages(float* tile) {
  if constexpr (kStride < kTile) {
    for (int begin = 0; begin < kTile; begin += 2 * kStride) {
      for (int i = begin; i < begin + kStride; ++i) {
        const float a = tile[i];
        const float b = tile[i + kStride];
        tile[i] = a + b;
        tile[i + kStride] = a - b;
      }
    }
    stages<2 * kStride, kTile>(tile);
  }
}

template <int kTile>
void butterfly(float* tile) {
  // Strides 1 and 2 together, four values at a time.
  for (int i = 0; i < kTile; i += 4) {
    const float a = tile[i] + tile[i + 1];
    const float b = tile[i] - tile[i + 1];
    const float c = tile[i + 2] + tile[i + 3];
    const float d = tile[i + 2] - tile[i + 3];
    tile[i] = a + c;
    tile[i + 1] = b + d;
    tile[i + 2] = a - c;
    tile[i + 3] = b - d;
  }
  stages<4, kTile>(tile);
}

template <int kTile>
void rotate(float* tile) {
  for (int i = 0; i < kTile; ++i) {
    tile[i] *= kSigma[i];
  }
  butterfly<kTile>(tile);
  for (int i = 0; i < kTile; ++i) {
    tile[i] *= kInverseRoot[std::countr_zero(static_cast<unsigned>(kTile))];
  }
}

template <int kTile>
void unrotate(float* tile) {
  butterfly<kTile>(tile);
  for (int i = 0; i < kTile; ++i) {
    tile[i] *= kInverseRoot[std::countr_zero(static_cast<unsigned>(kTile))] * kSigma[i];
  }
}

}  // namespace

void rotate_tile(float* tile, int d) {
  switch (d) {
    case 8:
      return rotate<8>(tile);
    case 16:
      return rotate<16>(tile);
    case 32:
      return rotate<32>(tile);
    case 64:
      return rotate<64>(tile);
    case 128:
      return rotate<128>(tile);
    default:
      AR_CHECK(false, "a tile is a power of two from 8 to 128");
  }
}

void unrotate_tile(float* tile, int d) {
  switch (d) {
    case 8:
      return unrotate<8>(tile);
    case 16:
      return unrotate<16>(tile);
    case 32:
      return unrotate<32>(tile);
    case 64:
      return unrotate<64>(tile);
    case 128:
      return unrotate<128>(tile);
    default:
      AR_CHECK(false, "a tile is a power of two from 8 to 128");
  }
}

void rotate_head(float* head, int head_dim) {
  AR_CHECK(head_dim >= 8 && head_dim % 8 == 0, "head_dim must be a multiple of 8");
  for (int begin = 0; begin < head_dim; begin += tile_at(begin, head_dim)) {
    rotate_tile(head + begin, tile_at(begin, head_dim));
  }
}

void unrotate_head(float* head, int head_dim) {
  AR_CHECK(head_dim >= 8 && head_dim % 8 == 0, "head_dim must be a multiple of 8");
  for (int begin = 0; begin < head_dim; begin += tile_at(begin, head_dim)) {
    unrotate_tile(head + begin, tile_at(begin, head_dim));
  }
}

}  // namespace kernels
