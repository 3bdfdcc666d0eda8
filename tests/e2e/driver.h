#pragma once
// The driver under test: whole processes, their output in files, the journal they leave.

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "tests/e2e/process.h"

namespace e2e {

// False, with a message, where the programs are not built.
inline bool programs_exist() {
  bool all =
      std::filesystem::exists(program("autoresearch")) && std::filesystem::exists(program("fake-server"));
  if (!all) {
    MESSAGE("autoresearch or fake-server is not built: skipped");
  }
  return all;
}

class Driver : public Process {
 public:
  void start(std::vector<std::string> args) {
    args.insert(args.begin(), program("autoresearch"));
    REQUIRE(spawn(std::move(args)));
  }
  Result wait(double timeout_s = 120) {
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
    for (;;) {
      if (auto result = poll()) {
        return *result;
      }
      if (std::chrono::steady_clock::now() > end) {
        FAIL("the driver did not end in time: " << read(path("out")) << read(path("err")));
      }
      nap_ms(5);
    }
  }
  Result run(std::vector<std::string> args) {
    start(std::move(args));
    return wait();
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

  std::string scripted_space(const std::string& axes, const std::string& scenario,
                             const std::string& more = "") {
    return Process::scripted_space(axes, scenario, more,
                                   "  quality: {suite: suite.json, margin: 0.05}\n"
                                   "  speed: {n_prompt: 64, n_gen: 16, repeats: 2, warmups: 0}\n"
                                   "  needle: {lengths: [200], depths: [0.5]}\n"
                                   "  memory: {min_headroom_gib: 0}\n"
                                   "  request_timeout: 2s\n  stall_timeout: 1s\n");
  }
};

}  // namespace e2e
