#include "search/plugin_text.h"

#include <algorithm>
#include <cmath>

namespace search {
namespace {

constexpr size_t kMostText = 400;

std::optional<double> amount(const base::Json& usage, const char* name) {
  double value = base::json_get<double>(usage, name, -1);
  return std::isfinite(value) && value >= 0 ? std::optional(value) : std::nullopt;
}

base::Json number_or_null(const std::optional<double>& value) {
  return value ? base::Json(*value) : base::Json(nullptr);
}

base::Json scalar(const Value& value) {
  return std::visit([](const auto& held) { return base::Json(held); }, value);
}

}  // namespace

std::string clipped(std::string_view text) {
  std::string line(text.substr(0, kMostText));
  if (line.size() < text.size()) {
    // Not within a character of UTF-8.
    while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xC0) == 0x80) {
      line.pop_back();
    }
    if (!line.empty() && static_cast<unsigned char>(line.back()) >= 0xC0) {
      line.pop_back();
    }
    line += "...";
  }
  for (char& c : line) {
    c = static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return line;
}

void hide_secret(std::string& text, const std::string& secret) {
  constexpr size_t kLeast = 6;
  for (size_t at = 0; secret.size() >= kLeast && (at = text.find(secret, at)) != std::string::npos; at += 3) {
    text.replace(at, secret.size(), "***");
  }
}

void hide_secret(base::Json& value, const std::string& secret) {
  if (value.is_string()) {
    hide_secret(value.get_ref<std::string&>(), secret);
  } else if (value.is_array()) {
    for (base::Json& part : value) {
      hide_secret(part, secret);
    }
  } else if (value.is_object()) {
    base::Json hidden = base::Json::object();
    for (auto& [name, part] : value.items()) {
      std::string shown = name;
      hide_secret(shown, secret);
      hide_secret(part, secret);
      hidden[shown] = std::move(part);
    }
    value = std::move(hidden);
  }
}

void hide_secret_in_line(std::string& line, const std::string& secret) {
  // Escaped, it would pass for something else.
  if (!secret.empty() && line.find('\\') != std::string::npos) {
    if (auto answer = base::parse_json(line, "")) {
      hide_secret(*answer, secret);
      line = base::dump_line(*answer);
    }
    const std::string escaped = base::dump_line(secret);
    hide_secret(line, escaped.substr(1, escaped.size() - 2));
  }
  hide_secret(line, secret);
}

double tokens_of(size_t bytes) {
  constexpr double kBytesPerToken = 3;
  return std::ceil(static_cast<double>(bytes) / kBytesPerToken);
}

base::Json shortened(const base::Json& value) {
  std::string text = base::dump_line(value);
  return text.size() > kMostText ? base::Json(clipped(text)) : value;
}

base::Json space_json(const Space& space) {
  base::Json axes = base::Json::array(), constraints = base::Json::array();
  for (const Axis& axis : space.axes) {
    base::Json values = base::Json::array();
    for (const Value& value : axis.values) {
      values.push_back(scalar(value));
    }
    base::Json entry = {{"name", axis.name},
                        {"values", std::move(values)},
                        {"default", scalar(axis.values[axis.default_index])},
                        {"ordered", axis.ordered}};
    if (axis.active_when) {
      entry["active_when"] = axis.active_when->text();
    }
    axes.push_back(std::move(entry));
  }
  for (const Expression& constraint : space.constraints) {
    constraints.push_back(constraint.text());
  }
  return {{"axes", std::move(axes)}, {"constraints", std::move(constraints)}};
}

base::Json refused_json(const std::vector<PluginExchange::Refused>& refused) {
  base::Json list = base::Json::array();
  for (const PluginExchange::Refused& it : refused) {
    list.push_back({{"params", it.params}, {"why", it.why}});
  }
  return list;
}

PluginUsage read_usage(const base::Json& record) {
  PluginUsage usage;
  auto found = record.is_object() ? record.find("usage") : record.end();
  if (found == record.end() || !found->is_object()) {
    return usage;
  }
  usage.input_tokens = amount(*found, "input_tokens");
  usage.output_tokens = amount(*found, "output_tokens");
  usage.cost_usd = amount(*found, "cost_usd");
  usage.estimated = base::json_get<bool>(*found, "estimated", false);
  return usage;
}

base::Json to_json(const PluginUsage& usage) {
  return {{"input_tokens", number_or_null(usage.input_tokens)},
          {"output_tokens", number_or_null(usage.output_tokens)},
          {"cost_usd", number_or_null(usage.cost_usd)},
          {"estimated", usage.estimated}};
}

base::Json to_json(const Space& space, const PluginExchange& exchange) {
  base::Json taken = base::Json::array();
  for (const PluginExchange::Taken& it : exchange.taken) {
    taken.push_back({{"params", to_json(space, it.config)}, {"rationale", it.rationale}});
  }
  auto text = [](const std::string& words) {
    return words.empty() ? base::Json(nullptr) : base::Json(words);
  };
  return {{"exchange", exchange.number},
          {"asked", exchange.asked},
          {"t_s", exchange.seconds},
          {"taken", std::move(taken)},
          {"refused", refused_json(exchange.refused)},
          {"fault", text(exchange.fault)},
          {"error", text(exchange.message)},
          {"usage", to_json(exchange.usage)}};
}

base::Result<PluginExchange> exchange_from_json(const Space& space, const base::Json& record) {
  PluginExchange exchange;
  exchange.number = base::json_get<int>(record, "exchange", 0);
  exchange.asked = base::json_get<int>(record, "asked", 0);
  exchange.seconds = std::max(0.0, base::json_get<double>(record, "t_s", 0));
  exchange.fault = base::json_get<std::string>(record, "fault", "");
  exchange.message = base::json_get<std::string>(record, "error", "");
  exchange.usage = read_usage(record);
  const base::Json none = base::Json::array();
  for (const base::Json& it : record.value("taken", none)) {
    auto config = from_json(space, it.is_object() ? it.value("params", base::Json()) : base::Json());
    if (!config) {
      return config.failure();
    }
    exchange.taken.push_back({space.canonical(*config), base::json_get<std::string>(it, "rationale", "")});
  }
  for (const base::Json& it : record.value("refused", none)) {
    exchange.refused.push_back({it.is_object() ? it.value("params", base::Json()) : base::Json(),
                                base::json_get<std::string>(it, "why", "")});
  }
  return exchange;
}

}  // namespace search
