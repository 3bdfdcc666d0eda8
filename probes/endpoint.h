#pragma once
// How a probe talks to the server under test: llama-server's native /completion and the OpenAI chat route.

#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/base/json.h"

namespace probes {

struct Endpoint {
  std::string base_url;         // "http://127.0.0.1:40123"
  std::string api_key;          // "" = none; sent as a header, never logged
  double timeout_s = 120;       // one request
  double stall_timeout_s = 60;  // no token for this long
};

// One streamed generation, timed on our own clock.
struct Generation {
  std::string content;           // the answer
  std::string reasoning;         // thinking, kept apart (reasoning_content, or <think>..</think> cut out)
  std::string finish_reason;     // "stop", "length"
  double ttft_ms = 0;            // request sent -> first reasoning or content token
  double total_ms = 0;           // request sent -> last token
  std::vector<double> token_ms;  // arrival of each content or reasoning event since the request was sent
  int prompt_tokens = 0, completion_tokens = 0;
  base::Json timings;  // the server's own, verbatim; null where it sends none
};

struct ChatMessage {
  std::string role, content;
};

// POST /v1/chat/completions, streamed, temperature 0, fixed seed, cache_prompt false, thinking off where the
// server knows how. max_tokens always bounds it; thinking beyond max_tokens counts as finish_reason "length".
base::Result<Generation> chat(const Endpoint& endpoint, const std::vector<ChatMessage>& messages,
                              int max_tokens);

// POST /completion (raw prompt), streamed, same rules; ignore_eos so that exactly n_predict tokens come.
base::Result<Generation> complete(const Endpoint& endpoint, std::string_view prompt, int n_predict,
                                  bool ignore_eos);

// POST /tokenize; number of tokens.
base::Result<int> count_tokens(const Endpoint& endpoint, std::string_view text);

}  // namespace probes
