#pragma once
// What TCQ4_0 and TCQ3_0 share: trellis-coded quantization of a rotated tile, at the bytes of TBQ4_0 and TBQ3_0 with a
// quarter to a third less error. (The idea: Marcellin and Fischer 1990; as a shift register, so that values are read in
// any order: QTIP, arXiv 2406.11235.)
//
// A tile is a stream of b bits for each value, lowest first. A value is read off a window of six bits: its own b and the
// 6 - b before them (zeros before the tile), value i of a tile from bits [b * i + b - 6, b * i + b). So its neighbour
// chooses which 2^b of 64 integers a value may be, and the encoder finds the stream with the least error (Viterbi).
// The rest is as in tbq.h: z = rotated tile, u = z * sqrt(d) / ||z||, scale = <z, c> / <c, c>; a tile with a NaN or
// an infinity, and one too small for an fp16 scale, is stored as zeros; a scale over 65504 is stored as 65504.

#include <array>
#include <cstddef>
#include <cstdint>

namespace kernels {

inline constexpr int kTrellisWindow = 6;
inline constexpr int kTrellisSize = 1 << kTrellisWindow;

struct Trellis {
  int bits;
  const int8_t* integers;  // [kTrellisSize], by window
  float unit;              // of the integers: they stand for values of N(0, 1) times this
};

// Found by the iteration of bench/trellis_codebook_main.cc; other beginnings end within a few percent. Through the real
// write path at d = 128 the squared error is .0067-.0070 and .0228-.0233 of the square (TBQ: .0090-.0094, .0332-.0338).
// clang-format off
alignas(64) inline constexpr std::array<int8_t, kTrellisSize> kTrellis4Integers = {
    74, 4, 98, -25, 11, -42, -8, 50, -15, 18, 24, -80, 118, -100, 40, 1,
    -50, -56, 1, 78, -31, -21, 51, -18, 41, -11, -39, 9, -69, 26, -27, -5,
    -87, 58, -17, 25, 3, 11, 17, 38, 31, -31, -62, 65, -7, -3, 8, -12,
    -39, 34, -121, 15, -23, -74, 31, -60, 20, 45, 66, -34, 56, 86, -50, -46,
};
alignas(64) inline constexpr std::array<int8_t, kTrellisSize> kTrellis3Integers = {
    -37, -14, -44, 47, 20, -66, 0, 69, 80, 2, -65, -53, -27, 17, 122, -8,
    54, 36, 67, 5, -74, -22, 42, 25, 34, -33, 13, -93, -8, 93, -57, -23,
    -93, -71, -7, 80, -48, 51, -32, 10, 17, 61, 37, 26, 5, -4, -18, -45,
    -14, -51, 100, -31, 60, 33, 15, -80, 1, 20, -25, -13, 35, -42, -121, 47,
};
// clang-format on
inline constexpr Trellis kTrellis4 = {4, kTrellis4Integers.data(), 38.9F};
inline constexpr Trellis kTrellis3 = {3, kTrellis3Integers.data(), 43.1F};

// The window of value i of the tile whose stream begins at `tile`.
inline int trellis_window(const uint8_t* tile, int bits, int i) {
  const int at = bits * i + bits - kTrellisWindow;
  if (at < 0) {
    return tile[0] << -at & (kTrellisSize - 1);
  }
  const int low = tile[at / 8] >> (at % 8);
  const int high = at % 8 > 8 - kTrellisWindow ? tile[at / 8 + 1] << (8 - at % 8) : 0;
  return (low | high) & (kTrellisSize - 1);
}

// Where 16 windows are that are read together: those of a block's values, in the 16 bytes from the one before the block
// on. A tile's first block has none before it: the bytes are then those from the block on, and what would be before them
// is the index 255, which a shuffle makes a zero.
template <int kBits>
struct TrellisSpread {
  // The two bytes that window j lies in, and the factor that moves it to the top of their 16 bits.
  alignas(64) uint8_t next[32] = {}, first[32] = {};
  alignas(32) uint16_t factors[16] = {};
  // The same two bytes under two zeros, and the shift that moves it to the bottom of these 32 bits.
  alignas(64) uint8_t wide_next[64] = {}, wide_first[64] = {};
  alignas(64) int32_t shifts[16] = {};

  constexpr TrellisSpread() {
    for (int j = 0; j < 16; ++j) {
      const int at = 8 + kBits * (j + 1) - kTrellisWindow;  // in bits, from the byte before the block
      for (int i = 0; i < 2; ++i) {
        next[2 * j + i] = wide_next[4 * j + i] = static_cast<uint8_t>(at / 8 + i);
        first[2 * j + i] = wide_first[4 * j + i] = static_cast<uint8_t>(at / 8 + i - 1);
        wide_next[4 * j + 2 + i] = wide_first[4 * j + 2 + i] = 255;
      }
      factors[j] = static_cast<uint16_t>(1 << (16 - kTrellisWindow - at % 8));
      shifts[j] = at % 8;
    }
  }
};
template <int kBits>
inline constexpr TrellisSpread<kBits> kTrellisSpread;

// x: d values of an unrotated tile, d a power of two from 8 to 128. Writes the stream, d * bits / 8 bytes; returns the
// fp16 scale.
uint16_t trellis_encode_tile(const Trellis& trellis, const float* x, int d, uint8_t* stream);

// A page is a plane of streams [128][head_dim * bits / 8], tiles one after the other, then a plane of fp16 [128][tiles].
// As KvFormat's functions:
size_t trellis_page_bytes(const Trellis& trellis, int head_dim);
size_t trellis_scale_plane(const Trellis& trellis, int head_dim);
void trellis_write_row(const Trellis& trellis, const float* x, int head_dim, std::byte* page, int slot);
void trellis_load_rows(const Trellis& trellis, const std::byte* page, int head_dim, int slot0, int n,
                       float* out);
// For a head_dim that is a multiple of 32.
void trellis_score_rounded(const Trellis& trellis, const std::byte* page, int head_dim, int slot0, int n,
                           const float* query, int n_q, float* scores, int score_stride);

}  // namespace kernels
