#include "probes/prompt_losses.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "src/base/fnv.h"
#include "src/os/http_client.h"

namespace probes {
namespace {

using base::Json;

constexpr size_t kBytesPerToken = 3;       // of text, cautiously: a piece must not outgrow the context
constexpr size_t kMostBytesPerToken = 16;  // of what is given to /tokenize: enough for any chunk
constexpr double kMaxNll = 1e4;            // p = 0 is written as a very large number by some
constexpr size_t kMaxAnswer = 256u << 20;

const Json* member(const Json& value, std::string_view key) {
  if (!value.is_object()) {
    return nullptr;
  }
  auto found = value.find(key);
  return found == value.end() ? nullptr : &*found;
}

os::HttpRequest post(const Endpoint& endpoint, const char* path, const Json& body) {
  os::HttpRequest request;
  request.method = "POST";
  request.url = endpoint.base_url + path;
  request.body = base::dump_line(body);
  request.timeout_s = endpoint.timeout_s;
  request.max_body_bytes = kMaxAnswer;
  request.cancelled = endpoint.cancelled;
  if (!endpoint.api_key.empty()) {
    request.headers.emplace_back("Authorization", "Bearer " + endpoint.api_key);
  }
  return request;
}

// A token by its text, where only equality counts.
int name_of(std::string_view token) {
  return static_cast<int>(base::fnv1a(token) & 0x7fffffff);
}

int most_likely(const Json* alternatives) {
  if (alternatives == nullptr || !alternatives->is_object()) {
    return -1;
  }
  const std::string* best = nullptr;
  double highest = 0;
  for (auto at = alternatives->begin(); at != alternatives->end(); ++at) {
    if (at->is_number() && (best == nullptr || at->get<double>() > highest)) {
      highest = at->get<double>();
      best = &at.key();
    }
  }
  return best == nullptr ? -1 : name_of(*best);
}

EchoedPrompt refusal(std::string why, bool for_good) {
  EchoedPrompt refused;
  refused.refused = "this server gives no prompt log-probabilities: " + std::move(why);
  refused.for_good = for_good;
  return refused;
}

// A server that cannot says so: a bad request, no such route, not implemented. The others are a server's that is busy
// or broken now.
bool says_it_cannot(int status) {
  return status == 501 || (status >= 400 && status < 500 && status != 408 && status != 429);
}

// One prompt: text, or token ids. Errors: the server is dead or hung.
base::Result<EchoedPrompt> ask(const Endpoint& endpoint, const Json& prompt) {
  Json body = {{"prompt", prompt}, {"max_tokens", 1}, {"echo", true}, {"logprobs", 1}, {"temperature", 0}};
  if (!endpoint.model.empty()) {
    body["model"] = endpoint.model;
  }
  if (endpoint.native) {
    body["cache_prompt"] = false;  // what is not computed has no probabilities
  }
  os::HttpRequest request = post(endpoint, "/v1/completions", body);
  auto response = os::http(request);
  if (!response) {
    return response.failure();
  }
  if (response->status != 200) {
    return refusal(fmt::format("HTTP {}: {}", response->status, response->body.substr(0, 200)),
                   says_it_cannot(response->status));
  }
  auto answer = base::parse_json(response->body, request.url);
  if (!answer) {
    return refusal("the answer is no JSON", false);
  }
  return read_echo(*answer);
}

// Token ids; nullopt where the server has no such route.
base::Result<std::optional<std::vector<int>>> tokenize(const Endpoint& endpoint, std::string_view text,
                                                       bool special) {
  std::optional<std::vector<int>> ids;
  auto response = os::http(post(endpoint, "/tokenize", {{"content", text}, {"add_special", special}}));
  if (!response) {
    return response.failure();
  }
  auto json = response->status == 200 ? base::parse_json(response->body, "/tokenize")
                                      : base::Result<Json>(base::error("/tokenize", "no answer"));
  const Json* tokens = json ? member(*json, "tokens") : nullptr;
  if (tokens == nullptr || !tokens->is_array()) {
    return ids;
  }
  ids.emplace();
  for (const Json& token : *tokens) {
    const Json* id = token.is_object() ? member(token, "id") : &token;
    if (id == nullptr || !id->is_number_integer()) {
      return std::optional<std::vector<int>>();
    }
    ids->push_back(id->get<int>());
  }
  return ids;
}

// The prompts as they are sent; empty: the corpus is too short.
base::Result<std::vector<Json>> prompts_of(const Endpoint& endpoint, const PromptLossOptions& options) {
  std::vector<Json> prompts;
  auto n_ctx = static_cast<size_t>(options.n_ctx);
  if (endpoint.native) {
    size_t enough = n_ctx * static_cast<size_t>(options.chunks) * kMostBytesPerToken;
    auto ids = tokenize(endpoint, clip(options.text, enough), false);
    if (!ids) {
      return ids.failure();
    }
    auto bare = tokenize(endpoint, "a", false), marked = tokenize(endpoint, "a", true);
    if (!bare || !marked) {
      return (bare ? marked : bare).failure();
    }
    if (*ids && *bare && *marked) {
      std::vector<int> first;  // as the server itself begins a text
      if (!(*marked)->empty() && ((*bare)->empty() || (*marked)->front() != (*bare)->front())) {
        first.push_back((*marked)->front());
      }
      const std::vector<int>& all = **ids;
      for (size_t at = 0;
           at + n_ctx - first.size() <= all.size() && prompts.size() < static_cast<size_t>(options.chunks);
           at += n_ctx - first.size()) {
        Json prompt = first;
        for (size_t i = at; i < at + n_ctx - first.size(); ++i) {
          prompt.push_back(all[i]);
        }
        prompts.push_back(std::move(prompt));
      }
      return prompts;
    }
  }
  for (std::string& piece : pieces_of(options.text, options.n_ctx, options.chunks)) {
    prompts.emplace_back(std::move(piece));
  }
  return prompts;
}

}  // namespace

EchoedPrompt read_echo(const Json& answer) {
  const Json* choices = member(answer, "choices");
  const Json* logprobs = choices != nullptr && choices->is_array() && !choices->empty()
                             ? member(choices->front(), "logprobs")
                             : nullptr;
  const Json* tokens = logprobs == nullptr ? nullptr : member(*logprobs, "tokens");
  const Json* values = logprobs == nullptr ? nullptr : member(*logprobs, "token_logprobs");
  const Json* tops = logprobs == nullptr ? nullptr : member(*logprobs, "top_logprobs");
  if (tokens == nullptr || !tokens->is_array() || values == nullptr || !values->is_array() ||
      tokens->size() != values->size()) {
    return refusal("the answer has no logprobs.tokens and logprobs.token_logprobs", true);
  }
  // The generated token, which nobody asked for, comes last.
  size_t prompt_tokens = tokens->size() > 0 ? tokens->size() - 1 : 0;
  if (const Json* usage = member(answer, "usage")) {
    prompt_tokens = std::min(tokens->size(), base::json_get<size_t>(*usage, "prompt_tokens", prompt_tokens));
    if (base::json_get<size_t>(*usage, "prompt_tokens", 0) > tokens->size()) {
      return refusal(fmt::format("{} of the prompt's {} tokens are in the answer", tokens->size(),
                                 base::json_get<size_t>(*usage, "prompt_tokens", 0)),
                     true);
    }
  }
  if (prompt_tokens < 2) {
    return refusal("the answer holds generated tokens alone", true);
  }
  EchoedPrompt echo;
  for (size_t i = 0; i < prompt_tokens; ++i) {
    TokenLoss loss;
    loss.nll = -1;
    const Json& value = (*values)[i];
    if (value.is_number()) {
      loss.nll = -value.get<double>();
      if (!(loss.nll <= kMaxNll)) {
        return refusal(fmt::format("token {} has a log-probability of {}", i, -loss.nll), false);
      }
      loss.nll = std::max(0.0, loss.nll);  // a rounding above 0
    } else if (i > 0) {
      return refusal(fmt::format("token {} of the prompt has none", i), false);
    }
    bool listed = tops != nullptr && tops->is_array() && tops->size() == tokens->size();
    loss.top = listed ? most_likely(&(*tops)[i]) : -1;
    const Json& token = (*tokens)[i];
    echo.tokens.push_back(token.is_string() ? token.get<std::string>() : token.dump());
    echo.losses.push_back(loss);
  }
  return echo;
}

std::vector<std::string> pieces_of(std::string_view text, int n_ctx, int chunks) {
  std::vector<std::string> pieces;
  size_t bytes = static_cast<size_t>(n_ctx) * kBytesPerToken;
  while (text.size() > bytes && pieces.size() < static_cast<size_t>(chunks)) {
    size_t end = text.find_last_of(" \n\t", bytes);
    end = end == std::string_view::npos || end < bytes / 2 ? bytes : end;
    while (end > 1 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
      --end;
    }
    pieces.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return pieces;
}

double perplexity_of(const std::vector<TokenLoss>& losses) {
  double sum = 0;
  for (const TokenLoss& loss : losses) {
    sum += loss.nll;
  }
  return losses.empty() ? 0 : std::exp(sum / static_cast<double>(losses.size()));
}

base::Result<PromptLosses> run_prompt_losses(const Endpoint& endpoint, const PromptLossOptions& options) {
  auto prompts = prompts_of(endpoint, options);
  if (!prompts) {
    return prompts.failure();
  }
  PromptLosses result;
  if (prompts->empty()) {
    result.unsupported = fmt::format("the corpus is shorter than one chunk of {} tokens", options.n_ctx);
    result.for_good = true;
    return result;
  }
  uint64_t hash = base::kFnvOffset;
  for (const Json& prompt : *prompts) {
    auto echo = ask(endpoint, prompt);
    if (!echo) {
      return echo.failure();
    }
    if (!echo->refused.empty()) {
      bool first = result.chunks == 0;
      result = {};
      result.unsupported = echo->refused;
      result.for_good = first && echo->for_good;
      return result;
    }
    for (size_t i = 0; i < echo->tokens.size(); ++i) {
      hash = base::fnv1a(echo->tokens[i], base::fnv1a("|", hash));
      if (i > 0 && i >= echo->tokens.size() / 2) {
        result.losses.push_back(echo->losses[i]);
      }
    }
    ++result.chunks;
  }
  result.text_hash = fmt::format("{:016x}", hash);
  return result;
}

base::Result<std::string> refuses_prompt_losses(const Endpoint& endpoint) {
  auto echo = ask(endpoint, "The capital of France is Paris.");
  if (!echo) {
    return echo.failure();
  }
  return echo->for_good ? echo->refused : std::string();
}

}  // namespace probes
