#include "kernels/scores.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/dots.h"
#include "tests/kernels/each_isa.h"
#include "tests/kernels/random_rows.h"

using namespace kernels;

namespace {

// 80 and 200 are no whole units: there the exact scores stand in.
constexpr int kHeadDims[] = {32, 64, 80, 96, 128, 160, 192, 200, 224, 256, 576};

struct Page {
  // Begins and ends where the page does, so that a sanitizer sees what reads past it.
  Page(const KvFormat& format, int head_dim, uint32_t seed)
      : storage(static_cast<std::byte*>(std::aligned_alloc(kPlaneAlign, format.page_bytes(head_dim)))),
        bytes(storage.get()),
        rows(size_t{kPageTokens} * head_dim) {
    std::fill_n(bytes, format.page_bytes(head_dim), std::byte{});
    auto x = testing::rough(rows.size(), seed);
    std::fill_n(x.begin() + 3 * head_dim, head_dim, 0.0F);
    for (int slot = 0; slot < kPageTokens; ++slot) {
      format.write_row(x.data() + slot * head_dim, head_dim, bytes, slot);
    }
    format.load_rows(bytes, head_dim, 0, kPageTokens, rows.data());
  }
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> storage;
  std::byte* bytes;
  std::vector<float> rows;
};

std::vector<float> scores_of(const KvFormat& format, const Page& page, int head_dim, int n_q,
                             const std::vector<float>& query) {
  std::vector<float> scores(static_cast<size_t>(n_q) * kPageTokens);
  format.score_rounded(page.bytes, head_dim, 0, kPageTokens, query.data(), n_q, scores.data(), kPageTokens);
  return scores;
}

// Every query value is at most half a step from where it was rounded to; a step is the 127th part of the largest value
// that it is rounded with.
double rounding_bound(const KvFormat& format, const float* query, const float* row, int head_dim) {
  const int block = format.rotated ? 128 : 32;
  double bound = 0.0;
  for (int begin = 0; begin < head_dim; begin += block) {
    float most = 0.0F;
    double sizes = 0.0;
    for (int i = begin; i < std::min(begin + block, head_dim); ++i) {
      most = std::max(most, std::fabs(query[i]));
      sizes += std::fabs(row[i]);
    }
    bound += most / 254.0 * sizes;
  }
  return bound;
}

template <class Body>
void each_format(const Body& body) {
  int n = 0;
  for (const KvFormat& format : kv_formats()) {
    if (format.score_rounded != nullptr) {
      CAPTURE(format.name);
      body(format);
      ++n;
    }
  }
  CHECK(n == 6);  // q4_0, iq4_nl, TBQ and TCQ
}

}  // namespace

TEST_CASE("rounded scores are within half a step, and the same bits on every instruction set") {
  each_format([](const KvFormat& format) {
    for (const int head_dim : kHeadDims) {
      CAPTURE(head_dim);
      const Page page(format, head_dim, 17 + head_dim);
      for (const int n_q : {1, 2, 3, 4, 6, 13, 35}) {
        const auto query = testing::rough(static_cast<size_t>(n_q) * head_dim, 3 + n_q);
        REQUIRE(force_dots_isa("scalar"));
        const auto want = scores_of(format, page, head_dim, n_q, query);
        for (int q = 0; q < n_q; ++q) {
          const float* x = query.data() + q * head_dim;
          for (int t = 0; t < kPageTokens; ++t) {
            const float* row = page.rows.data() + t * head_dim;
            double exact = 0.0, size = 0.0;
            for (int i = 0; i < head_dim; ++i) {
              exact += double{x[i]} * double{row[i]};
              size += std::fabs(double{x[i]} * double{row[i]});
            }
            REQUIRE(std::fabs(want[q * kPageTokens + t] - exact) <=
                    1.001 * rounding_bound(format, x, row, head_dim) + 1e-6 * size);
          }
        }
        for (const std::string& isa : dots_isas()) {
          CAPTURE(isa);
          REQUIRE(force_dots_isa(isa));
          REQUIRE(scores_of(format, page, head_dim, n_q, query) == want);
          // Any split of rows and queries too, and nothing outside the answer is written.
          std::vector<float> parts(static_cast<size_t>(n_q) * 131, -7.0F);
          constexpr int kSplits[][2] = {{0, 1}, {1, 5}, {6, 2}, {8, 51}, {59, 4}, {63, 65}, {9, 0}};
          for (const auto& split : kSplits) {
            for (int q0 = 0; q0 < n_q; q0 += 3) {
              format.score_rounded(page.bytes, head_dim, split[0], split[1], query.data() + q0 * head_dim,
                                   std::min(3, n_q - q0), parts.data() + q0 * 131 + split[0], 131);
            }
          }
          for (int q = 0; q < n_q; ++q) {
            REQUIRE(std::memcmp(parts.data() + q * 131, want.data() + q * kPageTokens, 4 * kPageTokens) == 0);
            REQUIRE(std::count(parts.begin() + q * 131 + kPageTokens, parts.begin() + (q + 1) * 131, -7.0F) ==
                    131 - kPageTokens);
          }
        }
      }
    }
  });
  REQUIRE(force_dots_isa(""));
}

TEST_CASE("queries are rounded to the same codes whatever the floats run on") {
  each_format([](const KvFormat& format) {
    const Page page(format, 192, 1);
    const auto query = testing::rough(5 * 192, 8);
    const auto want = scores_of(format, page, 192, 5, query);
    testing::each_isa([&] { REQUIRE(scores_of(format, page, 192, 5, query) == want); });
  });
}

TEST_CASE("a query that is no number scores none, a tiny one zero; others beside it are as ever") {
  each_format([](const KvFormat& format) {
    const Page page(format, 128, 2);
    for (const std::string& isa : dots_isas()) {
      CAPTURE(isa);
      REQUIRE(force_dots_isa(isa));
      auto query = testing::rough(4 * 128, 9);
      const auto before = scores_of(format, page, 128, 4, query);
      query[128 + 77] = std::numeric_limits<float>::quiet_NaN();
      query[2 * 128 + 5] = std::numeric_limits<float>::infinity();
      std::fill_n(query.begin() + 3 * 128, 128, 1e-35F);
      const auto after = scores_of(format, page, 128, 4, query);
      for (int t = 0; t < kPageTokens; ++t) {
        REQUIRE(after[t] == before[t]);
        REQUIRE(std::isnan(after[kPageTokens + t]));
        REQUIRE(std::isnan(after[2 * kPageTokens + t]));
        REQUIRE(after[3 * kPageTokens + t] == 0.0F);
      }
    }
    REQUIRE(force_dots_isa(""));
  });
}
