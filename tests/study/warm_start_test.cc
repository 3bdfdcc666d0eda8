// What an earlier study of the same model and machine saves a new one, and when it is refused.

#include "src/study/warm_start.h"

#include "src/study/header.h"
#include "tests/study/loop_rig.h"

using namespace loop_rig;

namespace {

constexpr const char* kSpace =
    "study: s\nmodel: m.bin\naxes:\n"
    "  n_batch: {values: [1, 2, 4, 8], default: 1}\n  n_threads: {values: [1, 2, 3], default: 1}\n"
    "objective:\n  maximize: decode_tps\n"
    "probes: {quality: off, needle: off}\n";

study::Study parsed(const std::string& text) {
  auto result = study::parse_space_file(text, "s.yaml");
  REQUIRE(std::holds_alternative<study::Study>(result));
  return std::get<study::Study>(std::move(result));
}

base::Json header_of(const study::Study& study) {
  study::ServerProgram program;
  program.kind = study.backend.kind;
  return study::study_header(study, program, {{"path", "m.bin"}, {"size", 5}, {"head_hash", "aa"}});
}

// A journal of that space with these ends.
study::JournalContent earlier(const std::string& text = kSpace) {
  study::JournalContent old;
  old.header = header_of(parsed(text));
  auto end = [&](int id, int batch, int threads, const char* phase, const char* status, double tps) {
    base::Json record = {{"type", "trial_end"},
                         {"trial_id", id},
                         {"phase", phase},
                         {"status", status},
                         {"params", {{"n_batch", batch}, {"n_threads", threads}}},
                         {"noise", 0.02}};
    if (tps > 0) {
      record["metrics"] = {{"decode_tps", tps}};
      record["drift"] = 0.5;
    }
    old.records.push_back(std::move(record));
  };
  end(1, 1, 1, "default", "ok", 45);
  end(2, 8, 1, "sweep", "ok", 160);
  end(3, 8, 3, "perturb", "oom", 0);
  end(4, 4, 1, "perturb", "skipped_predicted", 0);
  end(5, 8, 1, "final", "ok", 250);
  return old;
}

}  // namespace

TEST_CASE("what an earlier study measured: one entry a configuration, launches pooled, drift taken out") {
  study::Study study = parsed(kSpace);
  auto warm = study::warm_start(study, header_of(study), earlier(), "old.jsonl");
  REQUIRE_MESSAGE(warm.ok(), (warm.ok() ? "" : warm.failure().to_string()));
  const base::Json& known = (*warm)["known"];
  REQUIRE_EQ(known.size(), 3);
  CHECK_EQ(known[0]["metrics"]["decode_tps"].get<double>(), doctest::Approx(90));
  CHECK_EQ(known[1]["launches"], 2);
  CHECK_EQ(known[1]["metrics"]["decode_tps"].get<double>(), doctest::Approx(400));  // of 320 and 500
  CHECK_EQ(known[2]["status"], "oom");
  CHECK_FALSE(known[2].contains("metrics"));

  // A floor of memory that was higher there may be what failed.
  study::JournalContent strict = earlier();
  strict.header["measurement"]["limits"]["probes.memory.min_headroom_gib"] = 8;
  warm = study::warm_start(study, header_of(study), strict, "old.jsonl");
  REQUIRE(warm.ok());
  CHECK_EQ((*warm)["known"].size(), 2);
  CHECK_NE(study::warm_start_text(*warm).find(
               "1 failed by a probes.memory.min_headroom_gib that is less strict here"),
           std::string::npos);
  CHECK_EQ(study::warm_start_text(*warm).find("older version"), std::string::npos);
  strict.header.erase("measurement");
  warm = study::warm_start(study, header_of(study), strict, "old.jsonl");
  REQUIRE(warm.ok());
  CHECK_NE(study::warm_start_text(*warm).find("older version"), std::string::npos);

  // Another objective: the noise of then was that of something else, and this study's own is taken.
  CHECK_EQ((*warm)["known"][0]["noise"], 0.02);
  study = parsed(std::string(kSpace).replace(std::string(kSpace).find("decode_tps"), 10, "decode_tps / 2"));
  warm = study::warm_start(study, header_of(study), earlier(), "old.jsonl");
  REQUIRE(warm.ok());
  CHECK((*warm)["known"][0]["noise"].is_null());

  // Another range of values: what is no point of it is left out, and told.
  study = parsed(std::string(kSpace).replace(std::string(kSpace).find(", 3]"), 4, "]"));
  warm = study::warm_start(study, header_of(study), earlier(), "old.jsonl");
  REQUIRE(warm.ok());
  CHECK_EQ((*warm)["known"].size(), 2);
  CHECK_NE(study::warm_start_text(*warm).find("1 are no points of this space"), std::string::npos);
}

TEST_CASE(
    "an earlier study of another model, machine or way of measuring is refused, each difference named") {
  const study::Study study = parsed(kSpace);
  base::Json header = header_of(study);
  study::JournalContent old = earlier();
  auto refused = [&](const std::string& why) {
    CAPTURE(why);
    auto warm = study::warm_start(study, header, old, "old.jsonl");
    REQUIRE_FALSE(warm.ok());
    CHECK_NE(warm.failure().to_string().find(why), std::string::npos);
  };
  SUBCASE("model and host") {
    old.header["model"]["head_hash"] = "bb";
    old.header["host"]["logical_cpus"] = 20;
    old.header["host"]["memory_bytes"] = 1ULL << 50;
    refused("the model's beginning (1 MiB): bb there, aa here");
    refused("the host's logical_cpus: 20 there");
    refused("the host's memory: ");
    old.header["model"]["head_hash"] = "b\x1b[2J\xc2\x9b";  // what a terminal would obey
    refused("the model's beginning (1 MiB): b [2J  there, aa here");
  }
  SUBCASE("the server's kind and the probes") {
    old = earlier(std::string(kSpace) + "backend: {kind: llama-server, args: [\"--x\"]}\n");
    refused("the server: llama-server there, tbq-server here");
    refused("backend.args: '--x' there");
  }
  SUBCASE("two programs that are both an openai backend") {
    old.header["binary"] = {{"kind", "openai"}, {"path", "/opt/bin/vllm"}, {"version", "0.9"}};
    header["binary"] = {{"kind", "openai"}, {"path", "/usr/bin/sglang"}, {"version", "0.5"}};
    const study::Study open =
        parsed(std::string(kSpace) + "backend: {kind: openai, binary: sglang, args: [--model, m]}\n");
    auto warm = study::warm_start(open, header, old, "old.jsonl");
    REQUIRE_FALSE(warm.ok());
    CHECK_NE(warm.failure().to_string().find("the server's program: vllm there, sglang here"),
             std::string::npos);
    CHECK_NE(warm.failure().to_string().find("the server's version: 0.9 there, 0.5 here"), std::string::npos);
  }
  SUBCASE("what a probe asked, as its header told") {
    old.header["measurement"]["speed"]["n_gen"] = 48;
    refused("probes.speed.n_gen: 48 there, 64 here");
  }
  SUBCASE("what a probe asked, by the space file of an older header; the weights") {
    old = earlier(
        std::string(kSpace).replace(std::string(kSpace).find("{quality"), 1, "{speed: {warmups: 3}, "));
    old.header.erase("measurement");
    old.header["model"]["slices_hash"] = "cc";
    header["model"]["slices_hash"] = "dd";
    refused("probes.speed.warmups: 3 there, 1 here");
    refused("the model's weights (a sample): cc there, dd here");
  }
  SUBCASE("nothing to know") {
    old.records.clear();
    refused("holds no trial that was launched");
  }
  SUBCASE("what this study judges by was not measured") {
    for (base::Json& record : old.records) {
      record.erase("metrics");
    }
    old.records.erase(old.records.begin() + 2);
    refused("2 lack decode_tps");
  }
}

TEST_CASE("a warm study launches the default, checks the best that was known, and repeats nothing else") {
  std::vector<std::string> cold;
  base::Json known = base::Json::array();
  {
    Fixture f;
    FakeRunner runner;
    f.start(runner);
    cold = f.ends();
    auto content = f.content();
    for (const base::Json* end : content.of_type("trial_end")) {
      base::Json entry = *end;  // the same fields
      for (auto& value : entry["metrics"]) {
        value = value.get<double>() / 2;  // that machine was half as fast
      }
      known.push_back(std::move(entry));
    }
  }
  REQUIRE_GE(cold.size(), 8);
  bool best_fails = false;
  SUBCASE("as it was") {}
  SUBCASE("the best of then runs no more: the next is checked") {
    best_fails = true;
  }
  auto run = [&](Fixture& f, int stop_at) {
    f.header["warm_start"] = {{"study_id", "old-1"}, {"known", known}};
    FakeRunner runner;
    if (best_fails) {
      runner.failures[2] = study::Status::kRunCrash;
    }
    runner.before_run = [&, stop_at](const study::TrialRequest& request) {
      if (request.trial_id == stop_at) {
        study::set_interrupted(15);
      }
    };
    f.start(runner);
    runner.before_run = nullptr;
    if (stop_at > 0) {
      f.resume(runner);
    }
  };
  Fixture f;
  run(f, 0);
  auto content = f.content();
  auto ends = content.of_type("trial_end");
  REQUIRE_GE(ends.size(), 2);
  CHECK_LT(ends.size(), cold.size());
  CHECK_EQ((*ends[0])["phase"], "default");
  CHECK_EQ((*ends[1])["phase"], "check");
  CHECK_EQ((*ends[1])["params"]["n_batch"], 8);
  CHECK_EQ((*ends[1])["params"]["n_threads"], 1);
  size_t checks = 0;
  for (const base::Json* end : ends) {
    const bool before = std::any_of(known.begin(), known.end(), [&](const base::Json& entry) {
      return entry["params_hash"] == (*end)["params_hash"];
    });
    const bool check = (*end)["phase"] == "check";
    checks += check ? 1 : 0;
    CHECK_EQ(before, check || (*end)["phase"] == "default");
  }
  CHECK_EQ(checks, best_fails ? 2 : 1);
  REQUIRE_EQ(f.observer.notes.size(), 1);
  CHECK_NE(f.observer.notes[0].find("runs at 2.00 of its speed"), std::string::npos);
  CHECK_EQ((*content.of_type("study_end").back())["best_trial_id"], best_fails ? 3 : 2);
  const std::vector<std::string> undisturbed = f.ends();
  for (int stop_at = 1; stop_at <= static_cast<int>(ends.size()); ++stop_at) {
    CAPTURE(stop_at);
    Fixture g;
    run(g, stop_at);
    CHECK_EQ(g.ends(), undisturbed);
  }
}
