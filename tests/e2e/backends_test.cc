// Servers that are no llama-server, loads that stand still, a service that holds the memory.

#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "src/os/http_client.h"
#include "tests/e2e/driver.h"
#include "tests/gguf/build_gguf.h"

using e2e::has;
using e2e::Json;

namespace {

constexpr const char* kGoal =
    "objective:\n  maximize: quality\n"
    "search: {strategy: grid, seed: 1, max_trials: 2}\n";

// Another text in place of `from`, which must be there.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

// The scripted space with another backend, and the quality probe alone.
std::string with_backend(e2e::Driver& driver, const std::string& axes, const std::string& scenario,
                         const std::string& backend) {
  std::string path = driver.scripted_space(axes, scenario, kGoal);
  std::string text = e2e::read(path);
  size_t begin = text.find("backend:\n"), end = text.find("axes:\n");
  text.replace(begin, end - begin, "backend:\n" + backend);
  text = replaced(text, "  speed: {n_prompt: 64, n_gen: 16, repeats: 2, warmups: 0}\n", "  speed: off\n");
  text = replaced(text, "  needle: {lengths: [200], depths: [0.5]}\n", "  needle: off\n");
  e2e::write(path, text);
  return path;
}

// A variable of this process, and so of the driver, for a while.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    const char* old = std::getenv(name);
    was_set_ = old != nullptr;
    old_ = was_set_ ? old : "";
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    if (was_set_) {
      ::setenv(name_, old_.c_str(), 1);
    } else {
      ::unsetenv(name_);
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::string old_;
  bool was_set_ = false;
};

// A server that somebody else started.
class Running {
 public:
  explicit Running(std::vector<std::string> args, int port = 0) {
    port_ = port > 0 ? port : *os::free_port();
    args.insert(args.begin(), e2e::program("fake-server"));
    args.insert(args.end(), {"--port", std::to_string(port_)});
    std::vector<char*> argv;
    for (std::string& arg : args) {
      argv.push_back(arg.data());
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    REQUIRE_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 1500 && !os::listening_owner(port_, pid_); ++i) {
      e2e::nap_ms(20);
    }
  }
  ~Running() { kill(); }
  void kill() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    pid_ = -1;
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int port() const { return port_; }
  bool alive() { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }

 private:
  pid_t pid_ = -1;
  int port_ = 0;
};

}  // namespace

TEST_CASE("an openai command: its arguments, its readiness, no route but /v1") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space =
      with_backend(driver, "  poll: {values: [10, 20], default: 10, flag: --poll}\n",
                   R"({"native": false, "load_s": 0.2})",
                   "  kind: openai\n  binary: " + e2e::program("fake-server") + "\n  args: [--scenario, " +
                       driver.path("scenario.json") + ", -m, \"{model}\"]\n  load_timeout: 60s\n");
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  auto ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 2);
  for (const Json& end : ends) {
    CAPTURE(end.dump());
    CHECK_EQ(end["status"], "ok");
    CHECK(end["effective"].is_null());
    CHECK_EQ(end["metrics"]["quality"], 1.0);
    CHECK_GE(end["t_load_s"].get<double>(), 0.2);
    std::string argv = end["argv"].dump();
    CHECK(has(argv, "\"-m\",\"" + driver.path("model.bin") + "\",\"--host\",\"127.0.0.1\",\"--port\""));
    CHECK(has(argv, "\"--poll\",\"" + std::to_string(end["params"]["poll"].get<int>()) + "\""));
  }
  CHECK_EQ(driver.journal("j.jsonl").front()["binary"]["kind"], "openai");
  CHECK(driver.all_gone(5));
}

TEST_CASE("a running server is measured as it is told to be, and never stopped") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  const std::string axes = "  ctx_size: {values: [2048, 4096], default: 2048}\n";
  with_backend(driver, axes, R"({"reconfigure": ["ctx_size", "n_batch"]})", "");
  Running server({"--scenario", driver.path("scenario.json"), "-m", "some.gguf", "-c", "1024"});
  std::string backend = "  kind: url\n  url: " + server.url() + "\n";
  std::string scenario = e2e::read(driver.path("scenario.json"));
  std::string space = with_backend(driver, axes, scenario, backend);
  // It names another model than the file's.
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("w.jsonl"), "--confirm", "0"});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "names another model: 'some.gguf', not '" + driver.path("model.bin") + "'\n"));
  CHECK(driver.ends("w.jsonl").empty());  // no trial would fare better

  e2e::write(space, replaced(e2e::read(space), "model: " + driver.path("model.bin") + "\n", ""));
  result = driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  auto ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 2);
  for (const Json& end : ends) {
    CAPTURE(end.dump());
    CHECK_EQ(end["status"], "ok");
    CHECK_EQ(end["effective"]["n_ctx"], end["params"]["ctx_size"]);
    CHECK(end["argv"].empty());
    CHECK(end["t_load_s"].is_null());
  }
  CHECK(server.alive());
  // It serves as before.
  os::HttpRequest ask;
  ask.url = server.url() + "/props";
  auto props = os::http(ask);
  REQUIRE(props.ok());
  CHECK(has(props->body, "\"n_ctx\":1024"));

  // An axis that it cannot change is refused before the night begins.
  space =
      with_backend(driver, axes + "  mlock: {values: [true, false], default: false}\n", scenario, backend);
  result = driver.run({"run", "--space", space, "--out", driver.path("x.jsonl")});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "mlock"));
  CHECK(has(result.err, "cannot change it while it runs"));
  CHECK(server.alive());
}

TEST_CASE("a running server that is killed ends the run; restarted, resume goes on to the end") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  const std::string axes =
      "  ctx_size: {values: [2048, 4096], default: 2048}\n  n_batch: {values: [512, 1024, 2048], default: "
      "512}\n";
  with_backend(driver, axes, R"({"reconfigure": ["ctx_size", "n_batch"], "decode_tps": 40})", "");
  std::string scenario = e2e::read(driver.path("scenario.json"));
  std::vector<std::string> args = {"--scenario", driver.path("scenario.json"), "-m", "some.gguf"};
  auto server = std::make_unique<Running>(args);
  const int port = server->port();
  std::string space =
      with_backend(driver, axes, scenario, "  kind: url\n  url: " + server->url() + "\n  load_timeout: 3s\n");
  std::string text = replaced(e2e::read(space), "model: " + driver.path("model.bin") + "\n", "");
  e2e::write(space, replaced(text, "max_trials: 2", "max_trials: 6"));
  const std::string journal = driver.path("j.jsonl");

  driver.start({"run", "--space", space, "--out", journal, "--confirm", "0"});
  for (int i = 0; i < 3000 && driver.ends("j.jsonl").empty(); ++i) {
    e2e::nap_ms(20);
  }
  server->kill();
  e2e::Result result = driver.wait();
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "http://127.0.0.1:" + std::to_string(port)));
  CHECK(has(result.err, "autoresearch resume " + journal));
  auto ends = driver.ends("j.jsonl");
  REQUIRE_GE(ends.size(), 1);
  CHECK_LT(ends.size(), 6);
  for (const Json& end : ends) {
    CHECK_EQ(end["status"], "ok");  // nothing was used up
  }
  Json last = driver.journal("j.jsonl").back();
  CHECK_EQ(last["type"], "study_end");
  CHECK_EQ(last["finished"], false);

  // Not there yet: said before anything is tried.
  const std::string before = e2e::read(journal);
  result = driver.run({"resume", journal, "--confirm", "0"});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "no server answers there"));
  CHECK_EQ(e2e::read(journal), before);

  server = std::make_unique<Running>(args, port);
  result = driver.run({"resume", journal, "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  ends = driver.ends("j.jsonl");
  REQUIRE_EQ(ends.size(), 6);
  for (const Json& end : ends) {
    CHECK_EQ(end["status"], "ok");
  }
  CHECK(server->alive());

  server->kill();
  result = driver.run({"run", "--space", space, "--out", driver.path("n.jsonl")});
  CHECK_EQ(result.code, 3);
  CHECK_FALSE(std::filesystem::exists(driver.path("n.jsonl")));
}

TEST_CASE("a running server with other flags than the study began with is refused on resume") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  const std::string axes = "  n_batch: {values: [512, 1024, 2048], default: 512}\n";
  with_backend(driver, axes, R"({"reconfigure": ["n_batch"], "decode_tps": 4000})", "");
  const std::string scenario = e2e::read(driver.path("scenario.json"));
  std::vector<std::string> args = {"--scenario", driver.path("scenario.json"), "-m", "some.gguf", "-c",
                                   "4096"};
  auto server = std::make_unique<Running>(args);
  const int port = server->port();
  std::string space = with_backend(driver, axes, scenario, "  kind: url\n  url: " + server->url() + "\n");
  e2e::write(space, replaced(e2e::read(space), "model: " + driver.path("model.bin") + "\n", ""));
  const std::string journal = driver.path("j.jsonl");
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", journal, "--confirm", "0", "--max-trials", "1"});
  CHECK_EQ(result.code, 10);
  CHECK_EQ(driver.journal("j.jsonl").front()["binary"]["settings"]["n_ctx"], 4096);
  const std::vector<std::string> resume = {"resume", journal, "--confirm", "0", "--max-trials", "3"};

  // An axis may stand anywhere: a driver that was killed leaves it so.
  args.insert(args.end(), {"-b", "1024"});
  std::vector<std::string> others = args;
  others[5] = "2048";
  others.insert(others.end(), {"-ctk", "q8_0"});
  server = nullptr;
  server = std::make_unique<Running>(others, port);
  const std::string before = e2e::read(journal);
  result = driver.run(resume);
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, server->url() + ": runs with other settings than this study began with: n_ctx 4096, "
                                        "now 2048; cache_type_k f16, now q8_0; start it again as it was"));
  CHECK_EQ(e2e::read(journal), before);

  // A journal from before the header told: by its first trial.
  const size_t told = before.find(",\"settings\":");
  const size_t rest = before.find("},\"model\":", told);
  REQUIRE_NE(told, std::string::npos);
  REQUIRE_NE(rest, std::string::npos);
  e2e::write(journal, before.substr(0, told) + before.substr(rest));
  result = driver.run(resume);
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "n_ctx 4096, now 2048; cache_type_k f16, now q8_0"));

  server = nullptr;
  server = std::make_unique<Running>(args, port);
  result = driver.run(resume);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK_EQ(driver.ends("j.jsonl").size(), 3);
}

TEST_CASE("Ctrl-C while a running server that went away is waited for: stopped, not lost") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  const std::string axes = "  n_batch: {values: [512, 1024, 2048], default: 512}\n";
  with_backend(driver, axes, R"({"reconfigure": ["n_batch"], "decode_tps": 40})", "");
  const std::string scenario = e2e::read(driver.path("scenario.json"));
  Running server({"--scenario", driver.path("scenario.json"), "-m", "some.gguf"});
  std::string space =
      with_backend(driver, axes, scenario, "  kind: url\n  url: " + server.url() + "\n  load_timeout: 10m\n");
  e2e::write(space, replaced(e2e::read(space), "model: " + driver.path("model.bin") + "\n", ""));
  driver.start({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  for (int i = 0; i < 3000 && driver.ends("j.jsonl").empty(); ++i) {
    e2e::nap_ms(20);
  }
  server.kill();
  e2e::nap_ms(3000);  // it finds out, and waits
  driver.signal(SIGINT);
  e2e::Result result = driver.wait();
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 130);
  CHECK(has(result.out, "Stopped."));
  CHECK_NE(driver.journal("j.jsonl").back()["type"], "study_end");
}

TEST_CASE("a configuration that ends a running server twice is the configuration's fault") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  const std::string axes = "  n_batch: {values: [512, 1024, 2048], default: 512}\n";
  with_backend(driver, axes,
               R"({"reconfigure": ["n_batch"],
                   "rules": [{"when": {"batch_size": "1024"}, "set": {"reconfigure_behaviour": "die"}}]})",
               "");
  std::string scenario = e2e::read(driver.path("scenario.json"));
  std::vector<std::string> args = {"--scenario", driver.path("scenario.json"), "-m", "some.gguf", "-b",
                                   "512"};
  auto server = std::make_unique<Running>(args);
  const int port = server->port();
  std::string space =
      with_backend(driver, axes, scenario, "  kind: url\n  url: " + server->url() + "\n  load_timeout: 2s\n");
  std::string text = replaced(e2e::read(space), "model: " + driver.path("model.bin") + "\n", "");
  e2e::write(space, replaced(text, "max_trials: 2", "max_trials: 3"));
  const std::string journal = driver.path("j.jsonl");
  e2e::Result result = driver.run({"run", "--space", space, "--out", journal, "--confirm", "0"});
  CHECK_EQ(result.code, 3);
  size_t starts = 0;
  for (int runs = 0; runs < 4 && result.code == 3; ++runs) {
    server->kill();
    server = std::make_unique<Running>(args, port);
    result = driver.run({"resume", journal, "--confirm", "0"});
    starts += result.code == 3 ? 1 : 0;
  }
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK_EQ(starts, 1);  // the second time it is known for the cause, and a resume goes on
  int crashed = 0, good = 0;
  for (const Json& end : driver.ends("j.jsonl")) {
    crashed += end["status"] == "run_crash" && end["params"]["n_batch"] == 1024 ? 1 : 0;
    good += end["status"] == "ok" ? 1 : 0;
  }
  CHECK_EQ(crashed, 1);
  CHECK_EQ(good, 2);
}

TEST_CASE(
    "a load that stands still ends long before its deadline; a stranger and a fork have their own ends") {
  if (!e2e::programs_exist()) {
    return;
  }
  struct Row {
    const char *behaviour, *status, *says;
  };
  for (const Row& row :
       {Row{"hang-at-load", "hang", "no progress for"}, Row{"503-forever", "hang", "no progress for"},
        Row{"fork-away", "load_crash", "leaving 1 process behind"}}) {
    CAPTURE(row.behaviour);
    e2e::Driver driver;
    std::string space = with_backend(driver, "  n_batch: {values: [1], default: 1}\n",
                                     std::string("{\"behaviour\": \"") + row.behaviour + "\"}",
                                     "  kind: llama-server\n  binary: " + e2e::program("fake-server") +
                                         "\n  args: [--scenario, " + driver.path("scenario.json") +
                                         "]\n  load_timeout: 10m\n  load_stall: 1s\n");
    e2e::Result result = driver.run({"run", "--space", space, "--out", driver.path("j.jsonl")});
    CAPTURE(result.err);
    CHECK_EQ(result.code, 4);
    auto ends = driver.ends("j.jsonl");
    REQUIRE_FALSE(ends.empty());
    CHECK_EQ(ends.front()["status"], row.status);
    CHECK(has(ends.front()["reason"], row.says));
    CHECK(driver.all_gone(5));
  }
}

TEST_CASE("the model file as an axis: each configuration loads its own, and the header knows them all") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  for (const char* name : {"a.gguf", "b.gguf"}) {
    e2e::write(driver.path(name), e2e::tiny_model());
  }
  std::string space =
      with_backend(driver, "  model: {values: [a.gguf, b.gguf], default: b.gguf}\n", "{}",
                   "  kind: llama-server\n  binary: " + e2e::program("fake-server") +
                       "\n  args: [--scenario, " + driver.path("scenario.json") + "]\n  load_timeout: 60s\n");
  e2e::write(space, replaced(e2e::read(space), "model: " + driver.path("model.bin") + "\n", ""));
  e2e::Result result =
      driver.run({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  for (const Json& end : driver.ends("j.jsonl")) {
    CHECK_EQ(end["status"], "ok");
    CHECK_EQ(end["argv"][2], end["params"]["model"]);
  }
  Json header = driver.journal("j.jsonl").front();
  CHECK_EQ(header["models"].size(), 2);
  CHECK_EQ(header["model"]["path"], driver.path("b.gguf"));

  // Resume looks at every file, not at the default's alone.
  e2e::write(driver.path("a.gguf"), e2e::tiny_model() + "more");
  result = driver.run({"resume", driver.path("j.jsonl"), "--max-trials", "9"});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "a.gguf"));
  e2e::write(driver.path("a.gguf"), "no model");
  result = driver.run({"run", "--space", space, "--out", driver.path("k.jsonl")});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "is no GGUF file"));
}

TEST_CASE("a split model with a part missing is refused") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  std::string space = driver.scripted_space("  n_batch: {values: [1], default: 1}\n", "{}", kGoal);
  const std::string first = driver.path("m-00001-of-00003.gguf");
  for (const char* part : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    fixtures::GgufBuilder file;
    file.raw("split.no", 2, uint16_t{0}).raw("split.count", 2, uint16_t{3});
    e2e::write(driver.path(part), file.build());
  }
  e2e::write(space, replaced(e2e::read(space), driver.path("model.bin"), first));
  e2e::Result result = driver.run({"run", "--space", space, "--out", driver.path("j.jsonl")});
  CHECK_EQ(result.code, 3);
  CHECK(has(result.err, "m-00002-of-00003.gguf"));
  CHECK(has(result.err, "part 2 of 3"));
}

TEST_CASE("the service is stopped for the run and comes back, after kill -9 and resume too") {
  if (!e2e::programs_exist()) {
    return;
  }
  e2e::Driver driver;
  e2e::write(driver.path("state"), "active\n");
  e2e::write(driver.path("systemctl"), "#!/bin/sh\ncd " + driver.path("") + R"(
echo "$*" >> calls
case "$2" in
  is-active) cat state ;;
  stop) [ ! -e slow ] || { echo x > stopping; sleep 2; }; echo inactive > state ;;
  start) echo active > state ;;
esac
)");
  ::chmod(driver.path("systemctl").c_str(), 0755);
  Environment path("PATH", driver.path("") + ":" + std::getenv("PATH"));
  Environment runtime("XDG_RUNTIME_DIR", driver.path(""));
  auto state = [&] { return e2e::read(driver.path("state")); };
  auto eventually = [](auto condition) {
    for (int i = 0; i < 1500 && !condition(); ++i) {
      e2e::nap_ms(20);
    }
    return condition();
  };
  std::string space =
      with_backend(driver, "  n_batch: {values: [1, 2], default: 1}\n", R"({"load_s": 1})",
                   "  kind: llama-server\n  binary: " + e2e::program("fake-server") +
                       "\n  args: [--scenario, " + driver.path("scenario.json") + "]\n  load_timeout: 60s\n");
  e2e::write(space, "service: llm.service\n" + e2e::read(space));
  // Ended while the service stops: in order, with nothing begun.
  e2e::write(driver.path("slow"), "x");
  driver.start({"run", "--space", space, "--out", driver.path("s.jsonl")});
  CHECK(eventually([&] { return std::filesystem::exists(driver.path("stopping")); }));
  driver.signal(SIGTERM);
  e2e::Result stopped = driver.wait();
  CHECK_EQ(stopped.code, 128 + SIGTERM);
  CHECK(has(stopped.out, "Nothing that was finished is lost"));
  CHECK_EQ(state(), "active\n");
  CHECK_FALSE(has(e2e::read(driver.path("s.jsonl")), "trial_start"));
  std::filesystem::remove(driver.path("slow"));
  std::filesystem::remove(driver.path("calls"));

  driver.start({"run", "--space", space, "--out", driver.path("j.jsonl"), "--confirm", "0"});
  // In the middle of a load: the candidate lives, the service does not.
  CHECK(eventually([&] { return has(e2e::read(driver.path("j.jsonl")), "trial_start"); }));
  CHECK_EQ(state(), "inactive\n");
  driver.signal(SIGKILL);
  driver.wait();
  CHECK(eventually([&] { return state() == "active\n"; }));
  e2e::Result result = driver.run({"resume", driver.path("j.jsonl"), "--confirm", "0"});
  CAPTURE(result.err);
  CHECK_EQ(result.code, 10);
  CHECK_EQ(state(), "active\n");
  std::string calls = e2e::read(driver.path("calls"));
  CHECK_EQ(calls,
           "--user is-active llm.service\n--user stop llm.service\n--user start llm.service\n"
           "--user is-active llm.service\n--user stop llm.service\n--user start llm.service\n");
  CHECK(driver.all_gone(5));
}
