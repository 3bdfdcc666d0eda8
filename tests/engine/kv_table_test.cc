#include "src/engine/kv_table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>

namespace {

// The naive model: every sequence is a list of numbers, and pages hold numbers. Whatever a sequence's pages
// hold after the table's copies must be the list.
class Naive {
 public:
  Naive(int n_pages, int n_seqs, int page_tokens)
      : page_tokens_(page_tokens),
        table_(n_pages, n_seqs, page_tokens),
        lists_(static_cast<size_t>(n_seqs)),
        pages_(static_cast<size_t>(n_pages), std::vector<int>(static_cast<size_t>(page_tokens), -1)) {}

  bool append(int seq, int n) {
    std::vector<engine::PageCopy> copies;
    const int before = table_.length(seq), free_before = table_.free_pages();
    const int wanted = table_.pages_for(seq, n);
    CHECK(table_.free_pages() == free_before);
    if (!table_.append(seq, n, copies)) {
      CHECK(table_.length(seq) == before);
      CHECK(table_.free_pages() == free_before);
      CHECK(copies.empty());
      CHECK(wanted > free_before);
      return false;
    }
    CHECK(table_.free_pages() == free_before - wanted);
    for (const auto& copy : copies) {
      pages_[static_cast<size_t>(copy.to)] = pages_[static_cast<size_t>(copy.from)];
    }
    for (int i = 0; i < n; ++i) {
      auto& list = lists_[static_cast<size_t>(seq)];
      cell(seq, static_cast<int>(list.size())) = ++last_;
      list.push_back(last_);
    }
    return true;
  }
  void truncate(int seq, int n) {
    table_.truncate(seq, n);
    lists_[static_cast<size_t>(seq)].resize(static_cast<size_t>(n));
  }
  void fork(int from, int to, int n) {
    table_.fork(from, to, n);
    const auto& list = lists_[static_cast<size_t>(from)];
    lists_[static_cast<size_t>(to)].assign(list.begin(), list.begin() + n);
  }
  int length(int seq) const { return static_cast<int>(lists_[static_cast<size_t>(seq)].size()); }
  const engine::KvTable& table() const { return table_; }

  void check() {
    std::set<int> used;
    for (int seq = 0; seq < static_cast<int>(lists_.size()); ++seq) {
      const auto& list = lists_[static_cast<size_t>(seq)];
      REQUIRE(table_.length(seq) == length(seq));
      REQUIRE(table_.pages(seq).size() == (list.size() + page_tokens_ - 1) / page_tokens_);
      for (int i = 0; i < length(seq); ++i) {
        REQUIRE(cell(seq, i) == list[static_cast<size_t>(i)]);
      }
      used.insert(table_.pages(seq).begin(), table_.pages(seq).end());
    }
    REQUIRE(table_.free_pages() + static_cast<int>(used.size()) == static_cast<int>(pages_.size()));
  }

 private:
  int& cell(int seq, int i) {
    const int page = table_.pages(seq)[static_cast<size_t>(i / page_tokens_)];
    return pages_[static_cast<size_t>(page)][static_cast<size_t>(i % page_tokens_)];
  }
  int page_tokens_, last_ = 0;
  engine::KvTable table_;
  std::vector<std::vector<int>> lists_, pages_;
};

}  // namespace

TEST_CASE("fresh tables hand out pages in order") {
  engine::KvTable table(4, 2, 128);
  std::vector<engine::PageCopy> copies;
  REQUIRE(table.append(0, 129, copies).ok());
  CHECK(std::ranges::equal(table.pages(0), std::array{0, 1}));
  CHECK(table.free_pages() == 2);
  CHECK(copies.empty());
}

TEST_CASE("a shared partial page is copied before the next write, by whoever writes first") {
  engine::KvTable table(4, 2, 128);
  std::vector<engine::PageCopy> copies;
  REQUIRE(table.append(0, 200, copies).ok());
  table.fork(0, 1, 150);
  CHECK(table.free_pages() == 2);
  REQUIRE(table.append(1, 1, copies).ok());
  REQUIRE(copies.size() == 1);
  CHECK(copies[0].from == 1);
  CHECK(copies[0].to == 2);
  copies.clear();
  REQUIRE(table.append(0, 1, copies).ok());  // alone on its page again
  CHECK(copies.empty());
  CHECK(table.free_pages() == 1);
}

TEST_CASE("a full table refuses and says what to do") {
  engine::KvTable table(2, 2, 128);
  std::vector<engine::PageCopy> copies;
  const auto refused = table.append(0, 257, copies);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.failure().next.find("--ctx-size") != std::string::npos);
  CHECK(table.append(0, 256, copies).ok());
  CHECK(table.append(0, 0, copies).ok());
}

TEST_CASE("what would fit beside others counts a page they share once, and not what is left out") {
  engine::KvTable table(6, 3, 128);
  std::vector<engine::PageCopy> copies;
  REQUIRE(table.append(0, 300, copies).ok());
  table.fork(0, 1, 200);
  REQUIRE(table.append(2, 128, copies).ok());
  const std::vector<int> shared = {0, 1}, all = {0, 1, 2};
  CHECK(table.fits_beside(6 * 128, {}));
  CHECK_FALSE(table.fits_beside(6 * 128 + 1, {}));
  CHECK(table.fits_beside(3 * 128, shared));
  CHECK_FALSE(table.fits_beside(3 * 128 + 1, shared));
  CHECK(table.fits_beside(2 * 128, all));
  CHECK_FALSE(table.fits_beside(2 * 128 + 1, all));
}

TEST_CASE("random operations agree with lists of numbers") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    constexpr int kSeqs = 4;
    Naive naive(12, kSeqs, 4);
    int refused = 0;
    for (int i = 0; i < 1000; ++i) {
      const int seq = below(kSeqs), other = below(kSeqs);
      switch (below(4)) {
        case 0:
        case 1:
          refused += naive.append(seq, below(9)) ? 0 : 1;
          break;
        case 2:
          naive.truncate(seq, below(naive.length(seq) + 1));
          break;
        default:
          if (seq != other) {
            naive.truncate(other, 0);
            naive.fork(seq, other, below(naive.length(seq) + 1));
          }
      }
      naive.check();
    }
    CHECK(refused > 0);  // the test reached the full table
  }
}
