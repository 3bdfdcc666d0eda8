#include "src/study/space_plugin.h"

#include <fmt/format.h>

#include <algorithm>

#include "search/strategy.h"
#include "src/base/suggest.h"
#include "src/study/backends.h"

namespace study {
namespace {

constexpr std::string_view kExec = "exec:", kLlm = "llm";
constexpr double kLeastModelS = 5;  // a model that must answer in less would be paid for nothing
constexpr double kLeastTimeoutS = 0.01, kMostTimeoutS = 3600;  // as autoresearch-llm takes them

// "${OPENAI_API_KEY}" somewhere in a word.
bool expands_a_secret(std::string_view word) {
  for (size_t at = word.find("${"); at != std::string_view::npos; at = word.find("${", at + 2)) {
    const std::string_view name = word.substr(at + 2);
    if (names_a_secret(name.substr(0, name.find_first_of(":}")))) {
      return true;
    }
  }
  return false;
}

class PluginReader {
 public:
  PluginReader(SpaceReader& reader, SearchOptions& options) : reader_(reader), options_(options) {}

  void read(const PluginNodes& nodes) {
    options_.strategy = "two-phase";
    read_setup(nodes.plugin);
    const std::string strategy = nodes.strategy->text;
    if (strategy == kLlm) {
      read_llm(*nodes.strategy, nodes.llm);
    } else {
      read_command(*nodes.strategy);
      if (nodes.llm != nullptr) {
        reader_.fail(*nodes.llm, "search.llm is for strategy: llm", "remove it, or write strategy: llm");
      }
    }
    options_.plugin = std::move(setup_);
  }

 private:
  void read_setup(const YamlNode* at) {
    if (at == nullptr) {
      return;
    }
    reader_.read_map(*at, "search.plugin",
                     {{"timeout",
                       [&](const YamlNode& value) {
                         reader_.timeout_s(value, setup_.timeout_s, "search.plugin.timeout");
                       }},
                      {"share", number(setup_.share, "search.plugin.share", 0, 1)},
                      {"time", number(setup_.time_share, "search.plugin.time", 0, 10)},
                      {"grace",
                       [&](const YamlNode& value) {
                         setup_.grace_s = reader_.duration_s(value, "search.plugin.grace").value_or(0);
                       }},
                      {"fallback", [&](const YamlNode& value) { read_fallback(value); }}});
  }

  std::function<void(const YamlNode&)> number(double& into, const char* name, double least, double most) {
    return [this, &into, name, least, most](const YamlNode& value) {
      into = reader_.number(value, name, least, most).value_or(into);
    };
  }

  void read_fallback(const YamlNode& at) {
    auto text = reader_.text(at, "search.plugin.fallback");
    if (text && search::find_strategy(*text) == nullptr) {
      std::vector<std::string> known;
      for (const auto& info : search::strategies()) {
        known.emplace_back(info.name);
      }
      reader_.fail(at, fmt::format("'{}' cannot stand in for a plugin", *text),
                   base::did_you_mean(*text, known));
    } else if (text) {
      options_.strategy = *text;
    }
  }

  // The journal keeps the file's text, and the process list the words.
  void read_command(const YamlNode& at) {
    setup_.name = "exec";
    auto raw = command_words(std::string_view(at.text).substr(kExec.size()));
    auto text = reader_.expanded(at, "search.strategy");
    if (!raw || !text) {
      if (!raw) {
        reader_.fail(at, raw.failure().what, raw.failure().next);
      }
      return;
    }
    for (size_t i = 0; i < raw->size(); ++i) {
      size_t equals = (*raw)[i].find('=');
      const bool named = (*raw)[i].starts_with("-") || equals != std::string::npos;
      if (!(named && names_a_secret((*raw)[i].substr(0, equals))) && !expands_a_secret((*raw)[i])) {
        continue;
      }
      reader_.fail(at, fmt::format("{} would show a secret in the process list", (*raw)[i].substr(0, equals)),
                   "let the program read it from its environment, which is the driver's");
    }
    auto words = command_words(std::string_view(*text).substr(kExec.size()));
    if (!words) {
      reader_.fail(at, words.failure().what, words.failure().next);
      return;
    }
    setup_.argv = std::move(*words);
  }

  void read_llm(const YamlNode& strategy, const YamlNode* at) {
    setup_.name = "llm";
    setup_.least_s = kLeastModelS;
    LlmSetup& llm = setup_.llm.emplace();
    std::string provider, url, model, key_env;
    std::vector<std::string> more;
    double timeout_s = 0;
    auto text = [&](std::string& into, const char* name) {
      return
          [this, &into, name](const YamlNode& value) { into = reader_.expanded(value, name).value_or(""); };
    };
    auto amount = [&](const char* flag, const char* name, double most, double* into = nullptr) {
      return [this, &more, flag, name, most, into](const YamlNode& value) {
        if (auto found = reader_.number(value, name, 0, most)) {
          if (into != nullptr) {
            *into = *found;
          }
          more.insert(more.end(), {flag, fmt::format("{}", *found)});
        }
      };
    };
    if (at != nullptr) {
      reader_.read_map(*at, "search.llm",
                       {{"provider", text(provider, "search.llm.provider")},
                        {"url", text(url, "search.llm.url")},
                        {"model", text(model, "search.llm.model")},
                        {"api_key_env", text(key_env, "search.llm.api_key_env")},
                        {"max_tokens",
                         [&](const YamlNode& value) {
                           if (auto n = reader_.whole(value, "search.llm.max_tokens", 64, 1000000)) {
                             llm.max_tokens = static_cast<double>(*n);
                             more.insert(more.end(), {"--max-tokens", std::to_string(*n)});
                           }
                         }},
                        {"budget_tokens", amount("--budget-tokens", "search.llm.budget_tokens", 1e12)},
                        {"budget_usd", amount("--budget-usd", "search.llm.budget_usd", 1e6)},
                        {"usd_per_mtok_in", amount("--usd-per-mtok-in", "search.llm.usd_per_mtok_in", 1e6,
                                                   &llm.usd_per_mtok_in)},
                        {"usd_per_mtok_out", amount("--usd-per-mtok-out", "search.llm.usd_per_mtok_out", 1e6,
                                                    &llm.usd_per_mtok_out)},
                        {"timeout", [&](const YamlNode& value) {
                           reader_.timeout_s(value, timeout_s, "search.llm.timeout");
                           if (timeout_s > 0 && (timeout_s < kLeastTimeoutS || timeout_s > kMostTimeoutS)) {
                             reader_.fail(value, "search.llm.timeout must be from 10ms to 1h",
                                          "write a duration such as 60s");
                           }
                           more.insert(more.end(), {"--timeout-s", fmt::format("{}", timeout_s)});
                         }}});
    }
    const YamlNode& place = at != nullptr ? *at : strategy;
    if (provider != "anthropic" && provider != "openai") {
      reader_.fail(
          place,
          provider.empty() ? "search.llm names no provider" : fmt::format("unknown provider '{}'", provider),
          "write search: {strategy: llm, llm: {provider: anthropic, model: NAME}}, or provider: openai "
          "for any endpoint with /v1/chat/completions");
      return;
    }
    if (model.empty() && url != "server") {
      reader_.fail(place, "search.llm names no model", "write model: as the provider calls it");
    }
    bool priced = false;
    for (const std::string& word : more) {
      priced |= word.starts_with("--usd-per");
    }
    if (std::find(more.begin(), more.end(), "--budget-usd") != more.end() && !priced) {
      reader_.fail(place, "search.llm.budget_usd cannot be kept without prices",
                   "write usd_per_mtok_in and usd_per_mtok_out, dollars per million tokens");
    }
    if (!url.empty() && url != "server" && !url.starts_with("http://") && !url.starts_with("https://")) {
      reader_.fail(place, fmt::format("'{}' is not the address of an endpoint", url),
                   "write url: https://HOST, or url: server for the server under tuning");
    } else if (url.find_first_of("@?#") != std::string::npos) {
      reader_.fail(place, "search.llm.url is an address alone, without a password, '?' or '#'",
                   "a key goes into api_key_env");
    }
    // Another endpoint than the provider's own gets a key only where one is named for it.
    setup_.key_needed = !key_env.empty() || url.empty();
    setup_.key_env = key_env.empty() && url.empty()
                         ? (provider == "anthropic" ? "ANTHROPIC_API_KEY" : "OPENAI_API_KEY")
                         : key_env;
    if (!setup_.key_env.empty() && !is_variable_name(setup_.key_env)) {
      reader_.fail(place, "search.llm.api_key_env is not the name of a variable",
                   "write the variable's name, never the key: api_key_env: ANTHROPIC_API_KEY");
      return;
    }
    llm.provider = provider;
    llm.url = url;
    llm.model = model;
    setup_.argv = {"autoresearch-llm", "--provider", provider};
    for (const auto& [flag, value] :
         {std::pair{"--key-env", setup_.key_env}, std::pair{"--url", url}, std::pair{"--model", model}}) {
      if (!value.empty()) {
        setup_.argv.insert(setup_.argv.end(), {flag, value});
      }
    }
    setup_.argv.insert(setup_.argv.end(), more.begin(), more.end());
  }

  SpaceReader& reader_;
  SearchOptions& options_;
  PluginSetup setup_;
};

}  // namespace

bool is_plugin_strategy(std::string_view strategy) {
  return strategy == kLlm || strategy.starts_with(kExec);
}

void read_plugin(SpaceReader& reader, const PluginNodes& nodes, SearchOptions& options) {
  if (nodes.strategy != nullptr && is_plugin_strategy(nodes.strategy->text)) {
    PluginReader(reader, options).read(nodes);
    return;
  }
  for (const YamlNode* node : {nodes.plugin, nodes.llm}) {
    if (node != nullptr) {
      reader.fail(*node, "this is for a strategy that is a plugin",
                  "write strategy: llm or strategy: \"exec:COMMAND\", or remove it");
    }
  }
}

base::Result<std::vector<std::string>> command_words(std::string_view command) {
  std::vector<std::string> words;
  std::string word;
  bool inside = false;
  char quote = 0;
  for (char c : command) {
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      inside = true;
    } else if (c == ' ' || c == '\t') {
      if (inside) {
        words.push_back(std::move(word));
        word.clear();
      }
      inside = false;
    } else {
      word += c;
      inside = true;
    }
  }
  if (quote != 0) {
    return base::error("", fmt::format("a quote {} is not closed", quote), "close it");
  }
  if (inside) {
    words.push_back(std::move(word));
  }
  if (words.empty() || words.front().empty()) {
    return base::error("", "exec: names no command", "write \"exec:python3 my_plugin.py\"");
  }
  return words;
}

}  // namespace study
