#include "tests/fake_server/model.h"

#include <algorithm>
#include <cctype>
#include <cmath>

namespace fake {
namespace {

using base::Json;

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || (static_cast<unsigned char>(c) & 0x80) != 0;
}

// Uniform in [-1, 1), the same for the same arguments.
double jitter(uint64_t seed, uint64_t n) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ULL + n * 0xbf58476d1ce4e5b9ULL + 1;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<double>((z ^ (z >> 31)) >> 11) / 4503599627370496.0 - 1;
}

// "What is the secret code for the old vault?" -> the code in "The secret code for the old vault is 12345."
std::string find_needle(std::string_view message) {
  size_t question = message.rfind("What is the ");
  if (question == std::string_view::npos || message.empty() || message.back() != '?') {
    return "";
  }
  std::string key(message.substr(question + 12, message.size() - question - 13));
  size_t at = message.find(key + " is ");
  if (key.find(" for the ") == std::string::npos || at == std::string_view::npos) {
    return "";
  }
  at += key.size() + 4;
  return std::string(message.substr(at, message.find('.', at) - at));
}

}  // namespace

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> result;
  std::string blank;
  for (size_t i = 0; i < text.size();) {
    if (!is_word(text[i]) && std::isspace(static_cast<unsigned char>(text[i])) != 0) {
      blank += text[i++];
      continue;
    }
    size_t end = i + 1;
    while (is_word(text[i]) && end < text.size() && end - i < 4 && is_word(text[end])) {
      ++end;
    }
    result.push_back(blank + std::string(text.substr(i, end - i)));
    blank.clear();
    i = end;
  }
  if (!blank.empty()) {
    result.push_back(blank);
  }
  return result;
}

int count_tokens(std::string_view text) {
  return static_cast<int>(pieces(text).size());
}

Answers::Answers(const Scenario& scenario, std::string_view suite_text) : needle_(scenario.needle) {
  auto suite = base::parse_json(suite_text.empty() ? "{}" : suite_text, "suite");
  Json list = suite && suite->is_object() ? suite->value("items", Json::array()) : Json::array();
  auto wanted = static_cast<size_t>(std::lround(scenario.quality * static_cast<double>(list.size())));
  for (const Json& json : list) {
    Item item;
    item.id = base::json_get<std::string>(json, "id", "");
    item.prompt = base::json_get<std::string>(json, "prompt", "");
    for (const Json& word : json.value("all_of", Json::array())) {
      item.right += word.get<std::string>() + " ";
    }
    Json any = json.value("any_of", Json::array());
    item.right += any.empty() ? "" : any[0].get<std::string>();
    item.passes = items_.size() < wanted && std::find(scenario.fail_items.begin(), scenario.fail_items.end(),
                                                      item.id) == scenario.fail_items.end();
    items_.push_back(std::move(item));
  }
}

std::string Answers::to(std::string_view message) {
  for (bool whole : {true, false}) {  // a prompt may stand inside another one
    for (const Item& item : items_) {
      bool asked = whole ? message == item.prompt : message.find(item.prompt) != std::string_view::npos;
      if (!item.prompt.empty() && asked) {
        return item.passes ? "It is " + item.right + "." : "Hm.";
      }
    }
  }
  if (std::string code = find_needle(message); !code.empty()) {
    int n = needles_asked_++;
    bool found = std::floor((n + 1) * needle_ + 1e-9) > std::floor(n * needle_ + 1e-9);
    return found ? "It is " + code + "." : "It is nowhere to be seen.";
  }
  return "This is what a pretended model says.";
}

double gaussian(uint64_t seed, uint64_t n) {
  double u = (jitter(seed, 2 * n + 0x10000000) + 1) / 2, v = jitter(seed, 2 * n + 0x10000001);
  return std::sqrt(-2 * std::log(std::max(u, 1e-300))) * std::cos(3.141592653589793 * v);
}

Pace pace(const Scenario& scenario, int prompt_tokens, int request_number) {
  auto n = static_cast<uint64_t>(request_number) * 2;
  double fast = 1 + scenario.noise * jitter(scenario.seed, n);
  Pace pace;
  pace.prompt_ms =
      prompt_tokens * 1000.0 / scenario.prefill_tps * (1 + scenario.noise * jitter(scenario.seed, n + 1));
  pace.token_ms = (1000.0 / scenario.decode_tps + scenario.decode_ms_per_1k * prompt_tokens / 1000.0) * fast;
  pace.prompt_ms *= scenario.time_scale;
  pace.token_ms *= scenario.time_scale;
  return pace;
}

Json timings(const Pace& pace, int prompt_tokens, int predicted_tokens) {
  double predicted_ms = std::max(1, predicted_tokens - 1) * pace.token_ms;
  int steps = std::max(1, predicted_tokens - 1);
  return {{"cache_n", 0},
          {"prompt_n", prompt_tokens},
          {"prompt_ms", pace.prompt_ms},
          {"prompt_per_token_ms", pace.prompt_ms / std::max(1, prompt_tokens)},
          {"prompt_per_second", prompt_tokens / std::max(1e-9, pace.prompt_ms / 1000)},
          {"predicted_n", predicted_tokens},
          {"predicted_ms", predicted_ms},
          {"predicted_per_token_ms", predicted_ms / steps},
          {"predicted_per_second", steps / std::max(1e-9, predicted_ms / 1000)}};
}

}  // namespace fake
