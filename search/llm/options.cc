#include "search/llm/options.h"

#include <fmt/format.h>

#include <charconv>
#include <functional>

#include "src/base/suggest.h"

namespace llm {
namespace {

struct Flag {
  const char *name, *help;
  std::function<bool(const std::string&, Options&)> set;  // false: not a value for it
};

bool number(const std::string& text, double least, double most, double& into) {
  double value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool good = failed == std::errc() && end == text.data() + text.size() && value >= least && value <= most;
  into = good ? value : into;
  return good;
}

Flag text(const char* name, const char* help, std::string Options::*member) {
  return {name, help, [member](const std::string& value, Options& options) {
            options.*member = value;
            return !value.empty();
          }};
}

Flag amount(const char* name, const char* help, double Options::*member, double least, double most) {
  return {name, help, [=](const std::string& value, Options& options) {
            return number(value, least, most, options.*member);
          }};
}

const std::vector<Flag>& flags() {
  static const std::vector<Flag> table = {
      {"--provider", "anthropic (Messages API) or openai (anything with /v1/chat/completions)",
       [](const std::string& value, Options& options) {
         options.provider = value == "openai" ? Provider::kOpenAi : Provider::kAnthropic;
         return value == "openai" || value == "anthropic";
       }},
      text("--url", "address of the API; 'server': the server under tuning; default: the provider's own",
           &Options::url),
      text("--model", "as the provider calls it", &Options::model),
      text("--key-env", "name of the environment variable with the key", &Options::key_env),
      {"--max-tokens", "of one answer (2048)",
       [](const std::string& value, Options& options) {
         double n = 0;
         bool good = number(value, 64, 1e6, n);
         options.max_tokens = good ? static_cast<int>(n) : options.max_tokens;
         return good;
       }},
      amount("--budget-tokens", "of the whole study, 0 = no limit", &Options::budget_tokens, 0, 1e12),
      amount("--budget-usd", "of the whole study, 0 = no limit; needs prices", &Options::budget_usd, 0, 1e6),
      amount("--usd-per-mtok-in", "dollars per million tokens read", &Options::usd_per_mtok_in, 0, 1e6),
      amount("--usd-per-mtok-out", "dollars per million tokens written", &Options::usd_per_mtok_out, 0, 1e6),
      amount("--timeout-s", "of one answer, retries included (60)", &Options::timeout_s, 0.01, 3600),
      amount("--least-s", "nobody is asked with less time than this left (1)", &Options::least_s, 0.01, 60),
  };
  return table;
}

}  // namespace

base::Result<Options> parse_options(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); i += 2) {
    if (args[i] == "--help" || args[i] == "-h") {
      options.help = true;
      return options;
    }
    const Flag* found = nullptr;
    std::vector<std::string> known;
    for (const Flag& flag : flags()) {
      known.emplace_back(flag.name);
      found = args[i] == flag.name ? &flag : found;
    }
    if (found == nullptr) {
      return base::error(args[i], "unknown flag", base::did_you_mean(args[i], known));
    }
    if (i + 1 >= args.size() || !found->set(args[i + 1], options)) {
      return base::error(
          args[i],
          i + 1 < args.size() ? fmt::format("'{}' is no value for it", args[i + 1]) : "needs a value",
          found->help);
    }
  }
  if (options.key_env.empty() &&
      options.url.empty()) {  // a provider's key is not for everybody else's endpoint
    options.key_env = options.provider == Provider::kAnthropic ? "ANTHROPIC_API_KEY" : "OPENAI_API_KEY";
  }
  if (options.model.empty() && options.url != "server") {
    return base::error("--model", "is missing", "name the model as the provider calls it");
  }
  return options;
}

std::string usage() {
  std::string text =
      "autoresearch-llm: a plugin of autoresearch that asks a language model which configuration to try "
      "next.\n"
      "One JSON request per line on stdin, one JSON answer per line on stdout (search/README.md).\n\n";
  for (const Flag& flag : flags()) {
    text += fmt::format("  {:<20} {}\n", flag.name, flag.help);
  }
  return text;
}

}  // namespace llm
