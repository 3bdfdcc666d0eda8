#include "src/study/loop.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "src/report/digest.h"
#include "src/study/commands.h"
#include "src/study/header.h"
#include "src/study/interrupt.h"
#include "src/study/recorded_grid.h"
#include "tests/study/loop_rig.h"

using namespace loop_rig;

TEST_CASE("a study runs to its end, and its journal says what happened") {
  Fixture f;
  FakeRunner runner;
  runner.failures = {{2, study::Status::kLoadCrash}};
  study::LoopResult result = f.start(runner);
  CHECK_EQ(result.end, study::EndReason::kFinished);
  CHECK_EQ(result.verdict, study::Verdict::kUnconfirmed);
  auto content = f.content();
  auto ends = content.of_type("trial_end");
  REQUIRE_GE(ends.size(), 5);
  CHECK_LE(ends.size(), 10);
  CHECK_EQ((*ends[0])["phase"], "default");
  CHECK_EQ((*ends[0])["feasible"], true);
  CHECK_EQ((*ends[0])["metrics"]["decode_tps"], 95.0);
  CHECK_EQ((*ends[1])["status"], "load_crash");
  CHECK_FALSE(ends[1]->contains("metrics"));  // a failure has no numbers
  CHECK_FALSE(ends[1]->contains("speed"));
  const base::Json& start = *content.of_type("trial_start")[0];
  CHECK_EQ(start["argv"][4], "***");
  CHECK_EQ(content.records.back()["type"], "study_end");
  // Best: n_batch 8, n_threads 1.
  int best = content.records.back()["best_trial_id"];
  for (const base::Json* end : ends) {
    if ((*end)["trial_id"] == best) {
      CHECK_EQ((*end)["params"]["n_batch"], 8);
    }
  }
}

TEST_CASE("a default that fails in passing is launched once more; one that runs out of memory is not") {
  for (const study::Status status :
       {study::Status::kLoadCrash, study::Status::kImplausible, study::Status::kOom}) {
    Fixture f;
    FakeRunner runner;
    runner.failures = {{1, status}};
    const bool again = status != study::Status::kOom;
    CHECK_EQ(f.start(runner).end, study::EndReason::kFinished);
    auto content = f.content();
    auto ends = content.of_type("trial_end");
    REQUIRE_GE(ends.size(), 3);
    CHECK_EQ((*ends[0])["status"], study::to_string(status));
    CHECK_EQ((*ends[1])["phase"] == "default", again);
    CHECK_EQ((*ends[1])["params_hash"] == (*ends[0])["params_hash"], again);
    CHECK_NE((*ends[2])["params_hash"], (*ends[0])["params_hash"]);
    const report::Digest digest = report::digest(content.header, content.records);
    REQUIRE(digest.default_row.has_value());
    CHECK_EQ(digest.trials[*digest.default_row].ok, again);
  }
  Fixture f;  // twice: then it is believed
  FakeRunner runner;
  runner.failures = {{1, study::Status::kLoadCrash}, {2, study::Status::kLoadCrash}};
  f.start(runner);
  auto content = f.content();
  CHECK_NE((*content.of_type("trial_end")[2])["phase"], "default");
}

TEST_CASE("a number changed by hand contradicts the rest of its record") {
  Fixture f;
  FakeRunner runner;
  f.start(runner);
  const auto content = f.content();
  for (const base::Json* end : content.of_type("trial_end")) {
    CHECK_EQ(study::contradiction(f.study, *end), "");
  }
  base::Json end = *content.of_type("trial_end")[0];
  end["speed"] = {{"decode_tps", 95.0}};
  end["drift"] = 0.5;
  end["objective"] = {190.0};
  CHECK_EQ(study::contradiction(f.study, end), "");
  end["objective"] = {95.0};
  CHECK_EQ(study::contradiction(f.study, end), "its objective has decode_tps 95, its metrics come to 190");
  end["metrics"]["decode_tps"] = 47.5;
  CHECK_EQ(study::contradiction(f.study, end),
           "its metrics have decode_tps 47.5, its speed probe measured 95");
  f.study.objective.maximize = {*search::Expression::parse("decode_tps / default.decode_tps")};
  end["metrics"]["decode_tps"] = 95.0;
  CHECK_EQ(study::contradiction(f.study, end), "");  // what another trial measured is not in it
}

TEST_CASE("stopped anywhere and resumed, a study ends as if undisturbed") {
  std::vector<std::string> undisturbed;
  {
    Fixture f;
    FakeRunner runner;
    runner.failures = {{3, study::Status::kOom}};
    f.start(runner);
    undisturbed = f.ends();
  }
  REQUIRE_GE(undisturbed.size(), 5);
  for (int stop_at = 1; stop_at <= static_cast<int>(undisturbed.size()); ++stop_at) {
    CAPTURE(stop_at);
    Fixture f;
    FakeRunner first;
    first.failures = {{3, study::Status::kOom}};
    first.before_run = [&](const study::TrialRequest& request) {
      if (request.trial_id == stop_at) {
        study::set_interrupted(15);
      }
    };
    CHECK_EQ(f.start(first).end, study::EndReason::kInterrupted);
    CHECK_EQ(f.content().interrupted().size(), 1);
    FakeRunner second;
    second.failures = {{3, study::Status::kOom}};
    CHECK_EQ(f.resume(second).end, study::EndReason::kFinished);
    CHECK_EQ(f.ends(), undisturbed);
    REQUIRE_FALSE(second.seen.empty());
    CHECK_EQ(second.seen[0].trial_id, stop_at);
    CHECK_EQ(second.seen[0].attempt,
             first.seen.back().attempt + 1);  // the number is kept, the attempt is new
    CHECK(f.observer.notes.empty());          // the strategy asked for the same again
  }
}

TEST_CASE("a recorded grid: every point in rounds, stopped and resumed, is a grid to replay") {
  auto prepare = [](Fixture& f, FakeRunner& runner) {
    f.study.search.strategy = "grid";
    f.study.search.repeats = 3;
    f.options.max_trials = 12;
    f.options.anchor_every = 0;
    runner.noise = 0.5;
    runner.failures = {
        {3, study::Status::kOom}, {5, study::Status::kRunCrash}, {12, study::Status::kTimeout}};
  };
  for (int stop_at : {0, 7, 14, 20}) {
    CAPTURE(stop_at);
    Fixture f;
    FakeRunner runner, again;
    prepare(f, runner);
    prepare(f, again);
    runner.before_run = [&](const study::TrialRequest& request) {
      if (request.trial_id == stop_at) {
        study::set_interrupted(15);
      }
    };
    if (f.start(runner).end == study::EndReason::kInterrupted) {
      f.resume(again);
    }
    auto content = f.content();
    // Of 12 points one runs out of memory, which dooms three, and one crashes; the other 7 run twice more, and what fails
    // in a repeat is not tried once more.
    std::map<std::string, int> phases;
    for (const base::Json* end : content.of_type("trial_end")) {
      ++phases[(*end)["phase"].get<std::string>()];
    }
    CHECK_EQ(phases["default"] + phases["grid"], 9);
    CHECK_EQ(phases["repeat"], 14);
    auto grid = study::recorded_grid(f.study, content, "t.jsonl");
    REQUIRE(grid.ok());
    auto census = grid->census();
    CHECK_EQ(census.points, 12);
    CHECK_EQ(census.feasible, 7);
    CHECK_EQ(census.failed, 1);
    CHECK_EQ(census.out_of_memory, 1);
    CHECK_EQ(census.inferred, 3);
    CHECK_EQ(census.missing, 0);
    CHECK_GT(census.scatter, 0);
    CHECK_LT(census.scatter, 0.02);
    CHECK(search::equal(grid->best()->config[0], int64_t{8}));
    CHECK_EQ(grid->points()[0].launches, 3);
    // How far luck may carry a speed before a limit breaks, by itself and against the default's.
    study::Study limited = f.study;
    limited.objective.subject_to = {*search::Expression::parse("decode_tps >= 90"),
                                    *search::Expression::parse("decode_tps >= 0.5 * default.decode_tps")};
    auto margins = study::recorded_grid(limited, content, "t.jsonl");
    REQUIRE(margins.ok());
    const double usual = grid->points()[0].outcome.objective[0], best = grid->best()->outcome.objective[0];
    CHECK_EQ(margins->points()[0].margin.alone, doctest::Approx(std::log(usual / 90)).epsilon(0.02));
    CHECK_EQ(margins->best()->margin.to_default,
             doctest::Approx(std::log(best / (0.5 * usual))).epsilon(0.02));
  }
  // The command, on a journal whose header has the space.
  Fixture whole;
  FakeRunner steady;
  prepare(whole, steady);
  const std::string text =
      "study: t\nmodel: m\naxes:\n  n_batch: {values: [1, 2, 4, 8], default: 1}\n"
      "  n_threads: {values: [1, 2, 3], default: 1}\nobjective: {maximize: decode_tps}\n"
      "probes: {quality: off, needle: off}\n";
  auto parsed = study::parse_space_file(text, "t.yaml");
  whole.header = study::study_header(std::get<study::Study>(parsed), study::ServerProgram(), nullptr);
  whole.start(steady);
  const std::string table = whole.path + ".md";
  auto replay = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "replay");
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
      argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    return study::replay_command(static_cast<int>(arguments.size()), argv.data());
  };
  CHECK_EQ(replay({whole.path, "--seeds", "3", "--max-trials", "12", "--strategy", "random,model-based",
                   "--out", table}),
           0);
  std::stringstream written;
  written << std::ifstream(table).rdbuf();
  std::filesystem::remove(table);
  CHECK_NE(written.str().find(
               "- t: 9 points launched, 7 feasible, 1 over a memory limit, 1 failed, 0 with a single"),
           std::string::npos);
  CHECK_NE(written.str().find("| model-based |"), std::string::npos);
  CHECK_EQ(replay({whole.path, "--json", "--seeds", "1"}), 0);
  CHECK_EQ(replay({whole.path, "--strategy", "rnadom"}), study::kExitUsage);
  CHECK_EQ(replay({whole.path, "--noise", "5x"}), study::kExitUsage);
  CHECK_EQ(replay({whole.path + ".missing"}), study::kExitJournal);
  // Nothing to look for.
  Fixture f;
  FakeRunner runner;
  runner.failures = {{1, study::Status::kRunCrash}, {2, study::Status::kRunCrash}};
  f.options.max_trials = 2;
  f.start(runner);
  auto grid = study::recorded_grid(f.study, f.content(), "t.jsonl");
  REQUIRE_FALSE(grid.ok());
  CHECK_EQ(grid.failure().what, "holds 1 configurations, 0 of them feasible");
}

TEST_CASE("the default runs again among the repeats, and the drift that shows is taken out there") {
  Fixture f;
  f.study.search.strategy = "grid";
  f.study.search.repeats = 3;
  f.options.max_trials = 12;
  f.options.anchor_every = 4;
  FakeRunner first, again;
  for (FakeRunner* runner : {&first, &again}) {
    runner->speed = [](int launch) { return launch <= 12 ? 1 : 0.5; };  // from the first repeat on
  }
  first.before_run = [&](const study::TrialRequest& request) {
    if (request.trial_id == 23) {
      study::set_interrupted(15);
    }
  };
  CHECK_EQ(f.start(first).end, study::EndReason::kInterrupted);
  again.launches = 22;
  CHECK_EQ(f.resume(again).end, study::EndReason::kFinished);
  int repeats = 0, anchors = 0, points = 0, since = 0, most = 0;
  double drift = 0;
  auto content = f.content();
  for (const base::Json* end : content.of_type("trial_end")) {
    const std::string phase = (*end)["phase"];
    (phase == "repeat" ? repeats : phase == "anchor" ? anchors : points) += 1;
    since =
        phase == "anchor" || (*end)["params"] == (*content.of_type("trial_end")[0])["params"] ? 0 : since + 1;
    most = std::max(most, since);
    drift = (*end)["drift"];
  }
  // Anchors of the search count as trials, so they take the place of points; those among the repeats take nothing.
  CHECK_EQ(points, 10);
  CHECK_EQ(repeats, 20);
  CHECK_GE(anchors, 2 + 4);
  CHECK_EQ(most, 4);
  CHECK_EQ(drift, doctest::Approx(0.5).epsilon(0.01));
  auto grid = study::recorded_grid(f.study, content, "t.jsonl");
  REQUIRE(grid.ok());
  CHECK_LT(grid->census().scatter, 0.02);
}

TEST_CASE("a journal cut at any byte resumes to the same study") {
  Fixture f;
  FakeRunner runner;
  f.start(runner);
  auto undisturbed = f.ends();
  std::ifstream file(f.path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  size_t header_end = text.find('\n') + 1;
  for (size_t cut = header_end; cut < text.size(); cut += 97) {
    CAPTURE(cut);
    std::ofstream(f.path, std::ios::trunc) << text.substr(0, cut);
    FakeRunner again;
    f.resume(again);
    CHECK_EQ(f.ends(), undisturbed);
  }
}

TEST_CASE(
    "after a reboot the interrupted trial is a host crash: not run again, out of memory to the search") {
  Fixture f;
  FakeRunner first;
  first.before_run = [](const study::TrialRequest& request) {
    if (request.trial_id == 2) {
      study::set_interrupted(15);
    }
  };
  f.start(first);
  f.boot = "boot-2";
  FakeRunner second;
  f.resume(second);
  auto content = f.content();
  const base::Json& crashed = *content.of_type("trial_end")[1];
  CHECK_EQ(crashed["status"], "host_crash");
  CHECK_EQ(crashed["attempt"], 1);
  for (const study::TrialRequest& request : second.seen) {
    CHECK_NE(request.params_hash, crashed["params_hash"].get<std::string>());
  }
  CHECK(content.interrupted().empty());
}

TEST_CASE("no feasible trial, and time that is used up") {
  SUBCASE("nothing works") {
    Fixture f;
    FakeRunner runner;
    for (int i = 1; i <= 40; ++i) {
      runner.failures[i] = study::Status::kLoadCrash;
    }
    CHECK_EQ(f.start(runner).verdict, study::Verdict::kNoFeasible);
  }
  SUBCASE("budget") {
    Fixture f;
    f.options.budget_s = 1e-9;
    FakeRunner runner;
    auto result = f.start(runner);
    CHECK_EQ(result.end, study::EndReason::kBudget);
    CHECK(runner.seen.empty());
    CHECK_EQ(f.content().records.back()["finished"], false);
    f.options.budget_s = 0;
    FakeRunner more;
    CHECK_EQ(f.resume(more).end, study::EndReason::kFinished);
  }
}

TEST_CASE("confirmation launches winner and default afresh, in turns, and survives a resume") {
  Fixture f;
  f.options.confirm_launches = 3;
  FakeRunner first;
  first.noise = 1;
  int confirmations = 0;
  first.before_run = [&](const study::TrialRequest& request) {
    if (request.proposal.phase == study::kConfirmPhase && ++confirmations == 3) {
      study::set_interrupted(2);
    }
  };
  CHECK_EQ(f.start(first).end, study::EndReason::kInterrupted);
  FakeRunner second;
  second.noise = 1;
  auto result = f.resume(second);
  CHECK_EQ(result.verdict, study::Verdict::kConfirmed);
  std::map<std::string, int> launches;
  auto content = f.content();
  for (const base::Json* end : content.of_type("trial_end")) {
    if ((*end)["phase"] == "confirm") {
      ++launches[(*end)["params_hash"].get<std::string>()];
    }
  }
  REQUIRE_EQ(launches.size(), 2);
  const base::Json& confirmation = content.records.back()["confirmation"];
  CHECK_GE(confirmation["pairs"], 3);
  CHECK_EQ(confirmation["pairs"], confirmation["planned"]);
  for (const auto& [hash, count] : launches) {
    CHECK_EQ(count, confirmation["pairs"]);
  }
}

TEST_CASE("nothing is launched after Ctrl-C while waiting for memory, nor below the floor") {
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  SUBCASE("stopped while waiting") {
    Fixture f;
    f.options.min_headroom_bytes = kNever;
    f.options.memory_wait_s = 30;
    FakeRunner runner;
    std::jthread user([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      study::set_interrupted(2);
    });
    CHECK_EQ(f.start(runner).end, study::EndReason::kInterrupted);
    CHECK(runner.seen.empty());
  }
  SUBCASE("memory gone before the confirmation") {
    Fixture f;
    f.options.confirm_launches = 3;
    f.options.memory_wait_s = 0.1;
    FakeRunner runner;
    int confirmations = 0;
    runner.before_run = [&](const study::TrialRequest& request) {
      if (request.proposal.phase == study::kConfirmPhase && ++confirmations == 2) {
        f.options.min_headroom_bytes = kNever;
      }
    };
    auto result = f.start(runner);
    CHECK_EQ(result.end, study::EndReason::kMemory);
    CHECK_EQ(result.verdict, study::Verdict::kUnconfirmed);
    CHECK_EQ(confirmations, 2);
    CHECK_EQ(f.content().records.back()["finished"], false);
  }
}

TEST_CASE("pairs are compared by their log-ratios") {
  auto sure = study::compare_pairs({11, 11.1, 10.9}, {10, 10.1, 9.9});
  CHECK_EQ(sure.pairs, 3);
  CHECK_EQ(sure.ratio, doctest::Approx(1.1).epsilon(0.01));
  CHECK_GT(sure.low, 1);
  auto noise = study::compare_pairs({11, 9, 10.5}, {10, 10.1, 9.9});
  CHECK_LT(noise.low, 1);
  CHECK_GT(noise.high, 1);
  CHECK_EQ(study::compare_pairs({}, {}).pairs, 0);
  CHECK_EQ(study::compare_pairs({1, 0}, {1, 1}).pairs, 1);  // a zero is no measurement
}

TEST_CASE(
    "a server that is lost ends the run and uses nothing up; under the same trial twice it is the trial's") {
  Fixture whole;
  FakeRunner healthy;
  whole.start(healthy);
  const auto undisturbed = whole.ends();

  Fixture f;
  FakeRunner runner;
  for (bool in_trial : {false, true}) {
    runner.losses = {{3, in_trial}};
    study::LoopResult result = in_trial ? f.resume(runner) : f.start(runner);
    CHECK_EQ(result.end, study::EndReason::kServerLost);
    CHECK_EQ(result.reason, "the server is gone");
    CHECK_EQ(f.ends().size(), 2);
    auto content = f.content();
    CHECK_EQ(content.records.back()["type"], "study_end");
    CHECK_EQ(content.records.back()["finished"], false);
    CHECK_EQ(content.records.back()["lost_trial_id"], in_trial ? base::Json(3) : base::Json(nullptr));
  }
  SUBCASE("it serves again: as if nothing had been") {
    runner.losses.clear();
    CHECK_EQ(f.resume(runner).end, study::EndReason::kFinished);
    CHECK(f.ends() == undisturbed);
  }
  SUBCASE("the trial ends it again: an end of its own, and the run stops once more") {
    CHECK_EQ(f.resume(runner).end, study::EndReason::kServerLost);
    REQUIRE_EQ(f.ends().size(), 3);
    CHECK(f.ends().back().ends_with(" run_crash"));
    CHECK_EQ(f.resume(runner).end, study::EndReason::kFinished);
  }
}

TEST_CASE("the user's stop while a server is waited for is the user's stop") {
  Fixture f;
  FakeRunner runner;
  runner.losses = {{3, true}};
  runner.stopped_while_lost = true;
  CHECK_EQ(f.start(runner).end, study::EndReason::kInterrupted);
  CHECK_NE(f.content().records.back()["type"], "study_end");  // nothing that a resume would count
}

TEST_CASE("one trial without losses says nothing of the next, unless the server never gives any") {
  const base::Json given = {{"ppl", 8.0}}, never = {{"unsupported", "no such route"}, {"for_good", true}},
                   once = {{"unsupported", "HTTP 503"}, {"for_good", false}},
                   older = {{"unsupported", "of an older journal"}};
  using Told = std::pair<bool, bool>;
  auto told = [](std::map<int, base::Json> perplexity) {
    Fixture f;
    f.options.max_trials = 4;
    FakeRunner runner;
    runner.perplexity = std::move(perplexity);
    f.start(runner);
    REQUIRE_EQ(runner.told_of_losses.size(), 4);
    return runner.told_of_losses;
  };
  CHECK(told({{1, given}, {2, never}, {3, once}}).back() == Told(false, true));
  CHECK(told({{1, once}, {2, once}, {3, once}}).back() == Told(false, false));
  CHECK(told({{1, never}}).back() == Told(true, false));
  CHECK(told({{1, older}}).back() == Told(true, false));
}
