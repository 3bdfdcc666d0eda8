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
    reader_.read_map(at, "backend",
                     {{"kind", [&](const YamlNode& value) { read_kind(value); }},
                      {"binary",
                       [&](const YamlNode& value) {
                         options_.binary = reader_.expanded(value, "backend.binary").value_or("");
                       }},
                      {"args", [&](const YamlNode& value) { read_args(value); }},
                      {"env", [&](const YamlNode& value) { read_env(value); }},
                      {"api_key_env", [&](const YamlNode& value) { read_api_key(value); }},
                      {"load_timeout",
                       [&](const YamlNode& value) {
                         reader_.timeout_s(value, options_.load_timeout_s, "backend.load_timeout");
                       }},
                      {"load_estimate", seconds(options_.load_estimate_s, "backend.load_estimate")},
                      {"stop_grace", seconds(options_.stop_grace_s, "backend.stop_grace")}});
  }

 private:
  void read_kind(const YamlNode& at) {
    const std::vector<std::string> kinds = {"tbq-server", "llama-server"};
    auto text = reader_.text(at, "backend.kind");
    if (text == kinds[1]) {
      options_.kind = BackendKind::kLlamaServer;
    } else if (text && *text != kinds[0]) {
      reader_.fail(at, fmt::format("unknown backend kind '{}'", *text), base::did_you_mean(*text, kinds));
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
};

}  // namespace

void read_backend(SpaceReader& reader, const YamlNode& node, BackendOptions& options) {
  BackendReader(reader, options).read(node);
}

}  // namespace study
