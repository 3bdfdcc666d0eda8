#pragma once
// What Q4_0, Q4_1, Q5_0, Q5_1 and IQ4_NL share: groups of n codes of four or five bits under an fp16 scale d and, in
// some, an fp16 minimum m; value = d * integer(code) + m. The lower four bits of value i < n / 2 are the low nibble
// of byte i, those of value i + n / 2 its high one; the fifth bit of value i is bit i of n / 8 bytes.
//   weights: fp16 d, fp16 m, 4 bytes of fifth bits, 16 bytes of nibbles (n = 32), without what a format has not
//   KV page: plane of nibbles [128][head_dim / 2]; plane of fifth bits [128][head_dim / 8]; plane of fp16
//   [128][ceil(head_dim / 32)][d, m]. n = 32, or what is left in a head's last group (8, 16 or 24).
// A format says the rest in a Code, a struct with
//   kMin                    true where it has a minimum
//   kIntegers               what each code stands for: 16 int8, or 32 in a row where codes have five bits
//   quantize(x, n, codes)   the codes and scales of n <= 32 values, as ggml rounds them. A group with a NaN or an
//                           infinity is written as zeros; a scale beyond 65504 is stored as 65504

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/formats/kv_page.h"
#include "kernels/formats/parts.h"
#include "kernels/scores.h"

namespace kernels {

struct NibbleScales {
  uint16_t d = 0, m = 0;  // fp16
};

// The two usual ways to round. Codes from 0 to 2 * half - 1 with zero at `half`, where the value of largest
// magnitude becomes code 0:
NibbleScales round_about_zero(const float* x, int n, int half, uint8_t* codes);
// Codes from 0, the least value, to `most`, the largest:
NibbleScales round_above_least(const float* x, int n, int most, uint8_t* codes);

// first, first + 1, ...
template <size_t kCount>
constexpr std::array<int8_t, kCount> integers_from(int first) {
  std::array<int8_t, kCount> integers{};
  for (size_t i = 0; i < kCount; ++i) {
    integers[i] = static_cast<int8_t>(first + static_cast<int>(i));
  }
  return integers;
}

template <class Code>
inline constexpr bool kHasTop = Code::kIntegers.size() == 32;

// Writes n codes: n / 2 bytes of nibbles and, where the format has them, n / 8 bytes of fifth bits.
template <class Code>
void pack_nibbles(const uint8_t* codes, int n, uint8_t* nibbles, uint8_t* top) {
  for (int i = 0; i < n / 2; ++i) {
    nibbles[i] = static_cast<uint8_t>((codes[i] & 15) | codes[i + n / 2] << 4);
  }
  for (int i = 0; i < n && kHasTop<Code>; i += 8) {
    unsigned bits = 0;
    for (int k = 0; k < 8; ++k) {
      bits |= (codes[i + k] >> 4 & 1U) << k;
    }
    top[i / 8] = static_cast<uint8_t>(bits);
  }
}

// The integer of value i of n.
template <class Code>
int nibble_integer(const uint8_t* nibbles, const uint8_t* top, int n, int i) {
  const uint8_t byte = nibbles[i % (n / 2)];
  int code = i < n / 2 ? byte & 15 : byte >> 4;
  if constexpr (kHasTop<Code>) {
    code |= (top[i / 8] >> (i % 8) & 1) << 4;
  }
  return Code::kIntegers[static_cast<size_t>(code)];
}

// The Layout (parts.h) of such a format's weights.
template <class Code>
struct NibbleLayout {
  static constexpr int kTopAt = Code::kMin ? 4 : 2;
  static constexpr int kNibblesAt = kTopAt + (kHasTop<Code> ? 4 : 0);
  static constexpr int kBlockValues = kPart;
  static constexpr int kBlockBytes = kNibblesAt + kPart / 2;
  static constexpr int kScaleAt = 0;
  static constexpr int kMinAt = Code::kMin ? 2 : -1;
  static constexpr float kUnit = 1.0F;
  // A minimum is taken away there, m is added.
  static Multipliers multipliers(const uint8_t* /*block*/, int /*part*/) { return {{1, 1}, {-1, -1}}; }
  static void codes(const uint8_t* block, int /*part*/, int8_t* out) {
    for (int i = 0; i < kPart; ++i) {
      out[i] = static_cast<int8_t>(nibble_integer<Code>(block + kNibblesAt, block + kTopAt, kPart, i));
    }
  }
};

template <class Code>
void quantize_nibbles(const float* values, int64_t n, uint8_t* row) {
  using Layout = NibbleLayout<Code>;
  uint8_t codes[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock, row += Layout::kBlockBytes) {
    const NibbleScales scales = Code::quantize(values + begin, kBlock, codes);
    auto* block = reinterpret_cast<std::byte*>(row);
    store_unaligned(block, scales.d);
    if constexpr (Code::kMin) {
      store_unaligned(block + 2, scales.m);
    }
    pack_nibbles<Code>(codes, kBlock, row + Layout::kNibblesAt, row + Layout::kTopAt);
  }
}

// A KV page's planes, and the row of a slot in each.
template <class Code>
class NibblePage {
 public:
  struct Row {
    size_t nibbles, top, scales;  // offsets in the page
  };
  static constexpr size_t kScaleBytes = Code::kMin ? 4 : 2;  // of a group

  explicit NibblePage(int head_dim)
      : nibble_row_(static_cast<size_t>(head_dim) / 2),
        top_row_(kHasTop<Code> ? static_cast<size_t>(head_dim) / 8 : 0),
        scale_row_(kScaleBytes * static_cast<size_t>(group_count(head_dim, kBlock))),
        top_(plane_bytes(nibble_row_)),
        scales_(top_ + plane_bytes(top_row_)) {
    check_head_dim(head_dim);
  }
  size_t bytes() const { return scales_ + plane_bytes(scale_row_); }
  Row row(int slot) const {
    const auto at = static_cast<size_t>(slot);
    return {nibble_row_ * at, top_ + top_row_ * at, scales_ + scale_row_ * at};
  }

 private:
  size_t nibble_row_, top_row_, scale_row_, top_, scales_;
};

template <class Code>
void write_nibbles(const float* x, int head_dim, uint8_t* page, int slot) {
  const auto row = NibblePage<Code>(head_dim).row(slot);
  uint8_t codes[kBlock];
  for (int begin = 0; begin < head_dim; begin += kBlock) {
    const int n = std::min(kBlock, head_dim - begin);
    const NibbleScales scales = Code::quantize(x + begin, n, codes);
    pack_nibbles<Code>(codes, n, page + row.nibbles + begin / 2, page + row.top + begin / 8);
    auto* at =
        reinterpret_cast<std::byte*>(page + row.scales) + begin / kBlock * NibblePage<Code>::kScaleBytes;
    store_unaligned(at, scales.d);
    if constexpr (Code::kMin) {
      store_unaligned(at + 2, scales.m);
    }
  }
}

template <class Code>
void load_nibbles(const uint8_t* page, int head_dim, int slot0, int n_rows, float* out) {
  const NibblePage<Code> planes(head_dim);
  for (int slot = slot0; slot < slot0 + n_rows; ++slot, out += head_dim) {
    const auto row = planes.row(slot);
    for (int begin = 0; begin < head_dim; begin += kBlock) {
      const int n = std::min(kBlock, head_dim - begin);
      const uint8_t* scales = page + row.scales + begin / kBlock * NibblePage<Code>::kScaleBytes;
      const float d = f32_from_f16(u16_at(scales)), m = Code::kMin ? f32_from_f16(u16_at(scales + 2)) : 0.0F;
      for (int i = 0; i < n; ++i) {
        const int integer =
            nibble_integer<Code>(page + row.nibbles + begin / 2, page + row.top + begin / 8, n, i);
        out[begin + i] = d * static_cast<float>(integer);
        if constexpr (Code::kMin) {
          out[begin + i] += m;
        }
      }
    }
  }
}

// Of the formats with four bits and no minimum, for head_dim a multiple of 32.
template <class Code>
void score_nibbles(const std::byte* page, int head_dim, int slot0, int n, const float* query, int n_q,
                   float* scores, int score_stride) {
  static_assert(!Code::kMin && !kHasTop<Code>);
  const auto row = NibblePage<Code>(head_dim).row(slot0);
  const auto* bytes = reinterpret_cast<const uint8_t*>(page);
  ScoreRows rows{.stored = ScoreCodes::kNibbles, .tiles = false, .head_dim = head_dim};
  rows.integers = Code::kIntegers.data();
  rows.codes = bytes + row.nibbles;
  rows.scales = bytes + row.scales;
  score_rows(rows, n, query, n_q, scores, score_stride);
}

}  // namespace kernels
