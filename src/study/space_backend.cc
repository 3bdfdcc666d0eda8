#include "src/study/space_backend.h"

#include <fmt/format.h>

#include "src/base/suggest.h"
#include "src/study/backends.h"

namespace study {
namespace {

class BackendReader {
 public:
  BackendReader(SpaceReader& reader, BackendOptions& options) : reader_(reader), options_(options) {}

  void read(const YamlNode& at) {
    auto seconds = [this](double& into, const char* name) {
      return [this, &into, name](const YamlNode& value) {
        into = reader_.duration_s(value, name).value_or(into);
      };
    };
    auto seen = [this](const YamlNode*& slot, std::string& into, const char* name) {
      return [this, &slot, &into, name](const YamlNode& value) {
        slot = &value;
        into = reader_.expanded(value, name).value_or("");
      };
    };
    reader_.read_map(at, "backend",
                     {{"kind", [&](const YamlNode& value) { read_kind(value); }},
                      {"binary", seen(binary_, options_.binary, "backend.binary")},
                      {"url", seen(url_, options_.url, "backend.url")},
                      {"ready_path", seen(ready_path_, options_.ready_path, "backend.ready_path")},
                      {"reuse", [&](const YamlNode& value) { read_reuse(value); }},
                      {"args",
                       [&](const YamlNode& value) {
                         args_ = &value;
                         read_args(value);
                       }},
                      {"env", [&](const YamlNode& value) { read_env(value); }},
                      {"api_key_env", [&](const YamlNode& value) { read_api_key(value); }},
                      {"load_timeout",
                       [&](const YamlNode& value) {
                         reader_.timeout_s(value, options_.load_timeout_s, "backend.load_timeout");
                       }},
                      {"load_stall",
                       [&](const YamlNode& value) {
                         size_t before = reader_.errors().size();
                         reader_.timeout_s(value, options_.load_stall_s, "backend.load_stall");
                         stall_ = reader_.errors().size() == before ? &value : nullptr;
                       }},
                      {"load_estimate", seconds(options_.load_estimate_s, "backend.load_estimate")},
                      {"stop_grace", seconds(options_.stop_grace_s, "backend.stop_grace")}});
    check_together(at);
  }

 private:
  void read_kind(const YamlNode& at) {
    constexpr BackendKind kKinds[] = {BackendKind::kTbqServer, BackendKind::kLlamaServer,
                                      BackendKind::kOpenAi, BackendKind::kUrl};
    auto text = reader_.text(at, "backend.kind");
    std::vector<std::string> names;
    for (BackendKind kind : kKinds) {
      names.emplace_back(to_string(kind));
      if (text == names.back()) {
        options_.kind = kind;
        return;
      }
    }
    if (text) {
      reader_.fail(at, fmt::format("unknown backend kind '{}'", *text), base::did_you_mean(*text, names));
    }
  }

  void read_reuse(const YamlNode& at) {
    auto text = reader_.text(at, "backend.reuse");
    if (text == "never") {
      options_.reuse = Reuse::kNever;
    } else if (text && *text != "auto") {
      reader_.fail(at, fmt::format("'{}' is no way to reuse a server", *text), "write auto or never");
    }
  }

  // What one kind needs and another has no use for.
  void check_together(const YamlNode& at) {
    bool is_url = options_.kind == BackendKind::kUrl;
    if (is_url && url_ == nullptr) {
      reader_.fail(at, "a url backend has no url", "write url: http://127.0.0.1:8080");
    } else if (url_ != nullptr && !is_url) {
      reader_.fail(*url_, fmt::format("a {} backend is launched, it has no url", to_string(options_.kind)),
                   "write kind: url for a server that is already running, or remove url:");
    } else if (is_url && !options_.url.starts_with("http://") && !options_.url.starts_with("https://")) {
      reader_.fail(*url_, fmt::format("'{}' is not the address of a server", options_.url),
                   "write url: http://HOST:PORT");
    } else if (is_url && options_.url.find_first_of("@?#") != std::string::npos) {
      // It is shown, and in the journal; and paths are appended to it.
      reader_.fail(*url_, "backend.url is an address alone, without a password, '?' or '#'",
                   "write url: http://HOST:PORT; a key goes into api_key_env");
    }
    while (is_url && options_.url.ends_with("/")) {
      options_.url.pop_back();
    }
    if (is_url && url_ != nullptr && options_.url.ends_with("/v1")) {
      reader_.fail(*url_, "backend.url is the server's address, without /v1", "remove /v1");
    }
    for (const YamlNode* node : {binary_, args_}) {
      if (is_url && node != nullptr) {
        reader_.fail(*node, "a url backend is not launched: it has neither binary nor args", "remove it");
      }
    }
    if (is_url && options_.reuse == Reuse::kNever) {
      reader_.fail(at, "a url backend cannot be a fresh process each time", "remove reuse:");
    }
    bool v1_only = is_url || options_.kind == BackendKind::kOpenAi;
    if (ready_path_ != nullptr && !v1_only) {
      reader_.fail(*ready_path_, fmt::format("a {} is ready when /health says so", to_string(options_.kind)),
                   "remove ready_path:");
    } else if (ready_path_ != nullptr && !options_.ready_path.starts_with("/")) {
      reader_.fail(*ready_path_, "backend.ready_path must begin with /", "write ready_path: /health");
    }
    if (stall_ != nullptr && options_.load_stall_s >= options_.load_timeout_s) {
      reader_.fail(*stall_, "backend.load_stall must be shorter than backend.load_timeout",
                   "a load that stands still ends after load_stall, any load after load_timeout");
    }
  }

  void read_args(const YamlNode& at) {
    if (at.kind == YamlNode::Kind::kList && at.items.empty()) {
      return;
    }
    bool secret_follows = false;
    for (const YamlNode* item : reader_.list(at, "backend.args")) {
      if (auto text = reader_.expanded(*item, "backend.args")) {
        options_.args.push_back(*text);
      }
      size_t equals = item->text.find('=');
      bool flag = item->text.starts_with("-") && names_a_secret(item->text.substr(0, equals));
      if (secret_follows) {
        refuse_literal_secret(*item, item->text, "backend.args");
      } else if (flag && equals != std::string::npos) {
        refuse_literal_secret(*item, item->text.substr(equals + 1), "backend.args");
      }
      secret_follows = flag && equals == std::string::npos && !secret_follows;
    }
  }

  // The journal keeps the file's text, so a secret must not stand in it. The message does not repeat it.
  void refuse_literal_secret(const YamlNode& at, const std::string& raw, const std::string& name) {
    // What is left without the variables' values: literal text and ${NAME:-defaults}.
    auto literal = expand_variables(raw, [](const std::string&) { return std::string(); });
    if (literal && !literal->empty()) {
      reader_.fail(at, name + " holds a secret, which the journal would keep",
                   "put it into an environment variable and write ${THAT_VARIABLE}");
    }
  }

  void read_env(const YamlNode& at) {
    if (at.kind != YamlNode::Kind::kMap) {
      reader_.fail(at, "backend.env must be a map", "write {NAME: VALUE}");
      return;
    }
    for (const auto& [key, value] : at.entries) {
      if (!is_variable_name(key.text)) {
        reader_.fail(key, fmt::format("'{}' is not the name of a variable", key.text),
                     "use letters, digits and _");
      } else if (auto text = reader_.expanded(value, "backend.env." + key.text)) {
        options_.env[key.text] = *text;
        if (names_a_secret(key.text)) {
          refuse_literal_secret(value, value.text, "backend.env." + key.text);
        }
      }
    }
  }

  void read_api_key(const YamlNode& at) {
    auto name = reader_.text(at, "backend.api_key_env");
    if (name && !is_variable_name(*name)) {
      // The value may be a key pasted by mistake: do not repeat it.
      reader_.fail(at, "backend.api_key_env is not the name of a variable",
                   "name the variable that holds the key, never the key itself");
    } else if (name) {
      options_.api_key_env = *name;
    }
  }

  SpaceReader& reader_;
  BackendOptions& options_;
  const YamlNode *binary_ = nullptr, *url_ = nullptr, *ready_path_ = nullptr, *args_ = nullptr,
                 *stall_ = nullptr;
};

}  // namespace

void read_backend(SpaceReader& reader, const YamlNode& node, BackendOptions& options) {
  BackendReader(reader, options).read(node);
}

void read_service(SpaceReader& reader, const YamlNode& node, std::string& service) {
  auto name = reader.text(node, "service");
  if (!name) {
    return;
  }
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@._:-\\";
  bool word = !name->starts_with("-") && name->find_first_not_of(kAllowed) == std::string::npos;
  if (!word || !name->ends_with(".service") || name->size() > 255) {
    reader.fail(node, fmt::format("'{}' is not the name of a systemd service", *name),
                "write the user unit's full name: llama.service");
    return;
  }
  service = *name;
}

}  // namespace study
