#include "probes/endpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <utility>

#include "src/os/http_client.h"

namespace probes {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point then) {
  return std::chrono::duration<double, std::milli>(Clock::now() - then).count();
}

os::HttpRequest post(const Endpoint& endpoint, std::string_view path, const Json& body) {
  os::HttpRequest request;
  request.method = "POST";
  request.url = endpoint.base_url + std::string(path);
  request.body = base::dump_line(body);
  request.timeout_s = endpoint.timeout_s;
  request.stall_timeout_s = endpoint.stall_timeout_s;
  request.cancelled = endpoint.cancelled;
  if (!endpoint.api_key.empty()) {
    request.headers.emplace_back("Authorization", "Bearer " + endpoint.api_key);
  }
  return request;
}

const Json* member(const Json& value, std::string_view key) {
  if (!value.is_object()) {
    return nullptr;
  }
  auto found = value.find(key);
  return found == value.end() ? nullptr : &*found;
}

// What an error body says: {"error":{"message":...}} in both of llama-server's spellings, else its beginning.
std::string error_message(std::string_view body) {
  auto json = base::parse_json(body, "");
  const Json* error = json ? member(*json, "error") : nullptr;
  std::string message = error != nullptr ? base::json_get<std::string>(*error, "message", "") : "";
  if (message.empty() && error != nullptr && error->is_string()) {
    message = error->get<std::string>();
  }
  return clip(message.empty() ? std::string(body) : message, 300);
}

base::Error status_error(const std::string& url, int status, std::string_view body) {
  std::string message = error_message(body);
  return base::error(
      url, message.empty() ? fmt::format("HTTP {}", status) : fmt::format("HTTP {}: {}", status, message),
      status == 401   ? "check the API key"
      : status == 404 ? "the server has no such route"
                      : "");
}

using TakeEvent = bool (*)(std::string_view, double, Generation&);

// Sends a streaming request and feeds its events to `take` until the answer is complete, or over its budget.
base::Result<Generation> stream(const Endpoint& endpoint, std::string_view path, const Json& body,
                                TakeEvent take, BudgetWatch* watch) {
  os::HttpRequest request = post(endpoint, path, body);
  Generation generation;
  os::SseParser parser;
  std::string bad;  // what was wrong with the stream itself
  bool stalled = false;
  std::string over;  // which budget it has used up
  auto start = Clock::now();
  auto last_token = start;
  request.on_data = [&](std::string_view bytes) {
    double ms = ms_since(start);
    size_t tokens_before = generation.token_ms.size();
    bool sane = parser.feed(bytes, [&](std::string_view data) {
      if (data == "[DONE]" || !bad.empty()) {
        return;
      }
      if (!take(data, ms, generation)) {
        bad = fmt::format("an event that is no JSON: {}", clip(data, 80));
      }
    });
    if (!sane) {
      bad = "an event of more than 16 MiB";
    }
    if (generation.token_ms.size() != tokens_before) {
      last_token = Clock::now();
    } else if (endpoint.stall_timeout_s > 0 && ms_since(last_token) > endpoint.stall_timeout_s * 1000) {
      stalled = true;  // pings keep the connection busy, yet nothing is said
    }
    if (watch != nullptr && generation.finish_reason.empty()) {
      over = watch->over(generation, ms);
    }
    return bad.empty() && !stalled && over.empty() && !generation.finish_reason.starts_with("error");
  };
  auto response = os::http(request);
  if (!response) {
    return response.failure();
  }
  if (response->status < 200 || response->status > 299) {
    return status_error(request.url, response->status, response->body);
  }
  if (!bad.empty()) {
    return base::error(request.url, bad, "is this a llama-server or OpenAI API?");
  }
  if (stalled) {
    return base::error(request.url, fmt::format("no data for {:g} s", endpoint.stall_timeout_s), "");
  }
  if (generation.finish_reason.starts_with("error: ")) {
    return base::error(request.url, "HTTP 500: " + generation.finish_reason.substr(7), "");
  }
  if (!over.empty()) {
    generation.finish_reason = over;
  }
  if (generation.finish_reason.empty()) {
    return base::error(request.url, "the stream ended before the answer was complete",
                       "the server's log may say why");
  }
  split_thinking(generation.content, generation.reasoning);
  return generation;
}

// The fields that every request shares: greedy, repeatable, nothing from a cache.
Json common_fields(const Endpoint& endpoint, bool cache_prompt) {
  Json body = {{"temperature", 0}, {"seed", 1}, {"stream", true}};
  if (endpoint.native) {
    body["cache_prompt"] = cache_prompt;
  } else if (!endpoint.model.empty()) {
    body["model"] = endpoint.model;
  }
  return body;
}

// A stream's own error event; the words travel in finish_reason, for stream() to report.
bool take_error(const Json& event, Generation& generation) {
  const Json* error = member(event, "error");
  if (error == nullptr || error->is_null()) {
    return false;
  }
  generation.finish_reason =
      "error: " + clip(base::json_get<std::string>(*error, "message", error->dump()), 300);
  return true;
}

void take_token(double ms, Generation& generation) {
  if (generation.token_ms.empty()) {
    generation.ttft_ms = ms;
  }
  generation.token_ms.push_back(ms);
  generation.total_ms = ms;
}

}  // namespace

std::string clip(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) {
    return std::string(text);
  }
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
    --end;
  }
  return std::string(text.substr(0, end));
}

void split_thinking(std::string& content, std::string& reasoning) {
  constexpr std::string_view kOpen = "<think>", kClose = "</think>";
  size_t open = content.find(kOpen), close = content.find(kClose);
  if (open == std::string::npos && close == std::string::npos) {
    return;
  }
  size_t from = open != std::string::npos && (close == std::string::npos || open < close) ? open : 0;
  size_t inner = from + (content.compare(from, kOpen.size(), kOpen) == 0 ? kOpen.size() : 0);
  size_t end = close == std::string::npos ? content.size() : close;
  reasoning += content.substr(inner, end - inner);
  size_t rest = close == std::string::npos ? content.size() : close + kClose.size();
  rest = std::min(content.find_first_not_of(" \t\r\n", rest), content.size());
  content = content.substr(0, from) + content.substr(rest);
}

bool take_chat_event(std::string_view data, double ms, Generation& generation) {
  auto event = base::parse_json(data, "");
  if (!event || !event->is_object()) {
    return false;
  }
  if (take_error(*event, generation)) {
    return true;
  }
  if (const Json* usage = member(*event, "usage"); usage != nullptr && usage->is_object()) {
    generation.prompt_tokens = base::json_get(*usage, "prompt_tokens", generation.prompt_tokens);
    generation.completion_tokens = base::json_get(*usage, "completion_tokens", generation.completion_tokens);
  }
  if (const Json* timings = member(*event, "timings"); timings != nullptr && timings->is_object()) {
    generation.timings = *timings;
  }
  const Json* choices = member(*event, "choices");
  if (choices == nullptr || !choices->is_array() || choices->empty()) {
    return true;
  }
  const Json& choice = choices->front();
  if (const Json* delta = member(choice, "delta"); delta != nullptr) {
    std::string content = base::json_get<std::string>(*delta, "content", "");
    std::string reasoning = base::json_get<std::string>(*delta, "reasoning_content", "");
    if (reasoning.empty()) {
      reasoning = base::json_get<std::string>(*delta, "reasoning", "");  // vLLM's name
    }
    if (!content.empty() || !reasoning.empty()) {
      take_token(ms, generation);
    }
    generation.content += content;
    generation.reasoning += reasoning;
  }
  std::string reason = base::json_get<std::string>(choice, "finish_reason", "");
  if (!reason.empty()) {
    generation.finish_reason = reason;
    generation.total_ms = ms;
  }
  return true;
}

bool take_completion_event(std::string_view data, double ms, Generation& generation) {
  auto event = base::parse_json(data, "");
  if (!event || !event->is_object()) {
    return false;
  }
  if (take_error(*event, generation)) {
    return true;
  }
  generation.content += base::json_get<std::string>(*event, "content", "");
  if (member(*event, "prompt_progress") != nullptr) {
    return true;  // still reading the prompt
  }
  if (!base::json_get(*event, "stop", false)) {
    take_token(ms, generation);  // also one whose text is held back
    return true;
  }
  generation.total_ms = ms;
  std::string reason = base::json_get<std::string>(*event, "stop_type", "");
  generation.finish_reason = reason == "limit" ? "length" : "stop";
  generation.prompt_tokens = base::json_get(*event, "tokens_evaluated", 0);
  generation.completion_tokens = base::json_get(*event, "tokens_predicted", 0);
  if (const Json* timings = member(*event, "timings"); timings != nullptr && timings->is_object()) {
    generation.timings = *timings;
  }
  return true;
}

BudgetWatch::BudgetWatch(const Budget& budget, double timeout_s)
    : budget_(budget), limit_ms_(1000 * (budget.max_answer_s > 0 ? budget.max_answer_s : 0.9 * timeout_s)) {}

std::string_view BudgetWatch::over(const Generation& generation, double ms) {
  constexpr std::string_view kOpen = "<think>", kClose = "</think>";
  if (limit_ms_ > 0 && ms > limit_ms_) {
    return "time_limit";
  }
  const std::string& content = generation.content;
  if (!answering_) {
    // Some servers leave the thinking in the content; its first characters may be half of the opening tag.
    size_t start = content.find_first_not_of(" \t\r\n");
    std::string_view text =
        start == std::string::npos ? std::string_view() : std::string_view(content).substr(start);
    bool inside = text.empty() || text.substr(0, kOpen.size()) == kOpen.substr(0, text.size());
    answering_ = inside ? text.find(kClose) != std::string_view::npos : true;
    if (!answering_) {
      thinking_ = generation.token_ms.size();
    }
  }
  if (budget_.max_thinking_tokens > 0 && thinking_ > static_cast<size_t>(budget_.max_thinking_tokens)) {
    return "thinking_limit";
  }
  // The server's own limit holds for both together.
  size_t answered = generation.token_ms.size() - thinking_;
  return answered > static_cast<size_t>(budget_.max_tokens) ? "length" : "";
}

base::Result<Generation> chat(const Endpoint& endpoint, const std::vector<ChatMessage>& messages,
                              const Budget& budget) {
  AR_CHECK(budget.max_tokens > 0 && budget.max_thinking_tokens >= 0, "an unbounded request");
  Json body = common_fields(endpoint, false);
  body["messages"] = Json::array();
  for (const ChatMessage& message : messages) {
    body["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  body["max_tokens"] = budget.max_tokens + budget.max_thinking_tokens;
  body["stream_options"] = {{"include_usage", true}};
  // The template's switch, and a budget for models that always think.
  body["chat_template_kwargs"] = {{"enable_thinking", budget.max_thinking_tokens > 0}};
  if (endpoint.native) {
    body["reasoning_budget_tokens"] = budget.max_thinking_tokens;
  }
  BudgetWatch watch(budget, endpoint.timeout_s);
  return stream(endpoint, "/v1/chat/completions", body, take_chat_event, &watch);
}

base::Result<Generation> chat(const Endpoint& endpoint, const std::vector<ChatMessage>& messages,
                              int max_tokens) {
  Budget budget;
  budget.max_tokens = max_tokens;
  return chat(endpoint, messages, budget);
}

base::Result<Generation> complete(const Endpoint& endpoint, std::string_view prompt, int n_predict,
                                  bool ignore_eos, bool cache_prompt) {
  AR_CHECK(n_predict > 0, "an unbounded request");
  if (!endpoint.native) {
    // No watch: what a server sends beyond its limit is for the caller to see.
    Json body = common_fields(endpoint, false);
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
    body["max_tokens"] = n_predict;
    body["stream_options"] = {{"include_usage", true}};
    return stream(endpoint, "/v1/chat/completions", body, take_chat_event, nullptr);
  }
  Json body = common_fields(endpoint, cache_prompt);
  body["prompt"] = prompt;
  body["n_predict"] = n_predict;
  body["ignore_eos"] = ignore_eos;
  return stream(endpoint, "/completion", body, take_completion_event, nullptr);
}

base::Result<int> count_tokens(const Endpoint& endpoint, std::string_view text) {
  if (!endpoint.native) {
    return static_cast<int>(text.size() / 4);
  }
  os::HttpRequest request = post(endpoint, "/tokenize", {{"content", text}});
  auto response = os::http(request);
  if (!response) {
    return response.failure();
  }
  if (response->status != 200) {
    return status_error(request.url, response->status, response->body);
  }
  auto json = base::parse_json(response->body, request.url);
  if (!json) {
    return json.failure();
  }
  const Json* tokens = member(*json, "tokens");
  if (tokens == nullptr || !tokens->is_array()) {
    return base::error(request.url, "the answer has no \"tokens\" list", "is this a llama-server API?");
  }
  return static_cast<int>(tokens->size());
}

base::Result<std::string> text_of_length(const Endpoint& endpoint, int tokens,
                                         const std::function<std::string(int)>& text) {
  bool by_characters = false;
  auto count = [&](const std::string& s) -> base::Result<int> {
    if (!by_characters) {
      auto counted = count_tokens(endpoint, s);
      if (counted || !counted.failure().what.starts_with("HTTP 404")) {
        return counted;
      }
      by_characters = true;
    }
    return static_cast<int>(s.size() / 4);
  };
  int units = std::max(1, tokens / 20), best = 0, too_many = 1 << 24;
  std::string result;
  for (int round = 0; round < 6; ++round) {
    std::string attempt = text(units);
    auto counted = count(attempt);
    if (!counted) {
      return counted.failure();
    }
    if (*counted <= tokens && units > best) {
      best = units;
      result = std::move(attempt);
    } else if (*counted > tokens) {
      too_many = std::min(too_many, units);
    }
    if (too_many - best <= 1 || (*counted <= tokens && *counted >= tokens * 0.98)) {
      break;
    }
    // The next guess in proportion, just under the aim, inside what is known to be too short and too long.
    double per_unit = std::max(1, *counted) / static_cast<double>(units);
    units = std::clamp(static_cast<int>(std::floor(tokens * 0.995 / per_unit)), best + 1, too_many - 1);
  }
  return best > 0 ? result : text(1);
}

bool is_refusal(std::string_view answer) {
  static constexpr std::string_view kOpenings[] = {
      "i cannot",       "i can't",      "i can not",        "i'm sorry, but",   "i am sorry, but",
      "sorry, but",     "sorry, i can", "i'm sorry, i can", "i apologize, but", "i'm unable",
      "i am unable",    "i'm not able", "i am not able",    "i won't",          "i will not",
      "i must decline", "as an ai"};
  std::string start;
  for (size_t i = 0; i < answer.size() && start.size() < 24; ++i) {
    if (answer.substr(i).starts_with("\xe2\x80\x99")) {  // a typographic apostrophe
      start += '\'';
      i += 2;
    } else if (!start.empty() || std::isalpha(static_cast<unsigned char>(answer[i])) != 0) {
      start += static_cast<char>(std::tolower(static_cast<unsigned char>(answer[i])));
    }
  }
  return std::any_of(std::begin(kOpenings), std::end(kOpenings),
                     [&](std::string_view opening) { return start.starts_with(opening); });
}

}  // namespace probes
