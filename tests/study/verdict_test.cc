// Whole studies in process against a scripted runner: what the loop concludes, and in what time.

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "src/study/interrupt.h"
#include "src/study/loop.h"
#include "tests/study/loop_rig.h"

namespace {

study::Study make_study() {
  study::Study study;
  study.name = "box";
  for (const char* name : {"n_threads", "n_batch", "n_ubatch", "ctx_checkpoints", "poll"}) {
    search::Axis axis;
    axis.name = name;
    axis.values = {int64_t{1}, int64_t{2}, int64_t{4}};
    axis.default_index = 1;
    study.space.axes.push_back(axis);
  }
  study.objective.maximize = {*search::Expression::parse("decode_tps")};
  study.probes.speed_options.repeats = 3;
  return study;
}

// 20 tok/s, times `effect` where n_batch is 4; noise by trial number, so that a resumed study sees the same.
class Box : public study::TrialRunner {
 public:
  double effect = 1, model_effect = 1;  // the latter of what a model proposes
  double launch_noise = 0.05, sample_noise = 0.02, drift_per_launch = 1;
  uint64_t seed = 1;
  bool reuse = false, running = false;
  bool foreign = false;  // a url's server: never a fresh process
  std::set<int> fails;   // trials that crash
  double process_luck = 0;
  double clock_s = 0, load_s = 600, quality_s = 200, speed_s = 60;
  std::map<std::string, int> phases;
  int cold_confirmations = 0;
  std::function<void(const study::TrialRequest&)> before_run;

  base::Result<study::LaunchPlan> plan(const study::TrialRequest&) override { return study::LaunchPlan(); }
  bool in_place(const search::Config&, const search::Config&) const override { return reuse; }
  void release() override { running = false; }
  study::TrialRecord run(const study::TrialRequest& request, const study::LaunchPlan&,
                         const study::TrialContext& context) override {
    if (before_run) {
      before_run(request);
    }
    study::TrialRecord record;
    if (study::interrupted()) {
      record.status = study::Status::kInterrupted;
      return record;
    }
    if (fails.contains(request.trial_id)) {
      running = false;
      record.status = study::Status::kRunCrash;
      return record;
    }
    std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(request.trial_id));
    std::normal_distribution<double> normal;
    ++phases[request.proposal.phase];
    cold_confirmations += request.proposal.phase == study::kConfirmPhase && request.cold ? 1 : 0;
    // A process has its luck for as long as it lives; a resumed study starts with another one.
    record.cold = !foreign && (!reuse || request.cold || !running);
    running = true;
    double luck = launch_noise * normal(random);
    process_luck = record.cold ? luck : process_luck;
    double speed = 20 * std::exp(process_luck) * std::pow(drift_per_launch, request.trial_id);
    speed *= search::equal(request.proposal.config[1], int64_t{4}) ? effect : 1;
    speed *= request.proposal.phase == "model" ? model_effect : 1;
    std::array<double, 3> samples;
    for (double& sample : samples) {
      sample = speed * std::exp(sample_noise * normal(random));
    }
    std::sort(samples.begin(), samples.end());
    record.metrics.config = request.proposal.config;
    record.metrics.values = {
        {"decode_tps", samples[1]},
        {"decode_tps_mad", 1.4826 * std::min(samples[2] - samples[1], samples[1] - samples[0])},
        {"decode_tps_samples", 3}};
    double jitter = 0.8 + 0.4 * std::uniform_real_distribution<double>()(random);
    (record.cold ? record.t_load_s : record.t_reconfigure_s) = (record.cold ? load_s : 5) * jitter;
    record.t_measure_s = speed_s * jitter;
    if (context.gate) {
      if (auto early = context.gate(record.metrics)) {
        record.status = early->status;
        record.reason = early->reason;
      }
    }
    if (!request.speed_only && record.status == study::Status::kOk) {
      *record.t_measure_s += quality_s * jitter;
    }
    record.t_total_s = *(record.cold ? record.t_load_s : record.t_reconfigure_s) + *record.t_measure_s;
    clock_s += record.t_total_s;
    return record;
  }
};

// A journal where syncing costs nothing, when the machine has such a place.
std::string journal_path(const char* name) {
  std::error_code problem;
  std::filesystem::path shm = "/dev/shm";
  bool usable = std::filesystem::is_directory(shm, problem) && access(shm.c_str(), W_OK) == 0;
  auto folder = usable ? shm : std::filesystem::temp_directory_path();
  return (folder / ("ar-" + std::string(name) + "-" + std::to_string(getpid()) + ".jsonl")).string();
}

struct Run {
  std::string path = journal_path("verdict");
  study::Study study = make_study();
  study::LoopOptions options;
  loop_rig::Silent observer;
  study::JournalContent content;
  std::string boot = "boot";

  Run() {
    std::filesystem::remove(path);
    options.max_trials = 30;
    options.anchor_every = 8;
  }
  ~Run() {
    study::set_interrupted(0);
    std::filesystem::remove(path);
  }
  study::LoopResult start(Box& box) {
    std::filesystem::remove(path);
    study::JournalContent past;
    past.header = {{"type", "study"}, {"schema_version", 1}, {"study_id", "t-1"}};
    auto journal = study::Journal::create(path, past.header);
    REQUIRE(journal.ok());
    return finish(past, *journal, box);
  }
  study::LoopResult resume(Box& box) {
    study::set_interrupted(0);
    auto opened = study::Journal::open(path);
    REQUIRE(opened.ok());
    return finish(opened->second, opened->first, box);
  }
  study::LoopResult finish(const study::JournalContent& past, study::Journal& journal, Box& box) {
    options.now_s = [&box] { return box.clock_s; };
    auto result = study::run_loop(study, past, journal, box, observer, options, boot);
    REQUIRE(result.ok());
    auto loaded = study::load_journal(path);
    REQUIRE(loaded.ok());
    content = *loaded;
    return *result;
  }
  // Of all trials, or of those before the confirmation.
  std::vector<std::string> ends(bool confirm = true) const {
    std::vector<std::string> out;
    for (const base::Json* end : content.of_type("trial_end")) {
      if (!confirm && (*end)["phase"] == study::kConfirmPhase) {
        continue;
      }
      out.push_back((*end)["phase"].get<std::string>() + " " + (*end)["params_hash"].get<std::string>() +
                    " " + (*end)["status"].get<std::string>());
    }
    return out;
  }
};

int count_of(study::Verdict verdict, double effect, bool reuse, int seeds) {
  int count = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    Run run;
    run.study.search.seed = static_cast<uint64_t>(seed);
    Box box;
    box.seed = static_cast<uint64_t>(seed);
    box.effect = effect;
    box.reuse = reuse;
    study::Verdict found = run.start(box).verdict;
    count += found == verdict ? 1 : 0;
    if (found != verdict) {
      std::string winner;
      for (const base::Json* end : run.content.of_type("trial_end")) {
        if ((*end)["trial_id"] == run.content.records.back()["best_trial_id"]) {
          winner = (*end)["params"].dump();
        }
      }
      MESSAGE("seed ", seed, ": ", run.content.records.back().dump(), " ", winner);
    }
  }
  return count;
}

}  // namespace

TEST_CASE("a true +10% is confirmed, at 5% noise between launches") {
  CHECK_GE(count_of(study::Verdict::kConfirmed, 1.10, false, 100), 90);
}

TEST_CASE("where nothing differs the default stands, at 5% noise between launches") {
  CHECK_GE(count_of(study::Verdict::kDefaultStands, 1.0, false, 100), 95);
}

TEST_CASE("in place: ABBA blocks and cold launches that agree say the same") {
  CHECK_GE(count_of(study::Verdict::kConfirmed, 1.10, true, 100), 90);
  CHECK_GE(count_of(study::Verdict::kDefaultStands, 1.0, true, 100), 95);
  Run run;
  Box box;
  box.launch_noise = 0.01;
  box.effect = 1.3;
  box.reuse = true;
  CHECK_EQ(run.start(box).verdict, study::Verdict::kConfirmed);
  const base::Json& confirmation = run.content.records.back()["confirmation"];
  CHECK_EQ(confirmation["in_place"], true);
  CHECK_EQ(confirmation["pairs"], 6);
  CHECK_EQ(confirmation["cold_pairs"], 2);
  CHECK_EQ(box.phases["confirm"], 28);
  CHECK_EQ(box.cold_confirmations, 4);
}

TEST_CASE("the confirmation fits into the budget, whatever it is") {
  for (double hours : {4.0, 6.0, 8.0, 10.0}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      CAPTURE(hours);
      CAPTURE(seed);
      Run run;
      run.study.search.budget_s = run.options.budget_s = hours * 3600;
      run.study.backend.load_estimate_s = 600;
      Box box;
      box.seed = seed;
      box.launch_noise = 0.01;
      box.effect = 1.5;
      auto result = run.start(box);
      CHECK_LE(box.clock_s, hours * 3600);
      if (run.content.records.back()["best_trial_id"] != 1) {
        CHECK_EQ(result.verdict, study::Verdict::kConfirmed);
        CHECK_GE(box.phases["confirm"], 6);
      }
    }
  }
}

TEST_CASE("drift is flagged and taken out; the journal keeps what was measured") {
  Run run;
  run.options.anchor_every = 4;
  run.options.max_trials = 40;
  Box box;
  box.launch_noise = 0.005;
  box.drift_per_launch = 0.99;
  auto result = run.start(box);
  CHECK_EQ(result.verdict, study::Verdict::kDefaultStands);
  CHECK_FALSE(run.observer.notes.empty());
  double last = 1;
  for (const base::Json* end : run.content.of_type("trial_end")) {
    if ((*end)["status"] == "ok") {
      last = (*end)["drift"].get<double>();
      CHECK_EQ((*end)["objective"][0].get<double>(),
               doctest::Approx((*end)["metrics"]["decode_tps"].get<double>() / last));
    }
  }
  CHECK_LT(last, 0.9);
}

TEST_CASE("with anchors, skips, finals and blocks: cut anywhere, the study resumes to the same end") {
  Run run;
  run.options.anchor_every = 3;
  run.options.max_trials = 14;
  run.options.cannot_fit = [](const search::Config& config) {
    return search::equal(config[2], int64_t{4}) ? std::string("by its size") : std::string();
  };
  Box box;
  box.reuse = true;
  box.effect = 1.3;
  box.launch_noise = 0;  // each session has a process of its own
  run.start(box);
  CHECK_GE(box.phases["anchor"], 3);
  CHECK_GE(box.phases["final"], 1);
  CHECK_GE(box.phases["confirm"], 20);
  auto undisturbed = run.ends(false);
  int skipped = 0;
  for (const std::string& end : undisturbed) {
    skipped += end.ends_with("skipped_predicted") ? 1 : 0;
  }
  CHECK_GE(skipped, 1);
  const base::Json verdict = run.content.records.back();
  std::ifstream file(run.path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  for (size_t cut = text.find('\n') + 1; cut < text.size(); cut += 499) {
    CAPTURE(cut);
    std::ofstream(run.path, std::ios::trunc) << text.substr(0, cut);
    Box again;
    again.reuse = true;
    again.effect = 1.3;
    again.launch_noise = 0;
    run.resume(again);
    CHECK_EQ(run.ends(false), undisturbed);
    const base::Json& end = run.content.records.back();
    CHECK_EQ(end["verdict"], verdict["verdict"]);
    // A block that was cut through begins anew, in the new process; the plan stands.
    for (const char* same : {"pairs", "planned", "in_place", "cold_pairs"}) {
      CHECK_EQ(end["confirmation"][same], verdict["confirmation"][same]);
    }
  }
}

TEST_CASE("a confirmation remembers its failed launches and its plan, wherever it is cut") {
  for (size_t failing : {2, 3}) {
    CAPTURE(failing);
    Run run;
    run.options.max_trials = 14;
    Box box;
    box.effect = 1.3;
    run.start(box);
    for (const base::Json* end : run.content.of_type("trial_end")) {
      if ((*end)["phase"] == study::kConfirmPhase && box.fails.size() < failing) {
        box.fails.insert((*end)["trial_id"].get<int>());
      }
    }
    run.start(box);
    const base::Json verdict = run.content.records.back();
    CHECK_EQ(verdict["verdict"], failing == 2 ? "confirmed" : "unconfirmed");
    auto undisturbed = run.ends();
    std::ifstream file(run.path);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    for (size_t cut = text.find("\"phase\":\"confirm\""); cut <= text.size(); cut += 299) {
      CAPTURE(cut);
      std::ofstream(run.path, std::ios::trunc) << text.substr(0, cut);
      Box again;
      again.effect = 1.3;
      again.fails = box.fails;
      run.options.budget_s = 1e9;  // another session's time changes nothing
      run.resume(again);
      CHECK_EQ(run.ends(), undisturbed);
      CHECK_EQ(run.content.records.back()["verdict"], verdict["verdict"]);
      CHECK_EQ(run.content.records.back()["confirmation"], verdict["confirmation"]);
    }
  }
}

TEST_CASE("a server that is not ours to launch is judged by its blocks alone, and the reason says so") {
  for (int launches : {1, 3}) {
    Run run;
    run.options.max_trials = 14;
    run.options.confirm_launches = launches;
    run.study.backend.kind = study::BackendKind::kUrl;
    Box box;
    box.reuse = box.foreign = true;
    box.effect = 1.3;
    auto result = run.start(box);
    CHECK_EQ(result.verdict, launches == 3 ? study::Verdict::kConfirmed : study::Verdict::kUnconfirmed);
    CHECK_NE(result.reason.find("not ours to launch"), std::string::npos);
    CHECK_EQ(box.cold_confirmations, 0);
  }
}

TEST_CASE("a confirmation launch that took the machine down is not tried again") {
  Run run;
  run.options.max_trials = 14;
  Box box;
  box.effect = 1.3;
  int confirmations = 0;
  box.before_run = [&](const study::TrialRequest& request) {
    if (request.proposal.phase == study::kConfirmPhase && ++confirmations == 3) {
      study::set_interrupted(2);
    }
  };
  run.start(box);
  run.boot = "after the crash";
  for (int session = 0; session < 2; ++session) {
    Box again;
    again.effect = 1.3;
    CHECK_EQ(run.resume(again).verdict, study::Verdict::kUnconfirmed);
    CHECK_EQ(again.phases["confirm"], 0);
  }
}

TEST_CASE("missing a limit in every other fresh launch is not confirmed") {
  Run run;
  run.options.max_trials = 14;
  run.study.objective.maximize = {*search::Expression::parse("n_batch"),
                                  *search::Expression::parse("decode_tps")};
  run.study.objective.subject_to = {*search::Expression::parse("decode_tps >= 14")};
  Box box;
  box.launch_noise = 0.005;
  CHECK_EQ(run.start(box).verdict, study::Verdict::kConfirmed);  // decided by n_batch
  int launches = 0;
  box.before_run = [&](const study::TrialRequest& request) {
    bool winner = search::equal(request.proposal.config[1], int64_t{4});
    box.effect = request.proposal.phase == study::kConfirmPhase && winner && launches++ == 0 ? 0.5 : 1;
  };
  CHECK_EQ(run.start(box).verdict, study::Verdict::kUnconfirmed);
  CHECK_EQ(run.content.records.back()["confirmation"]["missed"], 1);
}

TEST_CASE("time that ends a confirmation early does not make the default stand") {
  Run run;
  run.options.max_trials = 14;
  Box box;
  box.launch_noise = 0.15;
  box.effect = 1.15;
  int confirmations = 0;
  box.before_run = [&](const study::TrialRequest& request) {
    if (request.proposal.phase == study::kConfirmPhase && ++confirmations == 6) {
      run.options.budget_s = 1;
    }
  };
  bool seen = false;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    box.seed = seed;
    confirmations = 0;
    run.options.budget_s = 0;
    auto verdict = run.start(box).verdict;
    const base::Json& confirmation = run.content.records.back()["confirmation"];
    if (confirmation.is_object() && confirmation["pairs"] < confirmation["planned"] &&
        confirmation["ratio_low"] <= 1.0 && confirmation["ratio_high"] > 1.03) {
      seen = true;
      CHECK_EQ(verdict, study::Verdict::kUnconfirmed);
    }
  }
  CHECK(seen);
}

TEST_CASE("a trial that cannot win or breaks a limit ends early, keeps its numbers, and is never the best") {
  Run run;
  run.study.objective.subject_to = {*search::Expression::parse("decode_tps >= 0.5 * default.decode_tps")};
  run.options.max_trials = 40;
  Box box;
  box.launch_noise = 0.005;
  box.effect = 0.3;
  run.start(box);
  int pruned = 0;
  for (const base::Json* end : run.content.of_type("trial_end")) {
    if ((*end)["status"] == "pruned") {
      ++pruned;
      CHECK_EQ((*end)["censored"], true);
      CHECK_EQ((*end)["feasible"], false);
      CHECK((*end)["metrics"]["decode_tps"].is_number());
      CHECK_FALSE(end->contains("objective"));
      CHECK_NE((*end)["trial_id"], run.content.records.back()["best_trial_id"]);
    }
  }
  CHECK_GE(pruned, 1);
}

TEST_CASE("two-phase's model is asked for winners alone; model-based sees its losers through") {
  for (const char* strategy : {"two-phase", "model-based"}) {
    CAPTURE(strategy);
    Run run;
    run.study.search.strategy = strategy;
    run.options.max_trials = 32;
    run.options.confirm_launches = 0;
    Box box;
    box.launch_noise = 0.005;
    box.model_effect = 0.6;
    run.start(box);
    int of_model = 0, pruned = 0;
    for (const base::Json* end : run.content.of_type("trial_end")) {
      of_model += (*end)["phase"] == "model" ? 1 : 0;
      pruned += (*end)["phase"] == "model" && (*end)["status"] == "pruned" ? 1 : 0;
    }
    CHECK_GE(of_model, 4);
    CHECK_EQ(pruned, std::string_view(strategy) == "two-phase" ? of_model : 0);
  }
}
