#include "probes/quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "src/os/http_client.h"

namespace probes {
namespace {

using base::Json;

constexpr std::pair<Verdict, std::string_view> kVerdicts[] = {
    {Verdict::kPass, "pass"},      {Verdict::kMiss, "miss"},          {Verdict::kRefused, "refused"},
    {Verdict::kCutOff, "cut_off"}, {Verdict::kTimedOut, "timed_out"}, {Verdict::kError, "error"}};

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return result;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || (static_cast<unsigned char>(c) & 0x80) != 0;
}

// A "." or "," between digits belongs to the number.
bool in_number(std::string_view text, size_t separator, size_t digit) {
  return separator < text.size() && digit < text.size() &&
         (text[separator] == '.' || text[separator] == ',') && is_digit(text[digit]);
}

base::Result<std::vector<std::string>> keywords(const Json& item, const char* key, const std::string& where) {
  std::vector<std::string> result;
  auto found = item.find(key);
  if (found == item.end()) {
    return result;
  }
  if (!found->is_array() || found->empty()) {
    return base::error(where, fmt::format("\"{}\" is no list of keywords", key), "write [\"word\", ...]");
  }
  for (const Json& word : *found) {
    if (!word.is_string() || word.get_ref<const std::string&>().empty()) {
      return base::error(where, fmt::format("a keyword of \"{}\" is no text", key),
                         "write each one in quotes");
    }
    result.push_back(word.get<std::string>());
  }
  return result;
}

base::Result<QualityItem> parse_item(const Json& json, const std::string& where) {
  if (!json.is_object()) {
    return base::error(where, "is no object", "write {\"id\": ..., \"prompt\": ..., \"any_of\": [...]}");
  }
  static constexpr std::string_view kKeys[] = {"id",     "category", "prompt",    "all_of",
                                               "any_of", "none_of",  "max_tokens"};
  for (const auto& [key, value] : json.items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      return base::error(where, fmt::format("unknown key \"{}\"", key),
                         "known are id, category, prompt, all_of, any_of, none_of, max_tokens");
    }
  }
  QualityItem item;
  item.id = base::json_get<std::string>(json, "id", "");
  item.category = base::json_get<std::string>(json, "category", "");
  item.prompt = base::json_get<std::string>(json, "prompt", "");
  if (item.id.empty() || item.prompt.empty()) {
    return base::error(where, item.id.empty() ? "has no \"id\"" : "has no \"prompt\"", "add it as text");
  }
  for (auto [key, target] : {std::pair("all_of", &item.all_of), std::pair("any_of", &item.any_of),
                             std::pair("none_of", &item.none_of)}) {
    auto words = keywords(json, key, where);
    if (!words) {
      return words.failure();
    }
    *target = *words;
  }
  if (item.all_of.empty() && item.any_of.empty()) {
    return base::error(where, "has no keywords to look for", "add \"any_of\" or \"all_of\"");
  }
  if (auto tokens = json.find("max_tokens"); tokens != json.end()) {
    if (!tokens->is_number_integer() || tokens->get<int64_t>() < 1 || tokens->get<int64_t>() > 100000) {
      return base::error(where, "\"max_tokens\" is no number from 1 to 100000", "");
    }
    item.max_tokens = tokens->get<int>();
  }
  return item;
}

}  // namespace

std::string_view to_string(Verdict verdict) {
  for (const auto& [value, name] : kVerdicts) {
    if (value == verdict) {
      return name;
    }
  }
  return "error";
}

base::Result<std::vector<QualityItem>> parse_suite(std::string_view json_text, std::string_view where) {
  auto json = base::parse_json(json_text, std::string(where));
  if (!json) {
    return json.failure();
  }
  auto list = json->is_object() ? json->find("items") : json->end();
  if (!json->is_object() || list == json->end() || !list->is_array() || list->empty()) {
    return base::error(
        std::string(where), "has no \"items\" list",
        "write {\"name\": ..., \"items\": [{\"id\": ..., \"prompt\": ..., \"any_of\": [...]}, ...]}");
  }
  std::vector<QualityItem> items;
  std::set<std::string> ids;
  for (size_t i = 0; i < list->size(); ++i) {
    std::string at = fmt::format("{}: items[{}]", where, i);
    auto item = parse_item((*list)[i], at);
    if (!item) {
      return item.failure();
    }
    if (!ids.insert(item->id).second) {
      return base::error(at, fmt::format("the id \"{}\" is taken", item->id), "give every item its own");
    }
    items.push_back(std::move(*item));
  }
  return items;
}

bool has_keyword(std::string_view text, std::string_view keyword) {
  std::string haystack = lower(text), needle = lower(keyword);
  for (size_t at = haystack.find(needle); !needle.empty() && at != std::string::npos;
       at = haystack.find(needle, at + 1)) {
    size_t end = at + needle.size();
    bool starts = at == 0 || !is_word(needle.front()) || !is_word(haystack[at - 1]);
    if (is_digit(needle.front()) && at >= 2 && in_number(haystack, at - 1, at - 2)) {
      starts = false;
    }
    bool ends = !is_digit(needle.back()) || end == haystack.size() ||
                (!is_digit(haystack[end]) && !in_number(haystack, end, end + 1));
    if (starts && ends) {
      return true;
    }
  }
  return false;
}

Verdict score_answer(const QualityItem& item, const Generation& generation) {
  if (generation.finish_reason == "error") {
    return Verdict::kError;
  }
  const std::string& answer = generation.content;
  auto has = [&](const std::string& keyword) { return has_keyword(answer, keyword); };
  if (is_refusal(answer)) {
    return Verdict::kRefused;
  }
  bool hit = std::all_of(item.all_of.begin(), item.all_of.end(), has) &&
             (item.any_of.empty() || std::any_of(item.any_of.begin(), item.any_of.end(), has));
  if (hit && std::none_of(item.none_of.begin(), item.none_of.end(), has)) {
    return Verdict::kPass;
  }
  if (!hit && generation.finish_reason == "time_limit") {
    return Verdict::kTimedOut;
  }
  bool cut = generation.finish_reason == "length" || generation.finish_reason == "thinking_limit";
  return !hit && cut ? Verdict::kCutOff : Verdict::kMiss;
}

bool ran_away(const Generation& generation) {
  const std::string& reason = generation.finish_reason;
  bool silent = generation.content.find_first_not_of(" \t\r\n") == std::string::npos;
  return reason == "thinking_limit" || reason == "time_limit" ||
         (reason == "length" && silent && !generation.reasoning.empty());
}

QualityResult score_quality(const std::vector<QualityItem>& items,
                            const std::vector<Generation>& generations) {
  AR_CHECK(items.size() == generations.size(), "an answer for every item");
  QualityResult result;
  for (size_t i = 0; i < items.size(); ++i) {
    QualityAnswer answer;
    answer.id = items[i].id;
    answer.verdict = score_answer(items[i], generations[i]);
    answer.answer = clip(generations[i].content, 400);
    answer.total_ms = generations[i].total_ms;
    result.passed += answer.verdict == Verdict::kPass ? 1 : 0;
    result.refused += answer.verdict == Verdict::kRefused ? 1 : 0;
    result.runaway += answer.verdict != Verdict::kPass && ran_away(generations[i]) ? 1 : 0;
    result.items.push_back(std::move(answer));
  }
  result.score = items.empty() ? 0 : static_cast<double>(result.passed) / static_cast<double>(items.size());
  return result;
}

base::Result<QualityResult> run_quality(const Endpoint& endpoint, const std::vector<QualityItem>& items,
                                        const QualityOptions& options) {
  std::vector<Generation> generations;
  int runaways = 0;
  for (const QualityItem& item : items) {
    if (runaways >= kRunawaysInARow) {
      Generation unasked;
      unasked.finish_reason = "time_limit";
      unasked.content = fmt::format("(not asked: {} answers in a row never came to an end)", runaways);
      generations.push_back(std::move(unasked));
      continue;
    }
    Budget budget{item.max_tokens, options.max_thinking_tokens, options.max_answer_s};
    auto generation = chat(endpoint, {{"user", item.prompt}}, budget);
    runaways = generation && ran_away(*generation) ? runaways + 1 : 0;
    if (!generation) {
      if (os::http_fault(generation.failure()) != os::HttpFault::kStatus) {
        return generation.failure();
      }
      Generation refused;
      refused.finish_reason = "error";
      refused.content = generation.failure().what;
      generations.push_back(std::move(refused));
      continue;
    }
    generations.push_back(std::move(*generation));
  }
  return score_quality(items, generations);
}

base::Json to_json(const QualityResult& result) {
  Json json = {{"score", result.score}, {"passed", result.passed}, {"n", result.items.size()}};
  json["refused"] = result.refused;
  json["runaway"] = result.runaway;
  json["items"] = Json::array();
  for (const QualityAnswer& item : result.items) {
    json["items"].push_back({{"id", item.id},
                             {"verdict", to_string(item.verdict)},
                             {"answer", item.answer},
                             {"total_ms", item.total_ms}});
  }
  return json;
}

}  // namespace probes
