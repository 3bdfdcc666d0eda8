#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/formats/formats.h"
#include "kernels/formats/rotate.h"
#include "kernels/formats/tcq.h"
#include "src/base/kv_types.h"
#include "tests/kernels/each_isa.h"
#include "tests/kernels/random_rows.h"

using namespace kernels;

namespace {

constexpr int kHeadDims[] = {8, 16, 24, 40, 64, 72, 80, 96, 128, 192, 200, 224, 256, 576};

struct Page {
  // Begins and ends where the page does, so that a sanitizer sees what reads past it.
  Page(const KvFormat& format, int head_dim)
      : storage(static_cast<std::byte*>(std::aligned_alloc(kPlaneAlign, format.page_bytes(head_dim)))),
        bytes(storage.get()) {
    std::fill_n(bytes, format.page_bytes(head_dim), std::byte{});
  }
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> storage;
  std::byte* bytes;
};

Page filled(const KvFormat& format, int head_dim, uint32_t seed) {
  Page page(format, head_dim);
  auto rows = testing::rough(static_cast<size_t>(kPageTokens) * head_dim, seed);
  std::fill_n(rows.begin() + 3 * head_dim, head_dim, 0.0F);
  for (int slot = 0; slot < kPageTokens; ++slot) {
    format.write_row(rows.data() + slot * head_dim, head_dim, page.bytes, slot);
  }
  return page;
}

// Of one row of Gaussian values, squared error over square.
double distortion_bound(std::string_view name) {
  constexpr std::pair<std::string_view, double> kBounds[] = {
      {"f32", 0.0},     {"f16", 1e-6},    {"bf16", 1e-5},   {"q8_0", 1e-4},   {"q5_1", 3e-3},
      {"q5_0", 6e-3},   {"q4_1", 0.012},  {"q4_0", 0.02},   {"iq4_nl", 0.02}, {"tbq4_0", 0.025},
      {"tbq3_0", 0.08}, {"tcq4_0", 0.02}, {"tcq3_0", 0.06},
  };
  for (const auto& [type, bound] : kBounds) {
    if (type == name) {
      return bound;
    }
  }
  FAIL("no bound is stated for ", name);
  return 0.0;
}

double square(const float* x, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; ++i) {
    sum += double{x[i]} * double{x[i]};
  }
  return sum;
}

}  // namespace

TEST_CASE("the table that studies plan with has the kernels' types, and their sizes") {
  CHECK(std::size(base::kKvTypes) == kv_formats().size());
  for (const base::KvType& type : base::kKvTypes) {
    const KvFormat* format = find_kv_format(type.name);
    CAPTURE(type.name);
    REQUIRE(format != nullptr);
    for (const int head_dim : {64, 80, 96, 128, 256}) {
      CAPTURE(head_dim);
      CHECK(format->page_bytes(head_dim) ==
            kPageTokens * base::kv_row_bytes(type, static_cast<uint64_t>(head_dim)));
    }
  }
}

TEST_CASE("page sizes are the published bytes per token") {
  const auto per_token = [](const char* name, int head_dim) {
    const size_t bytes = find_kv_format(name)->page_bytes(head_dim);
    CHECK(bytes % kPlaneAlign == 0);
    CHECK(bytes % kPageTokens == 0);
    return bytes / kPageTokens;
  };
  CHECK(per_token("f32", 128) == 512);
  CHECK(per_token("f16", 128) == 256);
  CHECK(per_token("q8_0", 128) == 136);
  CHECK(per_token("q4_0", 128) == 72);
  CHECK(per_token("bf16", 128) == 256);
  CHECK(per_token("q5_1", 128) == 96);
  CHECK(per_token("q5_0", 128) == 88);
  CHECK(per_token("q4_1", 128) == 80);
  CHECK(per_token("iq4_nl", 128) == 72);
  CHECK(per_token("q4_0", 80) == 46);  // 40 + three groups' scales
  CHECK(per_token("q5_1", 80) == 62);  // 40 + 10 + three groups' scales and minimums
  CHECK(per_token("tbq4_0", 128) == 66);
  CHECK(per_token("tbq3_0", 128) == 50);
  CHECK(per_token("tbq4_0", 64) == 34);
  CHECK(per_token("tbq3_0", 64) == 26);
  CHECK(per_token("tbq4_0", 80) == 44);   // 40 + two tiles' scales: no padding to 128
  CHECK(per_token("tbq3_0", 192) == 76);  // 72 + 4
  CHECK(per_token("tcq4_0", 128) == 66);
  CHECK(per_token("tcq3_0", 128) == 50);
  CHECK(per_token("tcq3_0", 80) == 34);  // 30 + two tiles' scales

  // MiniMax-M2.5: 62 layers, 8 KV heads of 128 (DESIGN: "Exact sizes to test").
  const auto mib = [&](size_t bytes_k, size_t bytes_v, int n_ctx) {
    return static_cast<double>((bytes_k + bytes_v) * 62 * 8 * n_ctx) / (1 << 20);
  };
  CHECK(mib(per_token("q4_0", 128), per_token("q4_0", 128), 65536) == 4464.0);
  CHECK(mib(per_token("tbq4_0", 128), per_token("tbq3_0", 128), 100096) ==
        doctest::Approx(5492.33).epsilon(1e-6));
  CHECK(mib(per_token("f16", 128), per_token("f16", 128), 16384) == 3968.0);
}

TEST_CASE("formats are found by name") {
  CHECK(kv_format_names() ==
        "f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl, tbq4_0, tbq3_0, tcq4_0, tcq3_0");
  CHECK(find_kv_format("tbq4_0")->rotated);
  CHECK(!find_kv_format("q4_0")->rotated);
  CHECK(find_kv_format("turbo4") == nullptr);
}

TEST_CASE("rotation is orthonormal and undone exactly up to rounding") {
  for (const int head_dim : kHeadDims) {
    CAPTURE(head_dim);
    const auto x = testing::rough(head_dim, head_dim);
    auto z = x;
    rotate_head(z.data(), head_dim);
    CHECK(square(z.data(), head_dim) == doctest::Approx(square(x.data(), head_dim)).epsilon(1e-6));
    CHECK(std::memcmp(z.data(), x.data(), 4 * head_dim) != 0);
    unrotate_head(z.data(), head_dim);
    for (int i = 0; i < head_dim; ++i) {
      CHECK(z[i] == doctest::Approx(x[i]).epsilon(1e-5).scale(30.0));
    }
  }
}

TEST_CASE("rotation is the published one: signs, order and tiles") {
  // Column j of the rotation of one tile is sigma[j] * (-1)^popcount(i & j) / sqrt(d).
  for (const int j : {0, 1, 5, 64, 127}) {
    std::vector<float> unit(128, 0.0F);
    unit[j] = 1.0F;
    rotate_head(unit.data(), 128);
    const float sign = unit[0] < 0.0F ? -1.0F : 1.0F;
    for (int i = 0; i < 128; ++i) {
      const float want =
          sign * ((std::popcount(static_cast<unsigned>(i & j)) & 1) != 0 ? -1.0F : 1.0F) * 0.0883883476F;
      CHECK(unit[i] == want);
    }
  }
  // The signs of the first 16 columns: a saved cache depends on them.
  std::string signs;
  for (int j = 0; j < 16; ++j) {
    std::vector<float> unit(128, 0.0F);
    unit[j] = 1.0F;
    rotate_head(unit.data(), 128);
    signs += unit[0] < 0.0F ? '-' : '+';
  }
  CHECK(signs == "+-++-++------++-");
  // 80 = 64 + 16: a value of the second tile stays there.
  std::vector<float> head(80, 0.0F);
  head[70] = 1.0F;
  rotate_head(head.data(), 80);
  for (int i = 0; i < 80; ++i) {
    CHECK((head[i] != 0.0F) == (i >= 64));
  }
}

TEST_CASE("write_row touches its slot alone and reads back close") {
  for (const KvFormat& format : kv_formats()) {
    for (const int head_dim : kHeadDims) {
      CAPTURE(format.name);
      CAPTURE(head_dim);
      Page page(format, head_dim);
      const size_t bytes = format.page_bytes(head_dim);
      std::fill_n(page.bytes, bytes, std::byte{0xa5});
      std::vector<std::vector<float>> rows;
      for (const int slot : {0, 1, 63, 127}) {
        auto before = std::vector<std::byte>(page.bytes, page.bytes + bytes);
        const auto x = testing::gaussian(head_dim, 100 * head_dim + slot);
        format.write_row(x.data(), head_dim, page.bytes, slot);
        size_t changed = 0;
        for (size_t i = 0; i < bytes; ++i) {
          changed += before[i] != page.bytes[i] ? 1 : 0;
        }
        CHECK(changed <= bytes / kPageTokens);
        std::vector<float> back(head_dim);
        format.load_rows(page.bytes, head_dim, slot, 1, back.data());
        if (format.rotated) {
          unrotate_head(back.data(), head_dim);
        }
        double error = 0.0;
        for (int i = 0; i < head_dim; ++i) {
          error += (double{back[i]} - x[i]) * (double{back[i]} - x[i]);
        }
        CHECK(error <= distortion_bound(format.name) * square(x.data(), head_dim));
        for (const auto& earlier : rows) {
          CHECK(!earlier.empty());
        }
        rows.push_back(back);
      }
      // The rows written first are still there.
      std::vector<float> first(head_dim);
      format.load_rows(page.bytes, head_dim, 0, 1, first.data());
      if (format.rotated) {
        unrotate_head(first.data(), head_dim);
      }
      CHECK(std::memcmp(first.data(), rows[0].data(), 4 * head_dim) == 0);
    }
  }
}

TEST_CASE(
    "distortion of Gaussian rows: TBQ's is that of the published centroids, TCQ's a quarter to a third "
    "less") {
  constexpr int kRows = 40 * kPageTokens;
  const auto distortion = [&](const char* name) {
    const KvFormat& format = *find_kv_format(name);
    Page page(format, 128);
    const auto x = testing::gaussian(size_t{kRows} * 128, 11);
    double sum = 0.0;
    std::vector<float> back(128);
    for (int r = 0; r < kRows; ++r) {
      const float* row = x.data() + size_t{128} * r;
      format.write_row(row, 128, page.bytes, r % kPageTokens);
      format.load_rows(page.bytes, 128, r % kPageTokens, 1, back.data());
      unrotate_head(back.data(), 128);
      double error = 0.0;
      for (int i = 0; i < 128; ++i) {
        error += (double{back[i]} - row[i]) * (double{back[i]} - row[i]);
      }
      sum += error / square(row, 128);
    }
    return sum / kRows;
  };
  const double three = distortion("tbq3_0");
  const double four = distortion("tbq4_0");
  const double trellis_three = distortion("tcq3_0");
  const double trellis_four = distortion("tcq4_0");
  MESSAGE("tbq3_0 " << three << ", tbq4_0 " << four << ", tcq3_0 " << trellis_three << ", tcq4_0 "
                    << trellis_four);
  CHECK(trellis_three >= 0.0225);
  CHECK(trellis_three <= 0.0235);
  CHECK(trellis_four >= 0.0065);
  CHECK(trellis_four <= 0.0071);
  CHECK(three >= 0.0332);
  CHECK(three <= 0.0338);
  CHECK(four >= 0.0090);
  CHECK(four <= 0.0094);
}

TEST_CASE("a trellis' stream is the one with the least error, and the same on every instruction set") {
  for (const Trellis& trellis : {kTrellis4, kTrellis3}) {
    const int states = 1 << (kTrellisWindow - trellis.bits);
    for (const int d : {8, 16, 128}) {
      for (const char* kind : {"gaussian", "spike", "constant", "alternating", "tiny"}) {
        CAPTURE(trellis.bits);
        CAPTURE(d);
        CAPTURE(kind);
        auto z = testing::gaussian(static_cast<size_t>(d), 5);  // in the rotated basis
        for (int i = 0; kind[0] != 'g' && i < d; ++i) {
          z[i] = kind[0] == 's'   ? (i == d / 2 ? 1e4F : 0.0F)
                 : kind[0] == 'c' ? -3.0F
                 : kind[0] == 'a' ? (i % 2 == 0 ? 0.5F : -0.5F)
                                  : 1e-42F;
        }
        auto x = z;
        unrotate_tile(x.data(), d);
        z = x;
        rotate_tile(z.data(), d);  // what the encoder sees
        std::vector<uint8_t> stream(static_cast<size_t>(d * trellis.bits / 8));
        const uint16_t scale = trellis_encode_tile(trellis, x.data(), d, stream.data());
        for (const std::string& isa : float_isas()) {
          REQUIRE(force_float_isa(isa));
          std::vector<uint8_t> again(stream.size(), 0xff);
          CHECK(trellis_encode_tile(trellis, x.data(), d, again.data()) == scale);
          CHECK(again == stream);
        }
        force_float_isa("");
        if (kind[0] == 't') {
          CHECK(scale == 0);
          CHECK(stream == std::vector<uint8_t>(stream.size()));
          continue;
        }
        // The least error of any stream, against values rounded as the encoder's: half units.
        const double to_grid = 2.0 * trellis.unit * std::sqrt(d / square(z.data(), d));
        std::vector<double> cost(static_cast<size_t>(states), HUGE_VAL);
        cost[0] = 0.0;
        double got = 0.0;
        for (int i = 0; i < d; ++i) {
          const double u = std::nearbyint(z[i] * static_cast<float>(to_grid));
          std::vector<double> next(cost.size(), HUGE_VAL);
          for (int window = 0; window < kTrellisSize; ++window) {
            const double error = u - 2.0 * trellis.integers[window];
            double& least = next[static_cast<size_t>(window >> trellis.bits)];
            least = std::min(least, cost[static_cast<size_t>(window % states)] + error * error);
          }
          cost = next;
          const double error = u - 2.0 * trellis.integers[trellis_window(stream.data(), trellis.bits, i)];
          got += error * error;
        }
        CHECK(got == *std::min_element(cost.begin(), cost.end()));
      }
    }
  }
}

TEST_CASE("quantized rows stay finite whatever is written") {
  for (const KvFormat& format : kv_formats()) {
    if (format.name == "f32") {
      continue;
    }
    for (const int head_dim : {64, 80, 128}) {
      CAPTURE(format.name);
      Page page(format, head_dim);
      std::vector<float> back(head_dim);
      for (const float value : {0.0F, 1e-45F, 1e-30F, 3e38F, -3.4e38F, 65504.0F, 1e9F}) {
        CAPTURE(value);
        std::vector<float> x(head_dim, 0.0F);
        x[head_dim / 2] = value;
        x[0] = value;
        format.write_row(x.data(), head_dim, page.bytes, 5);
        format.load_rows(page.bytes, head_dim, 5, 1, back.data());
        for (const float got : back) {
          CHECK(std::isfinite(got));
          CHECK((value != 0.0F || got == 0.0F));
        }
      }
      if (format.group_values == 0) {
        continue;  // keeps a NaN: nothing is hidden
      }
      for (const float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
        std::vector<float> x(head_dim, 1.0F);
        x[1] = value;
        format.write_row(x.data(), head_dim, page.bytes, 5);
        format.load_rows(page.bytes, head_dim, 5, 1, back.data());
        for (int i = 0; i < 8; ++i) {
          CHECK(back[i] == 0.0F);
        }
      }
    }
  }
}

TEST_CASE("score and accumulate equal the definition over load_rows") {
  testing::each_isa([] {
    for (const KvFormat& format : kv_formats()) {
      for (const int head_dim : kHeadDims) {
        CAPTURE(format.name);
        CAPTURE(head_dim);
        const Page page = filled(format, head_dim, 17 + head_dim);
        const auto rows = [&] {
          std::vector<float> all(static_cast<size_t>(kPageTokens) * head_dim);
          format.load_rows(page.bytes, head_dim, 0, kPageTokens, all.data());
          return all;
        }();
        for (const int n_q : {1, 2, 3, 4, 5, 6, 8, 13}) {
          const auto query = testing::rough(static_cast<size_t>(n_q) * head_dim, 3 + n_q);
          const auto weights = testing::gaussian(static_cast<size_t>(n_q) * kPageTokens, 5 + n_q);
          std::vector<float> whole(static_cast<size_t>(n_q) * kPageTokens);
          format.score(page.bytes, head_dim, 0, kPageTokens, query.data(), n_q, whole.data(), kPageTokens);
          for (int q = 0; q < n_q; ++q) {
            for (int t = 0; t < kPageTokens; ++t) {
              double want = 0.0;
              double size = 0.0;
              for (int i = 0; i < head_dim; ++i) {
                const double term = double{query[q * head_dim + i]} * rows[t * head_dim + i];
                want += term;
                size += std::fabs(term);
              }
              REQUIRE(std::fabs(whole[q * kPageTokens + t] - want) <= 1e-6 * size);
            }
          }
          std::vector<float> acc(static_cast<size_t>(n_q) * head_dim, 0.5F);
          format.accumulate(page.bytes, head_dim, 0, kPageTokens, weights.data(), kPageTokens, n_q,
                            acc.data());
          for (int q = 0; q < n_q; ++q) {
            for (int i = 0; i < head_dim; ++i) {
              double want = 0.5;
              double size = 0.5;
              for (int t = 0; t < kPageTokens; ++t) {
                const double term = double{weights[q * kPageTokens + t]} * rows[t * head_dim + i];
                want += term;
                size += std::fabs(term);
              }
              REQUIRE(std::fabs(acc[q * head_dim + i] - want) <= 2e-6 * size);
            }
          }

          // Any split of rows and queries gives the same bits, and nothing outside the answer is written.
          std::vector<float> parts(static_cast<size_t>(n_q) * 131, -7.0F);
          std::vector<float> acc_parts(static_cast<size_t>(n_q) * head_dim, 0.5F);
          for (const auto& [slot0, n] : {std::pair{0, 1}, {1, 5}, {6, 2}, {8, 51}, {59, 3}, {62, 66}}) {
            for (int q0 = 0; q0 < n_q; q0 += 3) {
              const int n_part = std::min(3, n_q - q0);
              format.score(page.bytes, head_dim, slot0, n, query.data() + q0 * head_dim, n_part,
                           parts.data() + q0 * 131 + slot0, 131);
              format.accumulate(page.bytes, head_dim, slot0, n, weights.data() + q0 * kPageTokens + slot0,
                                kPageTokens, n_part, acc_parts.data() + q0 * head_dim);
            }
          }
          for (int q = 0; q < n_q; ++q) {
            REQUIRE(std::memcmp(parts.data() + q * 131, whole.data() + q * kPageTokens, 4 * kPageTokens) ==
                    0);
            for (int t = kPageTokens; t < 131; ++t) {
              REQUIRE(parts[q * 131 + t] == -7.0F);
            }
          }
          REQUIRE(std::memcmp(acc.data(), acc_parts.data(), 4 * acc.size()) == 0);
        }
      }
    }
  });
}

TEST_CASE("zero rows in, zero calls: n = 0 changes nothing") {
  testing::each_isa([] {
    for (const KvFormat& format : kv_formats()) {
      const Page page = filled(format, 64, 1);
      float scores[4] = {1.0F, 2.0F, 3.0F, 4.0F};
      std::vector<float> query(64, 1.0F);
      std::vector<float> acc(64, 2.0F);
      format.score(page.bytes, 64, 10, 0, query.data(), 1, scores, 4);
      format.accumulate(page.bytes, 64, 10, 0, query.data(), 64, 1, acc.data());
      CHECK(scores[0] == 1.0F);
      CHECK(acc == std::vector<float>(64, 2.0F));
    }
  });
}

TEST_CASE("a row is stored as the same bytes on every instruction set") {
  for (const KvFormat& format : kv_formats()) {
    for (const int head_dim : kHeadDims) {
      CAPTURE(format.name);
      CAPTURE(head_dim);
      std::vector<std::byte> first;
      testing::each_isa([&] {
        const Page page = filled(format, head_dim, 5);
        const std::vector<std::byte> bytes(page.bytes, page.bytes + format.page_bytes(head_dim));
        if (first.empty()) {
          first = bytes;
        }
        REQUIRE(bytes == first);
      });
    }
  }
}
