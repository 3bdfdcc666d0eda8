#pragma once
// The rotation of TBQ, one definition for keys, values, queries and outputs: per power-of-two tile of d
// values
//   z = H(sigma * x),  x = sigma * H(z)
// with H the orthonormal Walsh-Hadamard butterfly (its own inverse) and sigma a fixed vector of signs.
// sigma[i] is negative where bit i % 64 of word i / 64 is set; the words are the first two outputs of
// splitmix64 seeded with 0x5442515f5349474d ("TBQ_SIGM"). Stages run at stride 1, 2, 4, ...: additions only,
// so that every instruction set gives the same bits. rotate_head / unrotate_head (formats.h) walk a head's
// tiles.

namespace kernels {

// One tile, in place. d is a power of two, 8 to 128.
void rotate_tile(float* tile, int d);
void unrotate_tile(float* tile, int d);

}  // namespace kernels
