// What users get wrong: one clear line each and the right exit code.

#include "tests/e2e/driver.h"

#include <algorithm>

using e2e::has;

namespace {

constexpr const char* kAxes = "  n_ubatch: {values: [128, 256], default: 128}\n";
constexpr const char* kGoal =
    "objective: {maximize: [decode_tps]}\nsearch: {strategy: grid, max_trials: 2}\n";

size_t lines(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("a wrong command line or space file exits 2 and names the place") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kAxes, "{}", kGoal);
  const std::string good = e2e::read(space);
  auto edited = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    size_t at = text.find(from);
    REQUIRE_NE(at, std::string::npos);
    return text.replace(at, from.size(), to);
  };
  struct Case {
    const char* name;
    std::string text, said;
  };
  const Case cases[] = {
      {"a typo in a key", edited("objective:", "objektive:"), "did you mean objective"},
      {"a duplicate key", good + "study: twice\n", "a second time"},
      {"broken YAML", edited("study: scripted", "study: [scripted"), "bad.yaml:2:"},
      {"an axis nobody knows", edited("n_ubatch", "n_ubach"), "n_ubatch"},
      {"an unknown metric", edited("decode_tps", "decode_tsp"), "decode_tps"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.name);
    e2e::write(driver.path("bad.yaml"), c.text);
    e2e::Result result =
        driver.run({"run", "--space", driver.path("bad.yaml"), "--out", driver.path("j.jsonl")});
    CAPTURE(result.err);
    CHECK_EQ(result.code, 2);
    CHECK(has(result.err, c.said));
    CHECK_LE(lines(result.err), 3);
    CHECK_FALSE(std::filesystem::exists(driver.path("j.jsonl")));
  }
  CHECK_EQ(driver.run({"run", "--space", driver.path("missing.yaml")}).code, 2);
  CHECK_EQ(driver.run({"run"}).code, 2);
  CHECK_EQ(driver.run({"run", "--space", space, "--budget", "soon"}).code, 2);
  CHECK_EQ(driver.run({"run", "--space", space, "--until", "25:00"}).code, 2);
  CHECK_EQ(driver.run({}).code, 2);
  e2e::Result unknown = driver.run({"resumee"});
  CHECK_EQ(unknown.code, 2);
  CHECK(has(unknown.err, "did you mean resume"));
  CHECK_EQ(driver.run({"--help"}).code, 0);
  CHECK_EQ(driver.run({"run", "--help"}).code, 0);
  CHECK(has(driver.run({"--version"}).out, "autoresearch 0."));
}

TEST_CASE("what is missing on this machine exits 3 before anything is launched") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kAxes, "{}", kGoal);
  const std::string good = e2e::read(space), out = driver.path("j.jsonl");
  auto run_with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    e2e::write(space, text);
    return driver.run({"run", "--space", space, "--out", out});
  };
  e2e::Result result = run_with("model.bin", "no-such.gguf");
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "no such model file"));
  CHECK_EQ(lines(result.err), 1);

  result = run_with("/fake-server", "/no-such-server");
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "no-such-server"));

  // The first 2 KB of a GGUF, as a broken download leaves it.
  if (!e2e::demo_model().empty()) {
    e2e::write(driver.path("model.bin"), e2e::read(e2e::demo_model()).substr(0, 2000));
    result = run_with("scripted", "scripted");
    CAPTURE(result.err);
    CHECK_EQ(result.code, 3);
    CHECK(has(result.err, "model.bin"));
    CHECK_EQ(lines(result.err), 1);
  }
  CHECK_FALSE(std::filesystem::exists(out));

  e2e::write(space, good);
  e2e::write(driver.path("model.bin"), "x");
  result = driver.run({"run", "--space", space, "--out", driver.path("none.jsonl")});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "is no GGUF file"));
  e2e::write(driver.path("model.bin"), e2e::tiny_model());
  e2e::write(out, "my notes\n");
  result = driver.run({"run", "--space", space, "--out", out});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "already holds"));
  CHECK_EQ(e2e::read(out), "my notes\n");
  result = driver.run({"run", "--space", space, "--out", driver.path("model.bin") + "/j.jsonl"});
  CHECK_EQ(result.code, 3);
}

TEST_CASE("a plan on half a model is no plan: preflight fails with where, what and what to do next") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  const std::string space = driver.scripted_space(kAxes, "{}", kGoal), model = driver.path("model.bin");
  CHECK_EQ(driver.run({"plan", "--space", space}).code, 0);
  for (const size_t bytes : {e2e::tiny_model().size() / 2, size_t{2000}, size_t{1}}) {
    e2e::write(model, e2e::tiny_model().substr(0, bytes));
    for (const char* command : {"plan", "run"}) {
      e2e::Result result = driver.run({command, "--space", space});
      CAPTURE(result.err);
      CHECK_EQ(result.code, 3);
      CHECK_EQ(result.out, "");
      CHECK_EQ(lines(result.err), 1);
      CHECK(has(result.err, model));
      CHECK(has(result.err, bytes == 1 ? "is no GGUF file" : "download it again"));
    }
  }
  std::filesystem::remove(model);  // not downloaded yet: a plan all the same, and it says so
  e2e::Result early = driver.run({"plan", "--space", space});
  CHECK_EQ(early.code, 0);
  CHECK(has(early.out, "The model is not there yet"));
}

TEST_CASE("a server that dies at load costs its trials, not the study; nothing feasible exits 4") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(
      kAxes, R"({"rules": [{"when": {"ubatch_size": 256}, "set": {"behaviour": "exit-during-load"}}]})",
      kGoal);
  e2e::Result result = driver.run({"run", "--space", space, "--out", driver.path("j.jsonl")});
  CAPTURE(result.out);
  CHECK_EQ(result.code, 10);
  auto ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 2);
  CHECK_EQ(ends[1]["status"], "load_crash");
  CHECK(has(ends[1]["reason"], "failed to load model"));

  e2e::Driver hopeless;
  space = hopeless.scripted_space(kAxes, R"({"behaviour": "exit-during-load"})", kGoal);
  result = hopeless.run({"run", "--space", space, "--out", hopeless.path("j.jsonl")});
  CHECK_EQ(result.code, 4);
  CHECK(has(result.out, "No configuration held every limit"));
}

TEST_CASE("a journal that is damaged, locked or missing exits 5") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space(kAxes, R"({"decode_tps": 2000})", kGoal);
  std::string out = driver.path("j.jsonl");
  REQUIRE_EQ(driver.run({"run", "--space", space, "--out", out, "--confirm", "0"}).code, 10);
  const std::string good = e2e::read(out);

  std::string damaged = good;
  damaged.replace(damaged.find('\n') + 1, 4, "????");
  e2e::write(out, damaged);
  e2e::Result result = driver.run({"resume", out});
  CHECK_EQ(result.code, 5);
  CHECK(has(result.err, "j.jsonl:2"));
  CHECK_EQ(driver.run({"report", out}).code, 5);
  CHECK_EQ(e2e::read(out), damaged);
  CHECK_EQ(driver.run({"resume", driver.path("none.jsonl")}).code, 5);

  // A measurement made better by hand: told with its line, whatever the report then says.
  std::string better = good;
  const size_t objective = better.find("\"objective\":[", better.find("\"trial_end\""));
  REQUIRE_NE(objective, std::string::npos);
  better.insert(better.find('[', objective) + 1, "9");
  e2e::write(out, better);
  const auto line =
      std::to_string(std::count(good.begin(), good.begin() + static_cast<int64_t>(objective), '\n') + 1);
  result = driver.run({"report", out});
  CHECK_EQ(result.code, 0);
  CHECK(has(result.err, "j.jsonl:" + line + ": trial 1 does not agree with itself: its objective has "));

  // The header's space, changed by hand: to one that parses, too.
  for (const char* text : {"maximise", "maximize"}) {
    std::string edited = good;
    edited.replace(edited.find("maximize", edited.find("\"space\":")), 8, std::string(text) + " ");
    e2e::write(out, edited);
    for (const char* command : {"resume", "report"}) {
      result = driver.run({command, out});
      CHECK_EQ(result.code, 5);
      CHECK(has(result.err, "j.jsonl:1: the space text is not the one"));
    }
    CHECK_EQ(e2e::read(out), edited);
  }

  // Torn in its last record: mended, and the study goes on.
  e2e::write(out, good.substr(0, good.size() - 20));
  result = driver.run({"resume", out, "--confirm", "0"});
  CHECK_EQ(result.code, 10);
  CHECK(has(result.err, "cut off by a crash"));

  e2e::Driver other;
  space = other.scripted_space(kAxes, R"({"decode_tps": 2000, "load_s": 2})", kGoal);
  other.start({"run", "--space", space, "--out", out = other.path("j.jsonl")});
  while (e2e::read(out).empty()) {
    e2e::nap_ms(5);
  }
  result = driver.run({"resume", out});
  CHECK_EQ(result.code, 5);
  CHECK(has(result.err, "lock"));
}
