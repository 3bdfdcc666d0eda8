// What the driver itself costs: time per trial outside load and measurement, CPU while a model loads, memory after
// thousands of trials.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>

#include "bench/study_runs.h"
#include "src/base/stats.h"
#include "src/os/proc.h"
#include "src/study/loop.h"

namespace {

using bench::Json;

struct Options {
  int trials = 200, scripted = 5000;
  double wait_s = 30;
  std::string out;
};

// ---- memory and time of the loop alone: trials that never leave this process

class ScriptedRunner : public study::TrialRunner {
 public:
  base::Result<study::LaunchPlan> plan(const study::TrialRequest&) override {
    study::LaunchPlan plan;
    plan.argv = {"server", "--model", "model.gguf", "--ctx-size", "4096", "--cache-type-k", "f16"};
    return plan;
  }
  study::TrialRecord run(const study::TrialRequest& request, const study::LaunchPlan& plan,
                         const study::TrialContext&) override {
    study::TrialRecord record;
    record.argv = plan.argv;
    record.effective = {{"n_ctx", 4096}, {"total_slots", 1}, {"model_path", "model.gguf"}};
    record.t_load_s = 1;
    record.t_measure_s = 2;
    record.t_total_s = 3;
    double value = 100;
    for (const search::Value& axis : request.proposal.config) {
      value += static_cast<double>(std::get<int64_t>(axis) % 7);
    }
    record.metrics.config = request.proposal.config;
    record.metrics.values = {{"decode_tps", value}, {"prefill_tps", value * 10}, {"ttft_ms", 20},
                             {"quality", 1},        {"needle_recall", 1},        {"load_s", 1},
                             {"rss_gib", 1}};
    record.speed = {{"decode_tps", value}, {"samples", Json::array()}};
    record.quality = {{"score", 1}, {"items", Json::array()}};
    for (int i = 0; i < 50; ++i) {  // as many as configs/prompts/known-answer.json
      std::string id = fmt::format("a-question-of-usual-length-{}", i);
      record.metrics.quality_items[id] = true;
      record.quality["items"].push_back({{"id", id}, {"verdict", "pass"}, {"answer", "It is so."}});
    }
    return record;
  }
};

class Silent : public study::LoopObserver {
 public:
  void trial_started(int, int, const study::TrialRequest&) override {}
  void trial_ended(const study::TrialRequest&, const study::TrialRecord&, bool) override {}
  void note(std::string_view) override {}
};

bool scripted_trials(const Options& options, bench::Report& report) {
  e2e::Process directory;
  study::Study study;
  study.name = "scripted";
  for (const char* name : {"n_threads", "n_batch", "n_ubatch", "ctx_size"}) {
    search::Axis axis;
    axis.name = name;
    for (int64_t value = 1; value <= 12; ++value) {
      axis.values.emplace_back(value);
    }
    study.space.axes.push_back(std::move(axis));
  }
  study.objective.maximize = {*search::Expression::parse("decode_tps")};
  study.search.strategy = "random";
  study.search.max_trials = options.scripted;
  study::LoopOptions loop;
  loop.max_trials = options.scripted;
  loop.confirm_launches = 0;
  study::JournalContent past;
  past.header = {{"type", "study"}, {"schema_version", study::kSchemaVersion}, {"study_id", "bench"}};
  auto journal = study::Journal::create(directory.path("j.jsonl"), past.header);
  if (!journal) {
    fmt::print(stderr, "{}\n", journal.failure().to_string());
    return false;
  }
  ScriptedRunner runner;
  Silent observer;
  auto rss_mb = [] {
    auto memory = os::read_process_memory(::getpid());
    return memory ? static_cast<double>(memory->rss) / 1e6 : 0;
  };
  double before = rss_mb();
  auto begin = std::chrono::steady_clock::now();
  auto result = study::run_loop(study, past, *journal, runner, observer, loop, "boot");
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!result) {
    fmt::print(stderr, "{}\n", result.failure().to_string());
    return false;
  }
  double after = rss_mb();
  auto ended = bench::records(directory.path("j.jsonl"), "trial_end").size();
  report.line(
      "| scripted trials in process | RSS before | RSS after | a trial (two synced records) | journal |");
  report.line("|---|---|---|---|---|");
  report.line(fmt::format("| {} | {:.1f} MB | {:.1f} MB | {:.2f} ms | {:.1f} MB |\n", ended, before, after,
                          1e3 * seconds / static_cast<double>(std::max<size_t>(1, ended)),
                          static_cast<double>(std::filesystem::file_size(directory.path("j.jsonl"))) / 1e6));
  return ended == static_cast<size_t>(options.scripted);
}

// ---- real processes

std::string space_of(e2e::Process& process, int trials, const std::string& scenario,
                     const std::string& backend) {
  std::string values;
  for (int i = 1; i <= trials; ++i) {
    values += (i > 1 ? ", " : "") + std::to_string(i);
  }
  return process.scripted_space(
      "  n_threads: {values: [" + values + "], default: 1}\n", scenario,
      fmt::format("objective: {{maximize: [decode_tps]}}\nsearch: {{strategy: grid, max_trials: {}}}\n",
                  trials),
      "  quality: {suite: suite.json, margin: 0.05}\n  speed: {n_prompt: 64, n_gen: 16, repeats: 1, warmups: "
      "0}\n"
      "  needle: {lengths: [100], depths: [0.5]}\n  memory: {min_headroom_gib: 0}\n",
      backend);
}

void overhead(const Options& options, bench::Report& report) {
  report.line("| server | trials | median of the driver's own time | 90% | most | whole trial, median |");
  report.line("|---|---|---|---|---|---|");
  for (const char* reuse : {"never", "auto"}) {
    e2e::Process process;
    std::string space = space_of(process, options.trials,
                                 R"({"decode_tps": 200, "numerics": true, "reconfigure": ["n_threads"]})",
                                 std::string("  load_timeout: 20s\n  reuse: ") + reuse + "\n");
    bench::run_driver(
        process, {"run", "--space", space, "--out", process.path("j.jsonl"), "--confirm", "0", "--quiet"},
        3600, {0, 10});
    std::vector<double> own, whole;
    for (const Json& end : bench::records(process.path("j.jsonl"), "trial_end")) {
      double total = base::json_get<double>(end, "t_total_s", 0), outside = total;
      for (const char* part : {"t_load_s", "t_warmup_s", "t_measure_s", "t_reconfigure_s"}) {
        outside -= end.contains(part) && end[part].is_number() ? end[part].get<double>() : 0;
      }
      own.push_back(1000 * outside);
      whole.push_back(1000 * total);
    }
    report.line(fmt::format("| {} | {} | {:.1f} ms | {:.1f} ms | {:.1f} ms | {:.0f} ms |",
                            std::string(reuse) == "never" ? "a fresh one each trial" : "changed in place",
                            own.size(), base::median(own), base::quantile(own, 0.9), base::quantile(own, 1),
                            base::median(whole)));
  }
  report.line("");
}

// Seconds of CPU time of one process, its children left out.
double cpu_s(pid_t pid) {
  std::string stat = e2e::read(fmt::format("/proc/{}/stat", pid));
  size_t after_name = stat.rfind(')');
  if (after_name == std::string::npos) {
    return 0;
  }
  std::istringstream fields(stat.substr(after_name + 1));
  std::string field;
  double ticks = 0;
  for (int number = 3; fields >> field && number <= 15; ++number) {
    ticks += number >= 14 ? std::strtod(field.c_str(), nullptr) : 0;
  }
  return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

bool waiting(const Options& options, bench::Report& report) {
  e2e::Process process;
  std::string space =
      space_of(process, 1, fmt::format(R"({{"decode_tps": 200, "load_s": {}}})", options.wait_s + 10),
               fmt::format("  load_timeout: {:.0f}s\n", options.wait_s + 60));
  if (!process.spawn({e2e::program("autoresearch"), "run", "--space", space, "--out", process.path("j.jsonl"),
                      "--confirm", "0", "--quiet"})) {
    return false;
  }
  e2e::nap_ms(4000);  // past the first, quick polls
  pid_t driver = process.pid(), guard = 0;
  for (pid_t child : os::descendants(driver)) {
    if (e2e::has(e2e::read(fmt::format("/proc/{}/cmdline", child)), "guard")) {
      guard = child;
    }
  }
  double driver_before = cpu_s(driver), guard_before = guard > 0 ? cpu_s(guard) : 0;
  auto begin = std::chrono::steady_clock::now();
  e2e::nap_ms(static_cast<int>(options.wait_s * 1000));
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  bool still_loading = !process.poll().has_value();
  auto share = [&](double used) { return 100 * used / seconds; };
  double of_driver = share(cpu_s(driver) - driver_before);
  double of_guard = guard > 0 ? share(cpu_s(guard) - guard_before) : 0;
  auto memory = os::read_process_memory(driver);
  report.line("| waiting for a load | driver, of one core | guard, of one core | driver's RSS |");
  report.line("|---|---|---|---|");
  report.line(fmt::format("| {:.0f} s | {:.2f}% | {} | {:.1f} MB |", seconds, of_driver,
                          guard > 0 ? fmt::format("{:.2f}%", of_guard) : "not found",
                          memory ? static_cast<double>(memory->rss) / 1e6 : 0));
  return still_loading;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"what the driver itself costs"};
  app.add_option("--trials", options.trials, "trials with real processes")->check(CLI::Range(2, 1000));
  app.add_option("--scripted", options.scripted, "trials in process")->check(CLI::Range(1, 20000));
  app.add_option("--wait-s", options.wait_s, "seconds of a slow load to watch")
      ->check(CLI::Range(1.0, 3600.0));
  app.add_option("--out", options.out, "write the results there, such as results/driver-bench.md");
  CLI11_PARSE(app, argc, argv);
  bench::Report report("driver-bench: what the driver itself costs", argc, argv);
  bool good = scripted_trials(options, report);
  overhead(options, report);
  good = waiting(options, report) && good;
  return report.save(options.out) && good ? 0 : 1;
}
