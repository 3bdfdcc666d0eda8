// kill -9 at random instants, each followed by resume. Nothing that had finished may be lost or repeated, no process
// may outlive its driver by a second, and with the scripted server the study that comes out equals the undisturbed one
// (a real one measures other speeds each time, so its search may go another way).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <random>

#include "bench/study_runs.h"

namespace {

struct Options {
  int kills = 200;
  uint64_t seed = 1;
  std::string server = "fake", out;
  bool reuse = true;
};

std::string fake_space(e2e::Process& process, bool reuse) {
  return process.scripted_space(
      "  cache_type_k: {values: [f16, q8_0, q4_0], default: f16}\n"
      "  n_ubatch: {values: [128, 256], default: 128}\n",
      R"({"decode_tps": 200, "load_s": 0.1, "numerics": true, "reconfigure": ["cache_type_k", "n_ubatch"]})",
      "objective: {maximize: [decode_tps]}\nsearch: {strategy: grid, max_trials: 6}\n",
      "  quality: {suite: suite.json, margin: 0.05}\n"
      "  speed: {n_prompt: 64, n_gen: 16, repeats: 2, warmups: 0}\n"
      "  needle: {lengths: [200], depths: [0.5]}\n  memory: {min_headroom_gib: 0}\n",
      std::string("  load_timeout: 20s\n") + (reuse ? "" : "  reuse: never\n"));
}

std::string real_space(e2e::Process& process, bool reuse) {
  e2e::write(process.path("space.yaml"),
             "study: kills\nmodel: " + e2e::demo_model() + "\nbackend:\n  kind: tbq-server\n  binary: " +
                 e2e::program("tbq-server") + "\n  load_timeout: 60s\n" + (reuse ? "" : "  reuse: never\n") +
                 "axes:\n  cache_type_k: {values: [f16, q8_0, tbq4_0], default: f16}\n"
                 "  ctx_size: {values: [1024, 2048], default: 1024}\n"
                 "objective: {maximize: [decode_tps]}\nsearch: {strategy: grid, max_trials: 6}\n"
                 "probes:\n  quality: {suite: " +
                 std::string(AR_SOURCE_DIR) +
                 "/configs/prompts/demo.json}\n  speed: {n_prompt: 64, n_gen: 128, repeats: 2, warmups: 0}\n"
                 "  needle: {lengths: [300], depths: [0.5]}\n  memory: {min_headroom_gib: 0.1}\n");
  return process.path("space.yaml");
}

struct Tally {
  int kills = 0, too_late = 0, studies = 0, lost = 0, orphans = 0, different = 0;
  double slowest_end_s = 0;
};

// One study, killed again and again until it ends or enough kills were made.
void disturbed(const Options& options, double whole_s, const std::vector<std::string>& expected,
               std::mt19937_64& random, Tally& tally) {
  e2e::Process process;
  std::string journal = process.path("j.jsonl");
  std::string space =
      options.server == "fake" ? fake_space(process, options.reuse) : real_space(process, options.reuse);
  std::vector<std::string> finished;
  bool over = false;
  while (!over) {
    bool fresh = !std::filesystem::exists(journal) || e2e::read(journal).find('\n') == std::string::npos;
    std::vector<std::string> args = {e2e::program("autoresearch"), "resume", journal, "--confirm", "0"};
    if (fresh) {
      args = {e2e::program("autoresearch"), "run", "--space", space, "--out", journal, "--confirm", "0"};
    }
    if (!process.spawn(args)) {
      fmt::print(stderr, "{} could not be started\n", args[0]);
      std::exit(1);
    }
    std::optional<e2e::Result> ended;
    if (tally.kills < options.kills) {
      // Half of a trial on average is enough to meet every stage of one, and lets some of them end.
      auto delay_ms = static_cast<int>(whole_s * 1000 / 3 * static_cast<double>(random() % 1000) / 1000);
      e2e::nap_ms(delay_ms);
      process.signal(SIGKILL);
    }
    auto begin = std::chrono::steady_clock::now();
    while (!(ended = process.poll())) {
      e2e::nap_ms(2);
      if (std::chrono::steady_clock::now() - begin > std::chrono::minutes(10)) {
        fmt::print(stderr, "a resumed driver did not end\n");
        std::exit(1);
      }
    }
    bool killed = ended->code == 128 + SIGKILL;
    over = !killed;
    tally.kills += killed ? 1 : 0;
    tally.too_late += !killed && tally.kills < options.kills ? 1 : 0;
    auto dead = std::chrono::steady_clock::now();
    tally.orphans += process.all_gone(1) ? 0 : 1;
    if (killed) {
      tally.slowest_end_s =
          std::max(tally.slowest_end_s,
                   std::chrono::duration<double>(std::chrono::steady_clock::now() - dead).count());
    }
    std::vector<std::string> now = bench::results(journal);
    bool kept = now.size() >= finished.size() && std::equal(finished.begin(), finished.end(), now.begin());
    tally.lost += kept ? 0 : 1;
    finished = std::move(now);
    if (!killed && ended->code != 10 && ended->code != 0) {
      fmt::print(stderr, "the driver ended with {}\n{}{}\n", ended->code, ended->out, ended->err);
      std::exit(1);
    }
  }
  ++tally.studies;
  tally.different += options.server == "fake" && finished != expected ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"kill -9 at random instants, each followed by resume"};
  app.add_option("--kills", options.kills, "how many")->check(CLI::Range(1, 100000));
  app.add_option("--seed", options.seed, "of the instants");
  app.add_option("--server", options.server, "fake, or tbq (the bundled one)")
      ->check(CLI::IsMember({"fake", "tbq"}));
  bool never = false;
  app.add_flag("--never-reuse", never, "a fresh server for each trial");
  app.add_option("--out", options.out, "write the results there, such as results/kill-bench.md");
  CLI11_PARSE(app, argc, argv);
  options.reuse = !never;
  if (options.server == "tbq" && e2e::demo_model().empty()) {
    fmt::print(stderr, "no demo model; set AUTORESEARCH_REFERENCE\n");
    return 1;
  }
  bench::Report report("kill-bench: no finished trial lost, no orphan left", argc, argv);
  e2e::Process process;
  std::string space =
      options.server == "fake" ? fake_space(process, options.reuse) : real_space(process, options.reuse);
  e2e::Result whole = bench::run_driver(
      process, {"run", "--space", space, "--out", process.path("j.jsonl"), "--confirm", "0"}, 600, {0, 10});
  const std::vector<std::string> expected = bench::results(process.path("j.jsonl"));
  std::mt19937_64 random(options.seed);
  Tally tally;
  while (tally.kills < options.kills) {
    disturbed(options, whole.wall_s, expected, random, tally);
  }
  report.line(
      "| kills | studies ended | not equal to the undisturbed one | finished trials lost or changed | "
      "processes "
      "left 1 s after a kill | slowest end of all processes |");
  report.line("|---|---|---|---|---|---|");
  report.line(fmt::format("| {} | {} | {} | {} | {} | {:.2f} s |", tally.kills, tally.studies,
                          options.server == "fake" ? std::to_string(tally.different) : "not asked",
                          tally.lost, tally.orphans, tally.slowest_end_s));
  report.line(
      fmt::format("\n{} trials a study, {:.1f} s undisturbed; server {}; {} drivers ended before their kill.",
                  expected.size(), whole.wall_s, options.server, tally.too_late));
  bool good = tally.different + tally.lost + tally.orphans == 0;
  return report.save(options.out) && good ? 0 : 1;
}
