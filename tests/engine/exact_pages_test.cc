// The copies of sink and tail in f16: which are there, through rollbacks and forks, and what they take.

#include "src/engine/exact_pages.h"

#include <algorithm>
#include <map>
#include <random>
#include <utility>

#include "tests/engine/fixtures.h"

using engine::ExactPages;
using engine::ExactPlan;
using engine::ExactRows;

namespace {

constexpr int kPage = 128, kSeqPages = 24, kSeqs = 3, kUbatch = 300;

// Sequences of rows with a number each, and the copies' memory as a backend fills it.
struct Simulation {
  explicit Simulation(const ExactPlan& of) : plan(of), pages(of, kPage, kSeqs), rows(kSeqs) {}

  int& held(int seq, const ExactRows& at, int row) {
    const int page = row / kPage, slot = row % kPage;
    return page <= at.stays ? kept[{plan.slot(seq, page), slot}]
                            : step[{at.step0 + page - at.stays - 1, slot}];
  }
  // Appends n rows and says how many rows that a query was to read from the copies hold another's.
  int append(int seq, int n, int& step_pages) {
    auto& of = rows[static_cast<size_t>(seq)];
    const int n_past = static_cast<int>(of.size());
    const ExactRows at = pages.append(seq, n_past, n, step_pages);
    CHECK(step_pages <= plan.step_pages);
    for (int i = 0; i < n; ++i) {
      of.push_back(++counter);
      if (plan.copies((n_past + i) / kPage)) {
        held(seq, at, n_past + i) = counter;
      }
    }
    int n_wrong = 0;
    missed = 0;
    for (int row = n_past; row < n_past + n; ++row) {
      const int tail = plan.tail_page(row + 1, kPage);
      for (int page = 0; page <= row / kPage; ++page) {
        const bool wanted = page < plan.sink_pages || page >= tail;
        const bool there = page < at.sink || (page >= at.from && page >= tail);
        missed += wanted && !there;
        for (int t = page * kPage; there && t <= row && t < (page + 1) * kPage;
             t += page == row / kPage ? 1 : 31) {
          n_wrong += held(seq, at, t) != of[static_cast<size_t>(t)];
        }
      }
    }
    const int last = (n_past + n - 1) / kPage;
    for (int page = plan.tail == 0 ? last + 1 : std::max(at.stays, last - plan.ring_pages) + 1; page <= last;
         ++page) {
      for (int slot = 0; slot < kPage; ++slot) {
        kept[{plan.slot(seq, page), slot}] = held(seq, at, page * kPage + slot);
      }
    }
    return n_wrong;
  }
  void truncate(int seq, int n) {
    pages.truncate(seq, n);
    rows[static_cast<size_t>(seq)].resize(static_cast<size_t>(n));
  }
  void fork(int from, int to, int n) {
    for (const engine::PageCopy& copy : pages.fork(from, to, n)) {
      for (int slot = 0; slot < kPage; ++slot) {
        kept[{copy.to, slot}] = kept[{copy.from, slot}];
      }
    }
    const auto& of = rows[static_cast<size_t>(from)];
    rows[static_cast<size_t>(to)].assign(of.begin(), of.begin() + n);
  }

  ExactPlan plan;
  ExactPages pages;
  std::vector<std::vector<int>> rows;
  std::map<std::pair<int, int>, int> kept, step;
  int counter = 0, missed = 0;
};

engine::ContextOptions options(const std::string& k, const std::string& v, int sink, int tail,
                               int n_ubatch = 512, int n_threads = 1) {
  engine::ContextOptions chosen;
  chosen.n_ctx = 1024;
  chosen.cache_type_k = k;
  chosen.cache_type_v = v;
  chosen.kv_sink = sink;
  chosen.kv_tail = tail;
  chosen.n_ubatch = n_ubatch;
  chosen.n_threads = n_threads;
  return chosen;
}

std::shared_ptr<const engine::Model> tiny() {
  return fixtures::load(AR_SOURCE_DIR "/tests/data/tiny.gguf");
}

}  // namespace

TEST_CASE("copies: what may be read is there, whatever was appended, taken back and forked") {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (const auto& knobs : {std::pair{0, 1}, {0, 128}, {4, 0}, {200, 130}, {1, 700}, {0, 3072}}) {
    Simulation all(engine::plan_exact(knobs.first, knobs.second, kPage, kSeqPages, kSeqs, kUbatch));
    CAPTURE(all.plan.tail);
    CAPTURE(all.plan.sink_pages);
    int n_wrong = 0, n_missed_near = 0, n_missed_far = 0;
    std::vector<int> since_far(kSeqs, 1 << 20);  // rows since more was taken back than is stated
    for (int round = 0; round < 250; ++round) {
      int step_pages = 0, room = kUbatch;
      for (int seq = 0; seq < kSeqs; ++seq) {
        const int length = static_cast<int>(all.rows[static_cast<size_t>(seq)].size());
        const int n = std::min({1 + below(below(3) == 0 ? kUbatch : 9), room, kSeqPages * kPage - length});
        if (n > 0 && below(4) > 0) {
          n_wrong += all.append(seq, n, step_pages);
          int& since = since_far[static_cast<size_t>(seq)];
          (since >= all.plan.tail + kPage ? n_missed_near : n_missed_far) += all.missed;
          room -= n;
          const int wrong = below(2) == 0 ? std::min(n, below(engine::kExactRollback + 1)) : 0;  // guesses
          all.truncate(seq, length + n - wrong);
          since += n - wrong;
        }
      }
      if (below(12) == 0) {
        const int from = below(kSeqs), to = (from + 1) % kSeqs,
                  n = static_cast<int>(all.rows[static_cast<size_t>(from)].size());
        all.truncate(to, 0);
        const int back = below(2) == 0 ? 0 : below(n + 1);
        all.fork(from, to, n - back);
        since_far[static_cast<size_t>(to)] = back == 0 ? since_far[static_cast<size_t>(from)] : 0;
      }
      if (const int seq = below(kSeqs); below(25) == 0) {
        const int n = below(static_cast<int>(all.rows[static_cast<size_t>(seq)].size()) + 1);
        all.truncate(seq, n);
        since_far[static_cast<size_t>(seq)] = 0;
      }
    }
    CHECK(n_wrong == 0);
    CHECK(n_missed_near == 0);
    if (all.plan.tail == 128) {
      CHECK(n_missed_far > 0);  // the bound is one
    }
  }
}

TEST_CASE("copies: a lost sequence reads none, until it starts anew") {
  const ExactPlan plan = engine::plan_exact(4, 128, kPage, kSeqPages, kSeqs, kUbatch);
  ExactPages pages(plan, kPage, kSeqs);
  int step_pages = 0;
  pages.append(0, 0, 300, step_pages);
  pages.lose(0, 300);
  step_pages = 0;
  const ExactRows rows = pages.append(0, 300, 1, step_pages);
  CHECK(rows.sink == 0);
  CHECK(rows.from == 3);
  pages.truncate(0, 0);
  step_pages = 0;
  CHECK(pages.append(0, 0, 1, step_pages).sink == 1);
}

TEST_CASE("copies: sizes to the byte, bits per value, limits, and a word where they do nothing") {
  const auto model = tiny();  // 2 layers, 2 KV heads
  const engine::HParams& hp = model->hp;
  const uint64_t page =
      2ull * static_cast<uint64_t>(hp.n_layer * hp.n_head_kv * hp.head_dim) * 128 * 2;  // K and V
  const auto plain = fixtures::open(model, options("tbq4_0", "tbq3_0", 0, 0))->info();
  CHECK(plain.exact_bytes == 0);
  auto four = options("tbq4_0", "tbq3_0", 4, 128, 64);
  four.n_seqs = 4;
  four.n_ctx = 4096;
  const auto context = fixtures::open(model, four);
  const engine::ContextInfo info = context->info();
  CHECK(info.exact_bytes == 4 * (1 + 3) * page);
  CHECK(info.kv_bytes == 4 * plain.kv_bytes + info.exact_bytes);
  CHECK(info.bits_per_value ==
        doctest::Approx(static_cast<double>(info.kv_bytes) * 8 / (4096.0 / 128 * page / 2)));
  CHECK(info.exact_sink == 128);
  const auto keys = fixtures::open(model, options("q4_0", "f16", 0, 128))->info();
  CHECK(keys.exact_bytes == 3 * page / 2);
  CHECK(keys.fallbacks.empty());
  CHECK(fixtures::open(model, options("q4_0", "q4_0", 1024, 1024))->info().exact_bytes == 8 * page);

  const auto floats = fixtures::open(model, options("f16", "bf16", 4, 128));
  CHECK(floats->info().kv_bytes == fixtures::open(model, options("f16", "bf16", 0, 0))->info().kv_bytes);
  REQUIRE(floats->info().fallbacks.size() == 1);
  CHECK(floats->info().fallbacks[0].find("a cache of f16/bf16 is not quantized") != std::string::npos);
  const auto refused = engine::Context::check(*model, options("q4_0", "q4_0", 0, 1025));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.failure().to_string().find("--kv-tail: 1025 is more than the 1024 tokens") == 0);
}

TEST_CASE("copies: logits depend on position alone: not on ubatch, threads, backends, rollbacks or forks") {
  const auto model = tiny();
  const auto tokens = fixtures::tiny_tokens(700);
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  const auto f16 = fixtures::logits(*fixtures::open(model, options("f16", "f16", 0, 0)), tokens);
  CHECK(fixtures::same_bits(fixtures::logits(*fixtures::open(model, options("f16", "f16", 4, 100)), tokens),
                            f16));
  const auto plain = fixtures::logits(*fixtures::open(model, options("tbq3_0", "q4_0", 0, 0)), tokens);
  const auto want = fixtures::logits(*fixtures::open(model, options("tbq3_0", "q4_0", 4, 100)), tokens);
  CHECK(fixtures::compare(want, f16).rms < 0.8 * fixtures::compare(plain, f16).rms);
  // The copies of all rows: as if the cache were f16, but for the rotation's rounding.
  const auto all = fixtures::logits(*fixtures::open(model, options("tbq3_0", "q4_0", 0, 1024)), tokens);
  CHECK(fixtures::compare(all, f16).rms < 5e-3);
  for (const int n_ubatch : {1, 7, 128}) {
    CAPTURE(n_ubatch);
    const auto changed = options("tbq3_0", "q4_0", 4, 100, n_ubatch, n_ubatch == 7 ? 3 : 2);
    CHECK(fixtures::same_bits(fixtures::logits(*fixtures::open(model, changed), tokens), want));
  }
  const std::vector<engine::PartId> cuts{{engine::Part::kFfn, 0}, {engine::Part::kAttn, 1}};
  auto two = options("tbq3_0", "q4_0", 4, 100, 200);
  two.n_seqs = 2;
  two.n_ctx *= 2;
  auto split = fixtures::open(model, two, cuts);
  // Guesses, too many of them at each step, then a fork, which goes on as its source does.
  const std::vector<int> guesses(engine::kExactRollback, 5);
  size_t n_different = 0;
  const auto go_on = [&](int seq, size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += 90) {
      const auto row = split->eval(seq, std::span(tokens).subspan(at, 90));
      REQUIRE(row.ok());
      n_different +=
          std::memcmp(row->data(), want.data() + (at + 89) * n_vocab, n_vocab * sizeof(float)) != 0;
      REQUIRE(split->eval(seq, guesses).ok());
      split->truncate(seq, static_cast<int>(at) + 90);
    }
  };
  go_on(0, 0, 540);
  split->fork(0, 1, 540);
  go_on(1, 540, 630);
  go_on(0, 540, 630);
  CHECK(n_different == 0);
  // A fork from before the tail reads it quantized.
  split->truncate(1, 0);
  split->fork(0, 1, 200);
  REQUIRE(split->eval(1, std::span(tokens).subspan(200, 50)).ok());
  const auto row = split->eval(1, std::span(tokens).subspan(250, 1));
  REQUIRE(row.ok());
  const std::vector<float> got(row->begin(), row->end());
  const std::vector<float> exact(want.begin() + 250 * static_cast<int64_t>(n_vocab),
                                 want.begin() + 251 * static_cast<int64_t>(n_vocab));
  CHECK_FALSE(fixtures::same_bits(got, exact));
  CHECK(fixtures::compare(got, exact).rms < 0.5);
}
