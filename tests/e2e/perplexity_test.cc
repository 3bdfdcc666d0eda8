// The perplexity probe in whole studies: measured once per numerics, compared with the default, refused in time.

#include "tests/e2e/driver.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr const char* kAxes =
    "  cache_type_k: {values: [f16, q8_0, q4_0], default: f16}\n"
    "  n_batch: {values: [512, 1024], default: 512}\n";
constexpr const char* kScenario = R"({"logprobs": true, "numerics": true, "ppl": 8, "ppl_noise": 0.02,
    "rules": [{"when": {"cache_type_k": "q8_0"}, "set": {"ppl": 8.02}},
              {"when": {"cache_type_k": "q4_0"}, "set": {"ppl": 9}}]})";

// The scripted space as tbq-server (or `kind`), with a corpus and this limit ("" = none).
std::string space_with(e2e::Driver& driver, const std::string& scenario, const std::string& limit,
                       const std::string& kind = "tbq-server") {
  std::string goal = "objective: {maximize: quality" +
                     (limit.empty() ? "" : ", subject_to: [" + limit + "]") +
                     "}\nsearch: {strategy: grid, max_trials: 6, anchor_every: 0}\n";
  std::string path = driver.scripted_space(kAxes, scenario, goal);
  std::string text = e2e::read(path);
  auto replace = [&](const std::string& from, const std::string& to) {
    size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    text.replace(at, from.size(), to);
  };
  replace("  speed: {n_prompt: 64, n_gen: 16, repeats: 2, warmups: 0}\n",
          "  speed: off\n  perplexity: {corpus: corpus.txt, n_ctx: 256, chunks: 4}\n");
  replace("  needle: {lengths: [200], depths: [0.5]}\n", "  needle: off\n");
  replace("kind: llama-server", "kind: " + kind);
  replace("load_timeout: 3s", "load_timeout: 60s");
  e2e::write(path, text);
  std::string corpus;
  for (int i = 0; corpus.size() < 20000; ++i) {
    corpus += "line " + std::to_string(i) + " of a text that goes on\n";
  }
  e2e::write(driver.path("corpus.txt"), corpus);
  return path;
}

}  // namespace

TEST_CASE("perplexity: once per numerics, paired with the default, a limit of its own, over a resume") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = space_with(driver, kScenario, "ppl_change <= 0.02");
  const std::string journal = driver.path("j.jsonl");
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", journal, "--confirm", "0", "--max-trials", "1"});
  CHECK_EQ(result.code, 10);
  result = driver.run({"resume", journal, "--confirm", "0", "--max-trials", "6"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  auto ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 6);
  int measured = 0;
  for (const Json& end : ends) {
    CAPTURE(end.dump().substr(0, 2000));
    const std::string type = end["params"]["cache_type_k"];
    const Json& perplexity = end["perplexity"];
    measured += end["cited_trial_id"].is_null() ? 1 : 0;
    CHECK_EQ(end["status"], type == "q4_0" ? "quality_fail" : "ok");
    double change = end["metrics"]["ppl_change"].get<double>();
    if (type == "f16") {
      CHECK_EQ(change, 0);
      CHECK_GT(perplexity["ppl"].get<double>(), 6);
    } else if (type == "q8_0") {
      CHECK_LT(change, 0.01);
      CHECK_EQ(perplexity["compared"]["verdict"], "pass");
      CHECK_EQ(perplexity["compared"]["with_trial_id"], 1);
      CHECK_EQ(end["feasible"], true);
    } else {
      CHECK_GT(change, 0.1);
      CHECK_EQ(perplexity["compared"]["verdict"], "fail");
      CHECK(has(end["reason"], "ppl_change <= 0.02 does not hold"));
    }
    CHECK_EQ(perplexity.contains("nll"), end["trial_id"] == 1);  // what the others are compared with
  }
  // f16 and q8_0 once each; what breaks its limit is no result to cite.
  CHECK_EQ(measured, 4);
  CHECK(has(result.out, "Perplexity"));
  CHECK(has(result.out, "pass at +2.0%"));
  CHECK_EQ(driver.journal("j.jsonl").front()["perplexity_corpus"]["n_ctx"], 256);

  e2e::write(driver.path("corpus.txt"), std::string(20000, 'x'));
  result = driver.run({"resume", journal, "--max-trials", "9"});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "the corpus has changed"));
}

TEST_CASE("a server without prompt log-probabilities: said once, unless the objective needs them") {
  if (!e2e::programs_exist()) {
    return;
  }
  const std::string plain = R"({"numerics": true})";
  {  // Known before anything is launched.
    e2e::Driver driver;
    std::string space = space_with(driver, plain, "", "llama-server");
    CHECK(has(driver.run({"plan", "--space", space}).out, "Perplexity will not be measured"));
    e2e::Result result = driver.run(
        {"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0", "--max-trials", "3"});
    CHECK_EQ(result.code, 10);
    CHECK(has(result.err, "llama-server gives no prompt log-probabilities"));

    space = space_with(driver, plain, "ppl_change <= 0.02", "llama-server");
    CHECK(has(driver.run({"plan", "--space", space}).out, "will refuse to start"));
    result = driver.run({"run", "--space", space, "--out", driver.path("k.jsonl")});
    CHECK_EQ(result.code, 3);
    CHECK(has(result.err, "needs the perplexity"));
    CHECK_FALSE(std::filesystem::exists(driver.path("k.jsonl")));
  }
  {  // Seen in the first trial.
    e2e::Driver driver;
    std::string space = space_with(driver, plain, "");
    e2e::Result result = driver.run(
        {"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0", "--max-trials", "4"});
    CAPTURE(result.out);
    CHECK_EQ(result.code, 10);
    size_t first = result.out.find("perplexity is not measured");
    REQUIRE(first != std::string::npos);
    CHECK_EQ(result.out.find("perplexity is not measured", first + 1), std::string::npos);
    CHECK(has(result.out, "Not measured: this server gives no prompt log-probabilities"));
    int cited = 0;
    for (const Json& end : driver.ends("j.jsonl")) {
      CHECK_EQ(end["status"], "ok");
      CHECK_FALSE(end["metrics"].contains("ppl"));
      cited += end["cited_trial_id"].is_null() ? 0 : 1;
    }
    CHECK_EQ(cited, 2);  // two pairs of equal numerics: the rest is cited all the same

    space = space_with(driver, plain, "ppl_change <= 0.02");
    result = driver.run({"run", "--space", space, "--out", driver.path("k.jsonl")});
    CHECK_EQ(result.code, 3);
    CHECK(has(result.err, "needs the perplexity"));
    CHECK(driver.ends("k.jsonl").empty());
    CHECK(driver.all_gone(5));
  }
}
