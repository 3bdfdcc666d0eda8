// Perplexity in a study's records: what is compared, what is cited, what is known before a trial.
#include "src/study/perplexity_record.h"

#include <doctest/doctest.h>

#include <cmath>

using namespace study;

namespace {

// 512 losses around ln 10, each `more` larger.
probes::PromptLosses losses(double more) {
  probes::PromptLosses out;
  out.chunks = 2;
  out.text_hash = "t";
  for (int i = 0; i < 512; ++i) {
    probes::TokenLoss loss;
    loss.nll = std::log(10.0) + (i % 7 - 3) * 0.2 + more + (more > 0 ? (i % 5 - 2) * 0.001 : 0);
    loss.top = i;
    out.losses.push_back(loss);
  }
  return out;
}

Objective objective(const char* limit) {
  Objective out;
  out.maximize = {*search::Expression::parse("decode_tps")};
  if (limit != nullptr) {
    out.subject_to = {*search::Expression::parse(limit)};
  }
  return out;
}

}  // namespace

TEST_CASE("the default sets the scale, and comes back from its record as it was") {
  ProbeOptions options;
  PerplexityMeasured usual = perplexity_record(options, losses(0), nullptr, true);
  CHECK(usual.values.at("ppl") == doctest::Approx(10).epsilon(0.02));
  CHECK_EQ(usual.values.at("ppl_change"), 0);
  CHECK(usual.record["compared"].is_null());
  auto reference = losses_of(*base::parse_json(base::dump_line(usual.record), "r"));
  REQUIRE(reference.has_value());
  REQUIRE_EQ(reference->losses.size(), 512);
  reference->trial_id = 1;

  PerplexityMeasured worse = perplexity_record(options, losses(std::log1p(0.05)), &*reference, false);
  CHECK(worse.values.at("ppl_change") == doctest::Approx(0.05).epsilon(0.01));
  CHECK_EQ(worse.record["compared"]["verdict"], "fail");
  CHECK_EQ(worse.record["compared"]["with_trial_id"], 1);
  CHECK_EQ(worse.record["compared"]["same_top"], 1.0);
  CHECK_FALSE(worse.record.contains("nll"));  // nothing is compared with it
  CHECK_FALSE(worse.record.contains("top"));
  CHECK(perplexity_record(options, losses(0), nullptr, false)
            .record.contains("nll"));  // may be the default's numbers
  CHECK(perplexity_record(options, losses(0), &*reference, true).record.contains("nll"));
  CHECK_EQ(
      perplexity_record(options, losses(std::log1p(0.005)), &*reference, false).record["compared"]["verdict"],
      "pass");
  options.perplexity_margin = 0.1;
  CHECK_EQ(
      perplexity_record(options, losses(std::log1p(0.05)), &*reference, false).record["compared"]["verdict"],
      "pass");

  base::Json cited = without_losses(worse.record);
  CHECK_FALSE(losses_of(cited).has_value());
  CHECK_EQ(cited["ppl"], worse.record["ppl"]);
}

TEST_CASE("what does not pair is not compared, and says why") {
  ProbeOptions options;
  LossReference other;
  other.text_hash = "another tokenizer";
  other.losses = losses(0).losses;
  PerplexityMeasured alone = perplexity_record(options, losses(0.1), &other, false);
  CHECK(alone.values.contains("ppl"));
  CHECK_FALSE(alone.values.contains("ppl_change"));
  CHECK(alone.record["not_compared"].get<std::string>().find("other tokens") != std::string::npos);
  CHECK_FALSE(perplexity_record(options, losses(0.1), nullptr, false).values.contains("ppl_change"));

  probes::PromptLosses none;
  none.unsupported = "this server gives no prompt log-probabilities: HTTP 404";
  PerplexityMeasured refused = perplexity_record(options, none, &other, false);
  CHECK_EQ(refused.record["unsupported"], none.unsupported);
  CHECK(refused.values.empty());

  base::Json damaged = perplexity_record(options, losses(0), nullptr, true).record;
  damaged["nll"][3] = "x";
  CHECK_FALSE(losses_of(damaged).has_value());
  CHECK_FALSE(losses_of(base::Json::object()).has_value());
}

TEST_CASE("who needs it, and who cannot give it") {
  CHECK_FALSE(perplexity_decides(objective(nullptr)));
  CHECK_FALSE(perplexity_decides(objective("decode_tps >= 1")));
  CHECK(perplexity_decides(objective("ppl_change <= 0.02")));
  CHECK(perplexity_decides(objective("ppl <= 1.02 * default.ppl")));
  CHECK(perplexity_decides(objective("decode_tps >= default.ppl")));
  Study study;
  ServerProgram program;
  program.kind = BackendKind::kLlamaServer;
  CHECK_EQ(no_perplexity(study, program), "");  // nobody asked for it
  study.probes.perplexity = true;
  CHECK(no_perplexity(study, program).find("llama-server") != std::string::npos);
  program.kind = BackendKind::kTbqServer;
  CHECK_EQ(no_perplexity(study, program), "");
}
