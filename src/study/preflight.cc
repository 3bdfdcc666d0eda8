// What can be known to ruin a night before it begins. All of it is asked at once, so that one run by hand is enough.

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "src/base/units.h"
#include "src/os/files.h"
#include "src/study/header.h"
#include "src/study/memory_estimate.h"
#include "src/study/perplexity_record.h"
#include "src/study/plugin_site.h"
#include "src/study/session.h"

namespace study {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMinDiskBytes = uint64_t{64} << 20;

base::Result<void> check_disk(const std::string& journal_path) {
  std::string directory = fs::path(journal_path).parent_path().string();
  directory = directory.empty() ? "." : directory;
  if (auto made = os::make_directories(directory); !made) {
    return made.failure();
  }
  std::error_code problem;
  fs::space_info space = fs::space(directory, problem);
  if (!problem && space.available < kMinDiskBytes) {
    return base::error(directory, fmt::format("only {} free", base::format_bytes(space.available)),
                       "free some space, or choose another --out");
  }
  return {};
}

}  // namespace

base::Result<Preflight> preflight(const Study& study, const std::string& journal_path) {
  Preflight checked;
  std::vector<base::Error> problems;
  checked.model = base::Json::object();
  for (const std::string& path : model_paths(study)) {
    auto model = model_identity(path, study.backend.kind);
    if (!model) {
      problems.push_back(model.failure());
      continue;
    }
    if (path == study.model) {
      checked.model = *model;
    }
    checked.models.push_back(std::move(*model));
  }
  if (problems.empty()) {  // a model that cannot be read has been told of
    if (auto fits = check_default_fits(study); !fits) {
      problems.push_back(fits.failure());
    }
  }
  if (auto program = discover_backends(study); !program) {
    problems.push_back(program.failure());
  } else {
    checked.program = std::move(*program);
    for (base::Error& problem : unsupported_axes(study, checked.program)) {
      problems.push_back(std::move(problem));
    }
  }
  const std::string no_losses = problems.empty() ? no_perplexity(study, checked.program) : "";
  if (!no_losses.empty() && perplexity_decides(study.objective)) {
    problems.push_back(
        base::error("probes.perplexity", no_losses + ", and the objective or a limit needs the perplexity",
                    "use tbq-server or vllm, or take ppl and ppl_change out of the objective"));
  } else if (!no_losses.empty()) {
    checked.warnings.push_back("perplexity is not measured: " + no_losses);
  }
  if (!study.backend.api_key_env.empty() && std::getenv(study.backend.api_key_env.c_str()) == nullptr) {
    problems.push_back(base::error(study.backend.api_key_env,
                                   "backend.api_key_env names a variable that is not set",
                                   "export it before the run"));
  }
  for (base::Error& problem : plugin_problems(study)) {
    problems.push_back(std::move(problem));
  }
  if (auto disk = check_disk(journal_path); !disk) {
    problems.push_back(disk.failure());
  }
  if (problems.size() == 1) {
    return problems.front();
  }
  if (!problems.empty()) {
    std::string all;
    for (const base::Error& problem : problems) {
      all += (all.empty() ? "" : "\n       ") + problem.to_string();
    }
    return base::error("", all);
  }
  if (!checked.program.config_file.empty()) {
    checked.warnings.push_back(fmt::format(
        "{} is read by llama-server unasked: what it sets counts wherever no flag of the trial does",
        checked.program.config_file));
  }
  return checked;
}

}  // namespace study
