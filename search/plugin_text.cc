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

void read_usage(const base::Json& answer, PluginExchange& exchange) {
  auto usage = answer.find("usage");
  if (usage == answer.end() || !usage->is_object()) {
    return;
  }
  exchange.input_tokens = amount(*usage, "input_tokens");
  exchange.output_tokens = amount(*usage, "output_tokens");
  exchange.cost_usd = amount(*usage, "cost_usd");
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
          {"usage",
           {{"input_tokens", number_or_null(exchange.input_tokens)},
            {"output_tokens", number_or_null(exchange.output_tokens)},
            {"cost_usd", number_or_null(exchange.cost_usd)}}}};
}

base::Result<PluginExchange> exchange_from_json(const Space& space, const base::Json& record) {
  PluginExchange exchange;
  exchange.number = base::json_get<int>(record, "exchange", 0);
  exchange.asked = base::json_get<int>(record, "asked", 0);
  exchange.seconds = std::max(0.0, base::json_get<double>(record, "t_s", 0));
  exchange.fault = base::json_get<std::string>(record, "fault", "");
  exchange.message = base::json_get<std::string>(record, "error", "");
  read_usage(record, exchange);
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
