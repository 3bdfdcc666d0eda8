#include "src/study/plugin_site.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "search/plugin_text.h"
#include "src/base/units.h"
#include "src/os/files.h"
#include "src/study/interrupt.h"

namespace study {
namespace {

constexpr size_t kMaxAnswer = 1 << 20;
constexpr uint64_t kMaxLog = 16 << 20;
constexpr double kGuardHz = 0.2;  // there is only the log's size to watch, and trials are being measured

std::string value_of(const std::string& variable) {
  const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value == nullptr ? "" : value;
}

}  // namespace

PluginSite::PluginSite(PluginSetup setup, std::string log_directory, std::vector<std::string> secrets)
    : setup_(located(std::move(setup))),
      log_directory_(std::move(log_directory)),
      secrets_(std::move(secrets)) {}

PluginSite::~PluginSite() = default;

std::string PluginSite::launch(int exchange) {
  os::LaunchSpec spec;
  spec.argv = setup_.argv;
  log_path_ = fmt::format("{}/plugin-{}.log", log_directory_, exchange);
  spec.log_path = log_path_;
  spec.max_log_bytes = kMaxLog;
  spec.sample_hz = kGuardHz;
  auto started = os::Conversation::start(std::move(spec));
  if (!started) {
    return started.failure().to_string();
  }
  talk_ = std::move(*started);
  return "";
}

search::PluginReply PluginSite::ask(int exchange, const std::string& request, double patience_s) {
  auto start = std::chrono::steady_clock::now();
  auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  search::PluginReply reply;
  // A program that answers once and ends is as good as any, also where its end shows only when it is asked again. One
  // that ends after it has heard the question is not asked again: that may be paid for.
  for (bool kept = talk_ != nullptr && talk_->alive();; kept = false) {
    if (!kept) {
      talk_.reset();
      reply.fault = launch(exchange);
    }
    if (!reply.fault.empty()) {
      break;
    }
    auto answer = talk_->ask(request, std::max(0.0, patience_s - seconds()), kMaxAnswer, &interrupted());
    if (answer) {
      reply.line = std::move(*answer);
      break;
    }
    const bool again = kept && !talk_->alive() && talk_->unheard();
    reply.late = talk_->fault() == os::TalkFault::kTimedOut;
    talk_.reset();
    if (!again || interrupted()) {
      reply.fault = answer.failure().to_string();
      if (reply.late) {  // all tries together
        reply.fault = fmt::format("{}: timed out after {}; see {}", setup_.argv.front(),
                                  base::format_duration(patience_s), log_path_);
      }
      break;
    }
  }
  for (const std::string& secret : secrets_) {
    search::hide_secret_in_line(reply.line, secret);
    search::hide_secret(reply.fault, secret);
  }
  reply.seconds = seconds();
  return reply;
}

std::vector<base::Error> plugin_problems(const Study& study) {
  std::vector<base::Error> problems;
  if (!study.search.plugin) {
    return problems;
  }
  const PluginSetup setup = located(*study.search.plugin);
  const std::string& program = setup.argv.front();
  const bool named = program.find('/') != std::string::npos;
  const bool found = named ? os::file_exists(program) : !os::find_in_path(program).empty();
  if (named && found && (access(program.c_str(), X_OK) != 0 || std::filesystem::is_directory(program))) {
    problems.push_back(base::error("search.strategy",
                                   fmt::format("the plugin's program {} cannot be executed", program),
                                   "chmod +x it, or name its interpreter: exec:python3 FILE"));
  } else if (!found) {
    problems.push_back(
        base::error("search.strategy", fmt::format("the plugin's program {} is not found", program),
                    "install it, or give its path (relative to where autoresearch is started)"));
  }
  const std::string key = value_of(setup.key_env);
  const auto unfit = [](unsigned char c) { return c <= 0x20 || c >= 0x7f; };
  if (std::any_of(key.begin(), key.end(), unfit)) {
    problems.push_back(base::error(setup.key_env,
                                   "the key in it has a blank, a line break or another character that no "
                                   "HTTP header takes",
                                   "export the key alone, as the provider shows it"));
  }
  if (setup.key_needed && key.empty()) {
    problems.push_back(base::error(setup.key_env, "the variable with the key of search.llm is not set",
                                   "export it before the run, or name another in search.llm.api_key_env"));
  }
  return problems;
}

std::vector<std::string> secrets_of(const Study& study) {
  std::vector<std::string> secrets;
  for (const std::string& variable :
       {study.backend.api_key_env, study.search.plugin ? study.search.plugin->key_env : std::string()}) {
    if (std::string value = value_of(variable); !value.empty()) {
      secrets.push_back(std::move(value));
    }
  }
  return secrets;
}

PluginSetup located(PluginSetup setup) {
  std::string beside = os::program_directory() + "/" + setup.argv.front();
  if (setup.name == "llm" && setup.argv.front().find('/') == std::string::npos && os::file_exists(beside)) {
    setup.argv.front() = beside;
  }
  return setup;
}

}  // namespace study
