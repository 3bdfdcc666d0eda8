#include "tests/fake_server/scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "src/base/kv_types.h"

namespace fake {
namespace {

using base::Json;

constexpr std::pair<const char*, const char*> kAliases[] = {
    {"m", "model"},          {"c", "ctx_size"},
    {"ctk", "cache_type_k"}, {"ctv", "cache_type_v"},
    {"b", "batch_size"},     {"ub", "ubatch_size"},
    {"t", "threads"},        {"tb", "threads_batch"},
    {"ngl", "n_gpu_layers"}, {"gpu_layers", "n_gpu_layers"},
    {"fa", "flash_attn"},    {"np", "parallel"},
    {"a", "alias"},          {"s", "seed"},
    {"n", "n_predict"},      {"lm", "load_mode"}};

std::string canonical(std::string name) {
  name.erase(0, name.find_first_not_of('-'));
  std::replace(name.begin(), name.end(), '-', '_');
  for (const auto& [alias, full] : kAliases) {
    if (name == alias) {
      return full;
    }
  }
  return name;
}

bool is_flag(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && std::isdigit(static_cast<unsigned char>(word[1])) == 0;
}

std::string as_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

bool matches(const Json& wanted, const std::string& value) {
  if (wanted.is_array()) {
    return std::any_of(wanted.begin(), wanted.end(), [&](const Json& one) { return as_text(one) == value; });
  }
  if (wanted.is_object()) {
    double number = std::strtod(value.c_str(), nullptr);
    return !value.empty() && number >= base::json_get(wanted, "min", -1e300) &&
           number <= base::json_get(wanted, "max", 1e300) &&
           (!wanted.contains("not") || as_text(wanted["not"]) != value);
  }
  return as_text(wanted) == value;
}

base::Result<void> apply(const Json& fields, const std::string& where, Scenario& s) {
  for (const auto& [key, value] : fields.items()) {
    auto number = [&, k = key, v = value](const char* name, auto& target) {
      if (k != name || !v.is_number()) {
        return false;
      }
      target = v.template get<std::decay_t<decltype(target)>>();
      return true;
    };
    auto text = [&, k = key, v = value](const char* name, std::string& target) {
      if (k != name || !v.is_string()) {
        return false;
      }
      target = v.template get<std::string>();
      return true;
    };
    auto flag = [&, k = key, v = value](const char* name, bool& target) {
      if (k != name || !v.is_boolean()) {
        return false;
      }
      target = v.template get<bool>();
      return true;
    };
    auto list = [&, k = key, v = value](const char* name, std::vector<std::string>& target) {
      if (k != name || !v.is_array()) {
        return false;
      }
      target.clear();
      for (const Json& one : v) {
        target.push_back(as_text(one));
      }
      return true;
    };
    bool known = text("behaviour", s.behaviour) || number("exit_code", s.exit_code) ||
                 number("after_requests", s.after_requests) || number("load_s", s.load_s) ||
                 number("decode_tps", s.decode_tps) || number("prefill_tps", s.prefill_tps) ||
                 number("decode_ms_per_1k", s.decode_ms_per_1k) || number("noise", s.noise) ||
                 number("seed", s.seed) || number("time_scale", s.time_scale) ||
                 number("quality", s.quality) || number("needle", s.needle) || text("suite", s.suite) ||
                 text("model_id", s.model_id) || number("n_ctx", s.n_ctx) ||
                 number("allocate_mib", s.allocate_mib) || text("port_file", s.port_file) ||
                 number("kv_mib_per_1k", s.kv_mib_per_1k) || number("kv_limit_mib", s.kv_limit_mib) ||
                 text("reconfigure_behaviour", s.reconfigure_behaviour) ||
                 number("reconfigure_s", s.reconfigure_s) || number("launch_noise", s.launch_noise) ||
                 number("drift_per_launch", s.drift_per_launch) || text("launch_counter", s.launch_counter) ||
                 flag("native", s.native) || flag("numerics", s.numerics) || flag("logprobs", s.logprobs) ||
                 number("ppl", s.ppl) || number("ppl_noise", s.ppl_noise) ||
                 list("reconfigure", s.reconfigure) || list("fail_items", s.fail_items) || key == "rules";
    if (key == "props" && value.is_object()) {
      s.props = value;
      known = true;
    }
    if (!known) {
      return base::error(where, fmt::format("\"{}\" is unknown or of the wrong type", key),
                         "see tests/fake_server/README.md");
    }
  }
  return {};
}

std::string value_of(const Flags& flags, const char* name, const char* fallback) {
  auto found = flags.find(name);
  return found == flags.end() ? fallback : found->second;
}

}  // namespace

double kv_mib(const Scenario& scenario, const Flags& flags) {
  double tokens = std::strtod(value_of(flags, "ctx_size", "4096").c_str(), nullptr);
  double bits = base::kv_bits_per_value(value_of(flags, "cache_type_k", "f16")) +
                base::kv_bits_per_value(value_of(flags, "cache_type_v", "f16"));
  return scenario.kv_mib_per_1k * tokens / 1024 * bits / 32;
}

std::string numerics_key(const Flags& flags) {
  std::string model = value_of(flags, "model", "");
  uint64_t hash = 14695981039346656037ULL;
  for (char c : model.substr(model.rfind('/') + 1) + '|' + value_of(flags, "cache_type_k", "f16") + '|' +
                    value_of(flags, "cache_type_v", "f16")) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  }
  return fmt::format("{:016x}", hash);
}

bool is_cache_type(const std::string& name) {
  return base::find_kv_type(name) != nullptr;
}

Flags parse_flags(const std::vector<std::string>& args) {
  Flags flags;
  for (size_t i = 0; i < args.size(); ++i) {
    if (!is_flag(args[i])) {
      continue;
    }
    size_t equals = args[i].find('=');
    std::string name = canonical(args[i].substr(0, equals)), value = "true";
    if (equals != std::string::npos) {
      value = args[i].substr(equals + 1);
    } else if (i + 1 < args.size() && !is_flag(args[i + 1])) {
      value = args[++i];
    }
    flags[name] = value;
  }
  return flags;
}

base::Result<Scenario> parse_scenario(std::string_view text, const std::string& where, const Flags& flags) {
  Scenario scenario;
  auto json = base::parse_json(text, where);
  if (!json) {
    return json.failure();
  }
  if (!json->is_object()) {
    return base::error(where, "is no JSON object", "see tests/fake_server/README.md");
  }
  if (auto done = apply(*json, where, scenario); !done) {
    return done.failure();
  }
  for (const Json& rule : json->value("rules", Json::array())) {
    if (!rule.is_object() || !rule.contains("when") || !rule.contains("set") || !rule["set"].is_object()) {
      return base::error(where, "a rule is no {\"when\": {...}, \"set\": {...}}", "");
    }
    bool fits = true;
    for (const auto& [flag, wanted] : rule["when"].items()) {
      auto found = flags.find(flag);
      fits = fits && matches(wanted, found == flags.end() ? "" : found->second);
    }
    if (fits) {
      if (auto done = apply(rule["set"], where, scenario); !done) {
        return done.failure();
      }
    }
  }
  if (scenario.kv_limit_mib > 0 && kv_mib(scenario, flags) > scenario.kv_limit_mib) {
    scenario.behaviour = "oom";
  }
  return scenario;
}

}  // namespace fake
