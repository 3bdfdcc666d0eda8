#include "src/study/in_place.h"

#include <doctest/doctest.h>

namespace {

search::Axis axis(const char* name, std::vector<search::Value> values) {
  search::Axis out;
  out.name = name;
  out.values = std::move(values);
  return out;
}

study::Study make_study() {
  study::Study study;
  study.space.axes = {axis("n_threads", {int64_t{1}, int64_t{2}}),
                      axis("flash_attn", {std::string("on"), std::string("off")}),
                      axis("mmap", {true, false})};
  return study;
}

study::ServerProgram tbq_server(bool can) {
  study::ServerProgram program;
  program.kind = study::BackendKind::kTbqServer;
  program.flags.flags["--model"] = {};
  if (can) {
    program.flags.flags["--no-reconfigure"] = {};
  }
  return program;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("what the bundled server changes in place is known from its --help") {
  study::Study study = make_study();
  CHECK_EQ(study::in_place_axes(study, tbq_server(true)), Names{"n_threads", "flash_attn"});
  CHECK(study::in_place_axes(study, tbq_server(false)).empty());

  study::ServerProgram foreign = tbq_server(true);
  foreign.kind = study::BackendKind::kLlamaServer;
  CHECK(study::in_place_axes(study, foreign).empty());

  foreign.kind = study::BackendKind::kUrl;
  foreign.reconfigurable = {"flash_attn", "n_batch"};  // as the running server says
  CHECK_EQ(study::in_place_axes(study, foreign), Names{"flash_attn"});

  study::Study bound = make_study();
  bound.bindings["n_threads"] = {"--my-threads", ""};  // not what the server calls by that name
  CHECK_EQ(study::in_place_axes(bound, tbq_server(true)), Names{"flash_attn"});

  study::Study never = make_study();
  never.backend.reuse = study::Reuse::kNever;
  CHECK(study::in_place_axes(never, tbq_server(true)).empty());
  study::Study off = make_study();
  off.backend.args = {"--no-reconfigure"};
  CHECK(study::in_place_axes(off, tbq_server(true)).empty());
}

TEST_CASE("a header's and a server's lists survive nonsense") {
  CHECK_EQ(study::recorded_in_place_axes({{"in_place", {"n_batch", 3, "ctx_size"}}}),
           Names{"n_batch", "ctx_size"});
  CHECK(study::recorded_in_place_axes(base::Json::object()).empty());  // a journal of an older version
  CHECK(study::recorded_in_place_axes({{"in_place", "n_batch"}}).empty());
  CHECK_EQ(study::offered_axes({{"tbq", {{"reconfigure", {"n_batch"}}}}}), Names{"n_batch"});
  CHECK(study::offered_axes(base::Json(nullptr)).empty());
  CHECK(study::offered_axes({{"tbq", 4}}).empty());
}

TEST_CASE("only the axes that differ are asked for, and only when all of them are offered") {
  study::Study study = make_study();
  search::Config from = {int64_t{1}, std::string("on"), true};
  search::Config threads = {int64_t{2}, std::string("on"), true};
  search::Config unmapped = {int64_t{2}, std::string("on"), false};
  const Names offered = {"n_threads", "flash_attn", "ctx_size"};

  auto body = study::reconfigure_body(study, &from, threads, offered);
  REQUIRE(body.has_value());
  CHECK_EQ(body->dump(), R"({"n_threads":2})");
  CHECK_FALSE(study::reconfigure_body(study, &from, unmapped, offered).has_value());
  CHECK_FALSE(study::reconfigure_body(study, &from, threads, {}).has_value());
  CHECK_FALSE(study::reconfigure_body(study, &from, from, {}).has_value());
  // Nothing differs: opened anew as it is, as a repeated launch would be.
  body = study::reconfigure_body(study, &from, from, offered);
  REQUIRE(body.has_value());
  CHECK_EQ(body->dump(), R"({"n_threads":1,"flash_attn":"on"})");
  // Not known what it runs with: everything is named.
  CHECK_FALSE(study::reconfigure_body(study, nullptr, threads, offered).has_value());
  body = study::reconfigure_body(study, nullptr, unmapped, {"n_threads", "flash_attn", "mmap"});
  REQUIRE(body.has_value());
  CHECK_EQ(body->dump(), R"({"n_threads":2,"flash_attn":"on","mmap":"off"})");

  study.bindings["n_threads"] = {"--my-threads", ""};
  CHECK_FALSE(study::reconfigure_body(study, &from, threads, offered).has_value());
}

TEST_CASE("quality and needle are cited from the trial that measured the same numbers") {
  study::ProbeOptions probes;
  probes.quality = probes.needle = true;
  study::NumericsResult known;
  known.trial_id = 7;
  known.quality = {{"score", 0.9}};
  known.needle = {{"recall", 1.0}, {"rows", {{{"prompt_tokens", 500}, {"verdict", "found"}}}}};
  known.values = {{"quality", 0.9}, {"needle_recall", 1.0}};
  known.quality_items = {{"a", true}, {"b", false}};
  std::map<std::string, study::NumericsResult> all = {{"00ff", known}};
  study::TrialContext context;
  context.known = &all;

  study::TrialRecord record;
  record.numerics_key = "00ff";
  CHECK(study::cite(probes, context, 1024, record));
  CHECK_EQ(record.cited_trial_id, 7);
  CHECK_EQ(record.quality, known.quality);
  CHECK_EQ(record.needle, known.needle);
  CHECK_EQ(record.metrics.values.at("needle_recall"), 1.0);
  CHECK_EQ(record.metrics.quality_items, known.quality_items);

  auto cited = [&](const char* key, int64_t n_ctx) {
    study::TrialRecord other;
    other.numerics_key = key;
    bool done = study::cite(probes, context, n_ctx, other);
    CHECK_EQ(done, other.cited_trial_id != 0);
    CHECK_EQ(done, !other.metrics.values.empty());
    return done;
  };
  CHECK(cited("00ff", 0));
  CHECK_FALSE(cited("00fe", 1024));
  CHECK_FALSE(cited("", 1024));
  CHECK_FALSE(cited("00ff", 500));  // that needle does not fit here

  all["00ff"].needle["rows"][0]["verdict"] = "error";  // it did not fit there
  CHECK_FALSE(cited("00ff", 1024));
  probes.needle = false;
  CHECK(cited("00ff", 1024));
  all["00ff"].quality = nullptr;  // that trial was ended before its quality was known
  CHECK_FALSE(cited("00ff", 1024));
  context.known = nullptr;
  CHECK_FALSE(cited("00ff", 1024));
}
