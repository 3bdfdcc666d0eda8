#pragma once
// The driver as a user runs it: whole processes, their output in files, the journal they leave.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "src/base/json.h"
#include "src/os/proc.h"

extern char** environ;

namespace e2e {

using base::Json;

inline std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
inline std::string program(const char* name) {
  return std::string(AR_BIN_DIR) + "/" + name;
}
inline void nap_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}
inline bool has(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

// False, with a message, where the programs are not built.
inline bool programs_exist() {
  bool all =
      std::filesystem::exists(program("autoresearch")) && std::filesystem::exists(program("fake-server"));
  if (!all) {
    MESSAGE("autoresearch or fake-server is not built: skipped");
  }
  return all;
}

// The bytes of a GGUF file that is whole.
inline std::string tiny_model() {
  return read(std::string(AR_SOURCE_DIR) + "/tests/data/tiny.gguf");
}

inline std::string demo_model() {
  const char* env = std::getenv("AUTORESEARCH_REFERENCE");
  std::string reference = env != nullptr ? env : std::string(AR_SOURCE_DIR) + "/../shared/reference";
  for (const std::string& path :
       {std::string(AR_SOURCE_DIR) + "/models/demo-q8_0.gguf", reference + "/demo-model/demo-q8_0.gguf"}) {
    if (std::filesystem::exists(path)) {
      return path;
    }
  }
  return "";
}

struct Result {
  int code = -1;  // exit code, or 128 + the signal
  std::string out, err;
};

// A directory of its own, and the driver run in it. Every process it starts carries a mark in its
// environment.
class Driver {
 public:
  Driver() {
    std::string name = (std::filesystem::temp_directory_path() / "ar-e2e.XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
    mark_ = "AUTORESEARCH_TEST=" + directory_;
  }
  ~Driver() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove_all(directory_);
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void set_env(const std::string& entry) { extra_env_.push_back(entry); }

  void start(std::vector<std::string> args) {
    args.insert(args.begin(), program("autoresearch"));
    std::vector<char*> argv, env;
    for (std::string& arg : args) {
      argv.push_back(arg.data());
    }
    argv.push_back(nullptr);
    for (char** entry = environ; *entry != nullptr; ++entry) {
      env.push_back(*entry);
    }
    env.push_back(mark_.data());
    for (std::string& entry : extra_env_) {
      env.push_back(entry.data());
    }
    env.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, path("out").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0644);
    posix_spawn_file_actions_addopen(&actions, 2, path("err").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0644);
    int problem = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), env.data());
    posix_spawn_file_actions_destroy(&actions);
    REQUIRE_EQ(problem, 0);
  }

  Result wait(double timeout_s = 120) {
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) {
        FAIL("the driver did not end in time: " << read(path("out")) << read(path("err")));
      }
      nap_ms(5);
    }
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read(path("out")),
            read(path("err"))};
  }
  Result run(std::vector<std::string> args) {
    start(std::move(args));
    return wait();
  }
  void signal(int number) { ::kill(pid_, number); }

  // Live processes that this driver started, itself included.
  size_t processes() const {
    size_t count = 0;
    for (const auto& [pid, value] : os::processes_with_variable("AUTORESEARCH_TEST")) {
      count += value == directory_ ? 1 : 0;
    }
    return count;
  }
  // True when all of them are gone within timeout_s.
  bool all_gone(double timeout_s) const {
    for (double waited = 0; waited < timeout_s; waited += 0.02) {
      if (processes() == 0) {
        return true;
      }
      nap_ms(20);
    }
    return processes() == 0;
  }

  // The journal's records; checks that every line is JSON and that no (params_hash, attempt) ended twice.
  std::vector<Json> journal(const std::string& name) const {
    std::vector<Json> records;
    std::set<std::pair<std::string, int>> ends;
    std::ifstream in(path(name));
    for (std::string line; std::getline(in, line);) {
      auto record = base::parse_json(line, name);
      REQUIRE(record.ok());
      if ((*record)["type"] == "trial_end") {
        CHECK(ends.emplace((*record)["params_hash"].get<std::string>(), (*record)["attempt"].get<int>())
                  .second);
      }
      records.push_back(std::move(*record));
    }
    return records;
  }
  std::vector<Json> ends(const std::string& name) const {
    std::vector<Json> found;
    for (Json& record : journal(name)) {
      if (record["type"] == "trial_end") {
        found.push_back(std::move(record));
      }
    }
    return found;
  }

  // A space over the scripted server. `axes` and `scenario` are YAML and JSON text.
  std::string scripted_space(const std::string& axes, const std::string& scenario,
                             const std::string& more = "") {
    write(path("model.bin"), tiny_model());  // the scripted server does not care, preflight does
    write(path("suite.json"), R"({"name": "two", "items": [
      {"id": "a", "category": "fact", "prompt": "What splits an atom?", "any_of": ["fission"]},
      {"id": "b", "category": "fact", "prompt": "What is 2 + 2?", "any_of": ["4"]}]})");
    Json script = *base::parse_json(scenario, "scenario");
    script["suite"] = path("suite.json");
    write(path("scenario.json"), script.dump());
    write(path("space.yaml"), "study: scripted\nmodel: " + path("model.bin") +
                                  "\nbackend:\n  kind: llama-server\n" +
                                  "  binary: " + program("fake-server") + "\n  args: [--scenario, " +
                                  path("scenario.json") + "]\n  load_timeout: 3s\naxes:\n" + axes + more +
                                  "probes:\n  quality: {suite: suite.json, margin: 0.05}\n"
                                  "  speed: {n_prompt: 64, n_gen: 16, repeats: 2, warmups: 0}\n"
                                  "  needle: {lengths: [200], depths: [0.5]}\n"
                                  "  memory: {min_headroom_gib: 0}\n"
                                  "  request_timeout: 2s\n  stall_timeout: 1s\n");
    return path("space.yaml");
  }

 private:
  std::string directory_, mark_;
  std::vector<std::string> extra_env_;
  pid_t pid_ = -1;
};

}  // namespace e2e
