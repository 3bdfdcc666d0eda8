#include "src/study/loop.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "src/study/commands.h"
#include "src/study/header.h"
#include "src/study/interrupt.h"
#include "src/study/recorded_grid.h"

namespace {

using Key = std::pair<std::string, int>;

search::Axis axis(const char* name, std::vector<search::Value> values) {
  search::Axis out;
  out.name = name;
  out.values = std::move(values);
  return out;
}

study::Study make_study() {
  study::Study study;
  study.name = "t";
  study.space.axes = {axis("n_batch", {int64_t{1}, int64_t{2}, int64_t{4}, int64_t{8}}),
                      axis("n_threads", {int64_t{1}, int64_t{2}, int64_t{3}})};
  study.objective.maximize = {*search::Expression::parse("decode_tps")};
  study.search.max_trials = 10;
  return study;
}

// decode_tps = 100 * n_batch - 5 * n_threads; what goes wrong is scripted by trial number.
class FakeRunner : public study::TrialRunner {
 public:
  std::map<int, study::Status> failures;
  std::map<int, bool> losses;  // the server is lost; true: in the trial
  bool stopped_while_lost = false;
  std::map<int, base::Json> perplexity;               // of these trials' records
  std::vector<std::pair<bool, bool>> told_of_losses;  // TrialContext: no_losses, losses_given
  std::function<void(const study::TrialRequest&)> before_run;
  std::vector<study::TrialRequest> seen;
  double noise = 0;

  base::Result<study::LaunchPlan> plan(const study::TrialRequest& request) override {
    study::LaunchPlan plan;
    plan.argv = {"server", "--port", "1", "--api-key", "hush", std::to_string(request.trial_id)};
    return plan;
  }
  study::TrialRecord run(const study::TrialRequest& request, const study::LaunchPlan&,
                         const study::TrialContext& context) override {
    seen.push_back(request);
    told_of_losses.emplace_back(context.no_losses, context.losses_given);
    if (before_run) {
      before_run(request);
    }
    study::TrialRecord record;
    record.t_total_s = 0.01;
    if (study::interrupted()) {
      record.status = study::Status::kInterrupted;
      return record;
    }
    if (auto loses = losses.find(request.trial_id); loses != losses.end()) {
      record.status = study::Status::kRunCrash;
      record.reason = "gone";
      record.server_lost = "the server is gone";
      record.lost_in_trial = loses->second;
      if (stopped_while_lost) {
        study::set_interrupted(2);
      }
      return record;
    }
    auto failure = failures.find(request.trial_id);
    if (failure != failures.end()) {
      record.status = failure->second;
      record.reason = "scripted";
      return record;
    }
    if (auto scripted = perplexity.find(request.trial_id); scripted != perplexity.end()) {
      record.perplexity = scripted->second;
    }
    record.metrics.config = request.proposal.config;
    double batch = static_cast<double>(std::get<int64_t>(request.proposal.config[0]));
    double threads = static_cast<double>(std::get<int64_t>(request.proposal.config[1]));
    record.metrics.values["decode_tps"] =
        100 * batch - 5 * threads + noise * static_cast<double>(seen.size() % 3);
    return record;
  }
};

class Silent : public study::LoopObserver {
 public:
  std::vector<std::string> notes;
  void trial_started(int, int, const study::TrialRequest&) override {}
  void trial_ended(const study::TrialRequest&, const study::TrialRecord&, bool) override {}
  void note(std::string_view line) override { notes.emplace_back(line); }
};

struct Fixture {
  std::string path =
      (std::filesystem::temp_directory_path() / ("ar-loop-" + std::to_string(getpid()) + ".jsonl")).string();
  study::Study study = make_study();
  study::LoopOptions options;
  Silent observer;
  std::string boot = "boot-1";
  base::Json header = {{"type", "study"}, {"schema_version", 1}, {"study_id", "t-1"}};

  Fixture() {
    std::filesystem::remove(path);
    options.max_trials = 10;
    options.confirm_launches = 0;
  }
  ~Fixture() {
    study::set_interrupted(0);
    std::filesystem::remove(path);
  }
  study::LoopResult start(FakeRunner& runner) {
    auto journal = study::Journal::create(path, header);
    REQUIRE(journal.ok());
    study::JournalContent past;
    past.header = header;
    return finish(past, *journal, runner);
  }
  study::LoopResult resume(FakeRunner& runner) {
    study::set_interrupted(0);
    auto opened = study::Journal::open(path);
    REQUIRE(opened.ok());
    return finish(opened->second, opened->first, runner);
  }
  study::LoopResult finish(const study::JournalContent& past, study::Journal& journal, FakeRunner& runner) {
    auto result = study::run_loop(study, past, journal, runner, observer, options, boot);
    REQUIRE(result.ok());
    return *result;
  }
  study::JournalContent content() const {
    auto loaded = study::load_journal(path);  // checks the invariants
    REQUIRE(loaded.ok());
    return *loaded;
  }
  // params_hash -> status of every end that search made, in order.
  std::vector<std::string> ends() const {
    std::vector<std::string> out;
    study::JournalContent held = content();
    for (const base::Json* end : held.of_type("trial_end")) {
      out.push_back((*end)["params_hash"].get<std::string>() + " " + (*end)["status"].get<std::string>());
    }
    return out;
  }
};

}  // namespace

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
    CHECK_EQ(census.out_of_memory, 4);
    CHECK_EQ(census.missing, std::optional<size_t>(0));
    CHECK_GT(census.scatter, 0);
    CHECK_LT(census.scatter, 0.02);
    CHECK(search::equal(grid->best()->config[0], int64_t{8}));
    CHECK_EQ(grid->points()[0].launches, 3);
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
  CHECK_NE(written.str().find("- t: 12 points, 7 feasible, 4 out of memory, 1 failed"), std::string::npos);
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
  CHECK_EQ(grid.failure().what, "holds 2 configurations, 0 of them feasible");
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

namespace {

// Answers with every point of the grid, begun elsewhere each time: the first that are new are taken.
search::PluginReply scripted_answer(int exchange, const std::string& request) {
  CHECK(base::parse_json(request, "request").ok());
  base::Json proposals = base::Json::array({{{"params", {{"n_batch", 3}, {"n_threads", 1}}}}});
  for (int at = 5 * exchange; at < 5 * exchange + 12; ++at) {
    proposals.push_back({{"params", {{"n_batch", 1 << (3 - at % 4)}, {"n_threads", 3 - at / 4 % 3}}},
                         {"rationale", "by script"}});
  }
  search::PluginReply reply;
  reply.line = base::dump_line({{"proposals", proposals}, {"usage", {{"cost_usd", 0.25}}}});
  reply.seconds = 0.001;
  return reply;
}

void add_plugin(Fixture& f, int& asked, double time_share = 1000) {
  f.study.search.plugin.emplace();
  f.study.search.plugin->name = "exec";
  f.study.search.plugin->argv = {"unused"};
  f.study.search.plugin->time_share = time_share;
  f.study.search.plugin->share = 0.5;
  f.options.ask_plugin = [&](int exchange, const std::string& request, double patience_s) {
    ++asked;
    CHECK_GT(patience_s, 0);
    CHECK_LE(patience_s, 60);
    return scripted_answer(exchange, request);
  };
}

}  // namespace

TEST_CASE("a plugin's trials and exchanges are in the journal, and resume takes them from there") {
  std::vector<std::string> undisturbed;
  int asked = 0;
  {
    Fixture f;
    add_plugin(f, asked);
    FakeRunner runner;
    f.start(runner);
    undisturbed = f.ends();
    auto content = f.content();
    auto exchanges = content.of_type("plugin");
    REQUIRE_EQ(static_cast<int>(exchanges.size()), asked);
    REQUIRE_GE(asked, 2);
    const base::Json& first = *exchanges[0];
    CHECK_EQ(first["exchange"], 1);
    CHECK_EQ(first["proposer"], "exec");
    CHECK_EQ(first["usage"]["cost_usd"], 0.25);
    CHECK(first["fault"].is_null());
    CHECK_EQ(first["refused"][0]["params"]["n_batch"], 3);
    int proposed = 0, ends = 0;
    for (const base::Json* end : content.of_type("trial_end")) {
      bool its = (*end)["phase"] == "plugin";
      proposed += its ? 1 : 0;
      CHECK_EQ((*end)["proposer"], its ? "exec" : "two-phase");
      CHECK_LE(proposed, 0.5 * ++ends);
      if (its) {
        CHECK_EQ((*end)["rationale"], "by script");
      }
    }
    CHECK_GE(proposed, 3);
  }
  for (int stop_at = 1; stop_at <= static_cast<int>(undisturbed.size()); ++stop_at) {
    CAPTURE(stop_at);
    Fixture f;
    int asked_again = 0;
    add_plugin(f, asked_again);
    FakeRunner first;
    first.before_run = [&](const study::TrialRequest& request) {
      if (request.trial_id == stop_at) {
        study::set_interrupted(15);
      }
    };
    CHECK_EQ(f.start(first).end, study::EndReason::kInterrupted);
    FakeRunner second;
    f.resume(second);
    CHECK_EQ(f.ends(), undisturbed);
    CHECK_EQ(asked_again, asked);
    CHECK(f.observer.notes.empty());
  }
}

TEST_CASE("a plugin is not asked where there is no time for it, and its faults change no trial") {
  std::vector<std::string> alone;
  {
    Fixture f;
    FakeRunner runner;
    f.start(runner);
    alone = f.ends();
  }
  Fixture f;
  int asked = 0;
  std::string says = "search.plugin.time";
  SUBCASE("trials of 10 ms leave no time") {
    add_plugin(f, asked, 0.05);
  }
  SUBCASE("late") {
    add_plugin(f, asked);
    says = "timed out after 1 s";
    f.options.ask_plugin = [&](int, const std::string&, double) {
      search::PluginReply reply;
      reply.fault = says;
      reply.seconds = 1;
      return reply;
    };
  }
  FakeRunner runner;
  f.start(runner);
  CHECK_EQ(asked, 0);
  CHECK_EQ(f.ends(), alone);
  auto content = f.content();
  CHECK_EQ(content.of_type("plugin").empty(), says[0] == 's');
  auto ends = content.of_type("trial_end");
  CHECK_FALSE(ends[0]->contains("fallback"));
  REQUIRE(ends[3]->contains("fallback"));
  CHECK_NE((*ends[3])["fallback"].get<std::string>().find(says), std::string::npos);
}
