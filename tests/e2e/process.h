#pragma once
// The driver as a user runs it, without a test framework: for end-to-end tests and benchmarks.

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
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

// The bytes of a GGUF file that is whole: the scripted server does not care, preflight does.
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

// The line that begins with `key` (blanks apart) of a space file becomes `line`; "" removes it. False: there is none.
inline bool replace_line(std::string& text, const std::string& key, const std::string& line) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    size_t word = std::min(text.find_first_not_of(' ', at), end);
    if (text.compare(word, key.size(), key) == 0) {
      text.replace(at, end - at + (line.empty() ? 1 : 0), line);
      return true;
    }
    at = end + 1;
  }
  return false;
}

struct Result {
  int code = -1;  // exit code, or 128 + the signal
  std::string out, err;
  double wall_s = 0;
};

// A directory of its own, and programs run in it. Every process they start carries a mark in its environment.
class Process {
 public:
  Process() {
    std::string name = (std::filesystem::temp_directory_path() / "ar-e2e.XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
    mark_ = "AUTORESEARCH_TEST=" + directory_;
  }
  ~Process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const std::string& directory() const { return directory_; }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void set_env(const std::string& entry) { extra_env_.push_back(entry); }

  // Starts a program; its output goes to the files "out" and "err". False: it could not be started.
  bool spawn(std::vector<std::string> args) {
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
    started_ = std::chrono::steady_clock::now();
    return problem == 0;
  }
  // The end of what was started, once it has ended.
  std::optional<Result> poll() {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == 0) {
      return std::nullopt;
    }
    pid_ = -1;
    Result result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = read(path("out"));
    result.err = read(path("err"));
    result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
    return result;
  }
  void signal(int number) { ::kill(pid_, number); }
  pid_t pid() const { return pid_; }

  // Live processes that carry the mark, the driver itself included.
  size_t processes() const {
    size_t count = 0;
    for (const auto& [pid, value] : os::processes_with_variable("AUTORESEARCH_TEST")) {
      count += value == directory_ ? 1 : 0;
    }
    return count;
  }
  // True when all of them are gone within timeout_s.
  bool all_gone(double timeout_s) const {
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
    while (processes() > 0) {
      if (std::chrono::steady_clock::now() > end) {
        return false;
      }
      nap_ms(20);
    }
    return true;
  }

  // A space over the scripted server; a tiny real model and a suite of two. `axes` and `more` are YAML,
  // `scenario` JSON.
  std::string scripted_space(const std::string& axes, const std::string& scenario, const std::string& more,
                             const std::string& probes, const std::string& backend = "") {
    write(path("model.bin"), tiny_model());
    write(path("suite.json"), R"({"name": "two", "items": [
      {"id": "a", "category": "fact", "prompt": "What splits an atom?", "any_of": ["fission"]},
      {"id": "b", "category": "fact", "prompt": "What is 2 + 2?", "any_of": ["4"]}]})");
    Json script = *base::parse_json(scenario, "scenario");
    script["suite"] = path("suite.json");
    write(path("scenario.json"), script.dump());
    write(path("space.yaml"), "study: scripted\nmodel: " + path("model.bin") +
                                  "\nbackend:\n  kind: llama-server\n  binary: " + program("fake-server") +
                                  "\n  args: [--scenario, " + path("scenario.json") + "]\n" +
                                  (backend.empty() ? "  load_timeout: 3s\n" : backend) + "axes:\n" + axes +
                                  more + "probes:\n" + probes);
    return path("space.yaml");
  }

 private:
  std::string directory_, mark_;
  std::vector<std::string> extra_env_;
  std::chrono::steady_clock::time_point started_ = {};
  pid_t pid_ = -1;
};

}  // namespace e2e
