// Steps of several sequences: what a sequence's logits are does not depend on its company, to the bit.

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/engine/fixtures.h"

using engine::Piece;
using engine::StepHooks;

namespace {

const std::string kTiny = AR_SOURCE_DIR "/tests/data/tiny.gguf";

using Rows = std::vector<std::vector<int>>;  // the tokens of each sequence

Rows sequences(int n_vocab) {
  std::mt19937 random(11);
  Rows out;
  for (const int n : {1100, 530, 129, 6}) {
    auto& tokens = out.emplace_back(static_cast<size_t>(n));
    for (int& token : tokens) {
      token = static_cast<int>(random() % static_cast<unsigned>(n_vocab));
    }
  }
  return out;
}

struct Setup {
  int n_threads, n_threads_batch, n_ubatch;
  const char *k, *v;
  bool unified;
  int kv_sink = 0, kv_tail = 0;
};

engine::ContextOptions options(const Setup& setup, int n_seqs) {
  engine::ContextOptions chosen;
  chosen.n_seqs = n_seqs;
  chosen.kv_unified = setup.unified;
  chosen.n_ctx = setup.unified ? 2304 : 1280 * n_seqs;
  chosen.n_threads = setup.n_threads;
  chosen.n_threads_batch = setup.n_threads_batch;
  chosen.n_ubatch = setup.n_ubatch;
  chosen.cache_type_k = setup.k;
  chosen.cache_type_v = setup.v;
  chosen.kv_sink = setup.kv_sink;
  chosen.kv_tail = setup.kv_tail;
  return chosen;
}

// The logits of every sequence, each evaluated alone in a context of its own.
std::vector<std::vector<float>> alone(const std::shared_ptr<const engine::Model>& model, const Setup& setup,
                                      const Rows& all) {
  std::vector<std::vector<float>> out;
  for (const auto& tokens : all) {
    out.push_back(fixtures::logits(*fixtures::open(model, options(setup, 1)), tokens));
  }
  return out;
}

}  // namespace

TEST_CASE("a sequence's logits are the same alone and in any company, to the bit") {
  const auto model = fixtures::load(kTiny);
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  const Rows all = sequences(model->hp.n_vocab);
  for (const Setup& setup :
       {Setup{1, 1, 512, "f32", "f32", false}, Setup{3, 2, 64, "f16", "f16", true},
        Setup{2, 2, 7, "q8_0", "tbq3_0", false, 0, 200}, Setup{2, 3, 512, "tbq4_0", "q4_0", true, 4, 64},
        Setup{1, 2, 33, "q4_1", "q5_0", true}}) {
    CAPTURE(setup.k);
    CAPTURE(setup.n_ubatch);
    const auto expected =
        alone(model, {1, 1, 512, setup.k, setup.v, false, setup.kv_sink, setup.kv_tail}, all);
    auto context = fixtures::open(model, options(setup, 4));
    std::mt19937 random(5);
    std::vector<size_t> done(all.size(), 0);
    size_t n_compared = 0, n_different = 0;
    while (true) {
      std::vector<Piece> pieces;
      std::vector<size_t> before;
      for (size_t seq = 0; seq < all.size(); ++seq) {
        const size_t left = all[seq].size() - done[seq];
        if (left == 0 || random() % 5 == 0) {
          continue;
        }
        // Prefill, decode and verification by turns.
        const size_t n = std::min<size_t>(left, random() % 3 == 0 ? 1 + random() % 300 : 1 + random() % 9);
        const int n_logits = static_cast<int>(random() % (n + 1));
        pieces.push_back({static_cast<int>(seq), std::span(all[seq]).subspan(done[seq], n), n_logits});
        before.push_back(done[seq]);
        done[seq] += n;
      }
      std::shuffle(pieces.begin(), pieces.end(), std::mt19937(1));
      std::shuffle(before.begin(), before.end(), std::mt19937(1));
      std::vector<int> n_seen(pieces.size(), 0);
      StepHooks hooks;
      hooks.on_logits = [&](size_t piece, int row, std::span<const float> logits) {
        const Piece& of = pieces[piece];
        CHECK(row == static_cast<int>(of.tokens.size()) - of.n_logits + n_seen[piece]);
        ++n_seen[piece];
        const auto* want = expected[static_cast<size_t>(of.seq)].data() +
                           (before[piece] + static_cast<size_t>(row)) * n_vocab;
        REQUIRE(logits.size() == n_vocab);
        n_different += std::memcmp(logits.data(), want, n_vocab * sizeof(float)) != 0;
        ++n_compared;
      };
      if (!pieces.empty()) {
        const auto stepped = context->step(pieces, hooks);
        REQUIRE_MESSAGE(stepped.ok(), stepped.failure().to_string());
        for (size_t i = 0; i < pieces.size(); ++i) {
          CHECK(n_seen[i] == pieces[i].n_logits);
          CHECK(context->length(pieces[i].seq) == static_cast<int>(before[i] + pieces[i].tokens.size()));
        }
      } else if (done == std::vector<size_t>{1100, 530, 129, 6}) {
        break;
      }
    }
    CHECK(n_compared > 300);
    CHECK(n_different == 0);
  }
}

TEST_CASE("a forked sequence in a step with its source: both go on as they would alone") {
  const auto model = fixtures::load(kTiny);
  const auto n_vocab = static_cast<size_t>(model->hp.n_vocab);
  const Setup setup{2, 2, 64, "f16", "q8_0", false};
  Rows all = sequences(model->hp.n_vocab);
  all.resize(1);
  all[0].resize(300);
  all.push_back(all[0]);
  std::fill(all[1].begin() + 200, all[1].end(), 9);  // parts from the first at 200, inside a page
  const auto expected = alone(model, setup, all);
  auto context = fixtures::open(model, options(setup, 2));
  REQUIRE(context->eval(0, std::span(all[0]).first(250)).ok());
  context->fork(0, 1, 200);
  CHECK(context->pages_for(1, 1) == 1);  // the copy
  std::vector<float> last[2];
  StepHooks hooks;
  hooks.on_logits = [&](size_t piece, int, std::span<const float> logits) {
    last[piece].assign(logits.begin(), logits.end());
  };
  const std::vector<Piece> pieces = {{0, std::span(all[0]).subspan(250), 1},
                                     {1, std::span(all[1]).subspan(200), 1}};
  REQUIRE(context->step(pieces, hooks).ok());
  for (size_t i = 0; i < 2; ++i) {
    REQUIRE(last[i].size() == n_vocab);
    CHECK(std::memcmp(last[i].data(), expected[i].data() + 299 * n_vocab, n_vocab * sizeof(float)) == 0);
  }
}

TEST_CASE("a piece that is gone stops between ubatches and keeps its rows; the others go on") {
  const auto model = fixtures::load(kTiny);
  const Setup setup{1, 1, 10, "f16", "f16", false};
  auto context = fixtures::open(model, options(setup, 2));
  const std::vector<int> tokens(100, 5), one{3};
  int asked = 0, n_logits = 0;
  StepHooks hooks;
  hooks.gone = [&](size_t piece) { return piece == 1 && ++asked > 3; };
  hooks.on_logits = [&](size_t piece, int row, std::span<const float>) {
    CHECK(piece == 0);
    n_logits += row == 0;
  };
  const std::vector<Piece> pieces = {{0, one, 1}, {1, tokens, 1}};
  REQUIRE(context->step(pieces, hooks).ok());
  CHECK(n_logits == 1);
  CHECK(context->length(0) == 1);
  CHECK(context->length(1) == 29);  // 9 beside the other's token, then twice 10
  hooks.gone = [](size_t piece) { return piece == 0; };
  hooks.on_logits = {};
  REQUIRE(context->step(pieces, hooks).ok());
  CHECK(context->length(0) == 1);
  CHECK(context->length(1) == 129);
}

TEST_CASE("a step that cannot be is refused and changes nothing") {
  const auto model = fixtures::load(kTiny);
  auto unified = options({1, 1, 64, "f16", "f16", true}, 2);
  unified.n_ctx = 512;
  auto context = fixtures::open(model, unified);
  CHECK(context->info().n_ctx == 512);
  CHECK(context->free_pages() == 4);
  const std::vector<int> long_one(300, 5), short_one(200, 5), wrong{1, 128};
  const std::vector<Piece> fits = {{0, long_one, 0}};
  REQUIRE(context->step(fits, {}).ok());
  CHECK(context->free_pages() == 1);
  CHECK(context->pages_for(1, 200) == 2);
  const auto full = context->eval(1, short_one);
  REQUIRE_FALSE(full.ok());
  CHECK(full.failure().to_string().find("needs 2 pages") != std::string::npos);
  const std::vector<Piece> one_is_wrong = {{0, std::span(short_one).first(1), 1}, {1, wrong, 1}};
  CHECK_FALSE(context->step(one_is_wrong, {}).ok());
  CHECK(context->length(0) == 300);
  CHECK(context->length(1) == 0);
  context->truncate(0, 0);
  CHECK(context->eval(1, short_one).ok());
}
