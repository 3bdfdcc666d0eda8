#include "kernels/formats/rotate.h"

#include <array>
#include <cstdint>

#include "kernels/formats/formats.h"
#include "kernels/formats/kv_page.h"
#include "src/base/check.h"

namespace kernels {
namespace {

constexpr uint64_t splitmix64(uint64_t& state) {
  state += 0x9e3779b97f4a7c15U;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

constexpr std::array<float, kMaxTile> make_sigma() {
  std::array<float, kMaxTile> sigma{};
  uint64_t state = 0x5442515f5349474dU;
  for (int word = 0; word < kMaxTile / 64; ++word) {
    const uint64_t bits = splitmix64(state);
    for (int bit = 0; bit < 64; ++bit) {
      sigma[64 * word + bit] = (bits >> bit & 1) != 0 ? -1.0F : 1.0F;
    }
  }
  return sigma;
}

constexpr std::array<float, kMaxTile> kSigma = make_sigma();
// 1 / sqrt(2^i)
constexpr std::array<float, 8> kInverseRoot = {1.0F,  0.70710678F,  0.5F,   0.35355339F,
                                               0.25F, 0.176776695F, 0.125F, 0.0883883476F};

void butterfly(float* tile, int d) {
  for (int stride = 1; stride < d; stride *= 2) {
    for (int begin = 0; begin < d; begin += 2 * stride) {
      for (int i = begin; i < begin + stride; ++i) {
        const float a = tile[i];
        const float b = tile[i + stride];
        tile[i] = a + b;
        tile[i + stride] = a - b;
      }
    }
  }
}

}  // namespace

void rotate_tile(float* tile, int d) {
  for (int i = 0; i < d; ++i) {
    tile[i] *= kSigma[i];
  }
  butterfly(tile, d);
  const float norm = kInverseRoot[std::countr_zero(static_cast<unsigned>(d))];
  for (int i = 0; i < d; ++i) {
    tile[i] *= norm;
  }
}

void unrotate_tile(float* tile, int d) {
  butterfly(tile, d);
  const float norm = kInverseRoot[std::countr_zero(static_cast<unsigned>(d))];
  for (int i = 0; i < d; ++i) {
    tile[i] *= norm * kSigma[i];
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
