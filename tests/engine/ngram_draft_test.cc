#include "src/engine/ngram_draft.h"

#include <doctest/doctest.h>

#include "tests/engine/server_rig.h"

using base::Json;
using engine::NgramDraft;
using engine::SpeculationOptions;
using fixtures::HttpRig;

namespace {

SpeculationOptions speculation(int n_min, int n_max, int n_match) {
  SpeculationOptions options;
  options.ngram = true;
  options.n_min = n_min;
  options.n_max = n_max;
  options.n_match = n_match;
  return options;
}

std::vector<int> guess(NgramDraft& drafts, int room) {
  const auto guessed = drafts.draft(room);
  return {guessed.begin(), guessed.end()};
}

}  // namespace

TEST_CASE("n-gram guesses: what followed the latest occurrence of the last tokens") {
  NgramDraft drafts(speculation(2, 3, 2));
  drafts.restart(std::vector<int>{1, 2, 3, 4, 9, 1, 2, 5, 6, 7, 1});
  CHECK(guess(drafts, 10).empty());  // "7 1" is new
  drafts.push(2);
  CHECK(guess(drafts, 10) == std::vector<int>{5, 6, 7});
  CHECK(guess(drafts, 2) == std::vector<int>{5, 6});
  CHECK(guess(drafts, 1).empty());  // under n_min
  CHECK(guess(drafts, 0).empty());
  CHECK(guess(drafts, -5).empty());
  drafts.push(8);
  CHECK(guess(drafts, 10).empty());
  drafts.restart(std::vector<int>{5});  // nothing of the former sequence is left
  drafts.push(6);
  CHECK(guess(drafts, 10).empty());
}

TEST_CASE("n-gram guesses: a loop is continued beyond its end; extremes") {
  NgramDraft drafts(speculation(5, 5, 2));
  drafts.restart(std::vector<int>{1, 2, 1, 2});
  CHECK(guess(drafts, 10) == std::vector<int>{1, 2, 1, 2, 1});
  NgramDraft single(speculation(0, 2, 1));
  single.restart(std::vector<int>{0, 0});
  CHECK(guess(single, 10) == std::vector<int>{0, 0});
  NgramDraft eager(speculation(48, 4, 2));  // n_min over n_max
  eager.restart(std::vector<int>{1, 2, 3, 1, 2});
  CHECK(guess(eager, 10) == std::vector<int>{3, 1, 2, 3});
  CHECK(guess(eager, 3).empty());
  NgramDraft empty(speculation(1, 2, 24));
  empty.restart({});
  CHECK(guess(empty, 10).empty());
}

TEST_CASE("speculation changes no answer: greedy and drawn, stopped, limited, at the context's end") {
  const std::string bodies[] = {
      R"({"prompt":"a b a b a b a b a b","temperature":0,"n_predict":200,"ignore_eos":true)",
      R"({"prompt":"a b a b a b a b a b","temperature":0.9,"seed":7,"n_predict":120,"ignore_eos":true)",
      R"({"prompt":"<|im_start|>user\nWhat is a mutex?<|im_end|>\n<|im_start|>assistant\n","temperature":0)",
      R"({"prompt":"The cat. The cat. The cat. The cat.","temperature":0,"ignore_eos":true,"n_predict":-1)",
      R"({"prompt":"The cat. The cat. The cat. The cat.","temperature":0,"n_predict":40,"stop":["e"],"n_probs":2)",
      R"({"prompt":"x x x x x x x x","temperature":0,"n_predict":7,"ignore_eos":true,"logit_bias":[[300,5]])",
  };
  HttpRig plain([](engine::ServerOptions& o) {
    o.context.n_ctx = 512;
    o.context.cache_type_k = "tbq4_0";
  });
  HttpRig guessing([](engine::ServerOptions& o) {
    o.context.n_ctx = 512;
    o.context.cache_type_k = "tbq4_0";
    o.speculation = speculation(1, 16, 2);
    o.metrics = true;
  });
  int offered = 0, accepted = 0, fewer = 0;
  for (const std::string& body : bodies) {
    CAPTURE(body);
    Json a = plain.json("/completion", body + R"(,"return_tokens":true})");
    Json b = guessing.json("/completion", body + R"(,"return_tokens":true})");
    CHECK(!a["timings"].contains("draft_n"));
    if (a["tokens_predicted"].get<int>() > 1) {  // every token reads the model once, and guesses save reading
      CHECK(a["timings"]["bytes_per_token"] == plain.props()["weight_bytes_per_token"]);
      CHECK(b["timings"]["bytes_per_token"].get<int64_t>() <= a["timings"]["bytes_per_token"].get<int64_t>());
      fewer += b["timings"]["bytes_per_token"] < a["timings"]["bytes_per_token"];
    }
    if (b["timings"].contains("draft_n")) {
      const int n = b["timings"]["draft_n"], right = b["timings"]["draft_n_accepted"];
      CHECK(n > 0);
      CHECK(right <= n);
      CHECK(right < b["tokens_predicted"].get<int>());
      offered += n;
      accepted += right;
    }
    for (Json* answer : {&a, &b}) {
      answer->erase("timings");
      (*answer)["generation_settings"].erase("seed");  // a random one where none was given
    }
    CHECK(a == b);
  }
  CHECK(offered > 100);
  CHECK(accepted > 50);
  CHECK(fewer > 1);
  const std::string metrics = guessing.get("/metrics").body;
  CHECK(metrics.find("\nllamacpp:spec_decode_num_draft_tokens_total " + std::to_string(offered) + "\n") !=
        std::string::npos);
  CHECK(metrics.find("\nllamacpp:spec_decode_num_accepted_tokens_total " + std::to_string(accepted) + "\n") !=
        std::string::npos);
  CHECK(Json::parse(guessing.get("/slots").body)[0]["speculative"] == true);

  // What the cache holds afterwards is what it would hold without guesses.
  const std::string again =
      R"({"prompt":"a b a b a b a b a b a c","temperature":0,"n_predict":30,"return_tokens":true})";
  CHECK(plain.json("/completion", again)["tokens"] == guessing.json("/completion", again)["tokens"]);
}

TEST_CASE("n_draft is reconfigurable: 0 is off, N is guesses of N") {
  HttpRig rig;
  CHECK(rig.props()["n_draft"] == 0);
  const std::string numerics = rig.props()["numerics_key"];
  REQUIRE(rig.change(R"({"n_draft":4})").status == 200);
  CHECK(rig.props()["n_draft"] == 4);
  CHECK(rig.props()["numerics_key"] == numerics);
  CHECK(Json::parse(rig.get("/slots").body)[0]["speculative"] == true);
  REQUIRE(rig.change(R"({"ctx_size":512})").status == 200);
  CHECK(rig.props()["n_draft"] == 4);
  REQUIRE(rig.change(R"({"n_draft":"0"})").status == 200);
  CHECK(rig.props()["n_draft"] == 0);
  CHECK(rig.change(R"({"n_draft":100000})").status == 400);
  CHECK(rig.change(R"({"n_draft":-1})").status == 400);
}
