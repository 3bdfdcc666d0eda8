#include "bench/study_runs.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "src/base/units.h"
#include "src/base/version.h"
#include "src/os/host.h"

namespace bench {

e2e::Result run_driver(e2e::Process& process, const std::vector<std::string>& args, double timeout_s,
                       const std::vector<int>& allowed) {
  std::vector<std::string> argv = args;
  argv.insert(argv.begin(), e2e::program("autoresearch"));
  e2e::Result result;
  if (process.spawn(argv)) {
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
    while (std::chrono::steady_clock::now() < end) {
      if (auto ended = process.poll()) {
        result = *ended;
        break;
      }
      e2e::nap_ms(5);
    }
  }
  if (std::find(allowed.begin(), allowed.end(), result.code) == allowed.end()) {
    fmt::print(stderr, "autoresearch {} ended with {} (-1: not within {:.0f} s)\n{}{}\n", args[0],
               result.code, timeout_s, result.out, result.err);
    std::exit(1);
  }
  return result;
}

std::vector<Json> records(const std::string& journal, const std::string& type) {
  std::vector<Json> found;
  std::ifstream in(journal);
  for (std::string line; std::getline(in, line);) {
    auto record = base::parse_json(line, journal);
    if (!record) {
      fmt::print(stderr, "{}\n", record.failure().to_string());
      std::exit(1);
    }
    if (type.empty() || base::json_get<std::string>(*record, "type", "") == type) {
      found.push_back(std::move(*record));
    }
  }
  return found;
}

std::vector<std::string> results(const std::string& journal) {
  std::vector<std::string> out;
  for (const Json& end : records(journal, "trial_end")) {
    out.push_back(fmt::format("{} {} {} {}", end["params_hash"].get<std::string>(),
                              end["phase"].get<std::string>(), end["status"].get<std::string>(),
                              end.value("quality_items", Json()).dump()));
  }
  return out;
}

Report::Report(const std::string& title, int argc, char** argv) {
  os::HostFacts host = os::read_host_facts();
  std::string command;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    command += (i > 0 ? " " : "") + (i == 0 ? word.substr(word.rfind('/') + 1) : word);
  }
  line("# " + title + "\n");
  line(fmt::format("- host: {}, {} CPUs, {}, {}", host.cpu_model, host.logical_cpus,
                   base::format_bytes(host.memory_bytes), host.os_name));
  line(fmt::format("- command: `{}`", command));
  line(fmt::format("- commit: {}, {:%Y-%m-%d}\n", base::commit(), fmt::gmtime(std::time(nullptr))));
}

void Report::line(const std::string& text) {
  fmt::print("{}\n", text);
  std::fflush(stdout);
  text_ += text + "\n";
}

bool Report::save(const std::string& path) const {
  if (path.empty()) {
    return true;
  }
  std::error_code problem;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), problem);
  std::ofstream out(path, std::ios::binary);
  out << text_;
  out.close();
  if (!out) {
    fmt::print(stderr, "{}: could not be written\n", path);
  }
  return static_cast<bool>(out);
}

}  // namespace bench
