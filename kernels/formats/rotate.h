#pragma once
// The rotation of TBQ, one definition for keys, values, queries and outputs: per power-of-two tile of d
// values
//   z = H(sigma * x),  x = sigma * H(z)
// with H the orthonormal Walsh-Hadamard butterfly (its own inverse) and sigma a fixed vector of signs.
// sigma[i] is negative where bit i % 64 of word i / 64 is set; the words are the first two outputs of
// splitmix64 seeded with 0x5442515f5349474d ("TBQ_SIGM"). Stages run at stride 1, 2, 4, ...: additions only,
// so that every instruction set gives the same bits. rotate_head / unrotate_head (formats.h) walk a head's
// tiles.

#include <array>
#include <cstdint>

namespace kernels {

inline constexpr uint64_t splitmix64(uint64_t& state) {
  state += 0x9e3779b97f4a7c15U;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}
inline constexpr std::array<uint64_t, 2> kSigmaWords = [] {
  uint64_t state = 0x5442515f5349474dU;
  const uint64_t first = splitmix64(state);
  return std::array<uint64_t, 2>{first, splitmix64(state)};
}();
// 1 / sqrt(2^i)
inline constexpr std::array<float, 8> kInverseRoot = {1.0F,  0.70710678F,  0.5F,   0.35355339F,
                                                      0.25F, 0.176776695F, 0.125F, 0.0883883476F};

// One tile, in place. d is a power of two, 8 to 128.
void rotate_tile(float* tile, int d);
void unrotate_tile(float* tile, int d);

}  // namespace kernels
