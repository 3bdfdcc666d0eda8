#pragma once
// The two HTTP protocols: what is sent, and what an answer means. Pure.
// Anthropic: POST /v1/messages, one tool that must be called, its input_schema the answer's form. OpenAI and whatever
// is compatible: POST /v1/chat/completions with response_format json_schema, or without it where that is refused.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "search/llm/options.h"
#include "search/llm/prompt.h"

namespace llm {

struct Call {
  std::string url, body;
  std::vector<std::pair<std::string, std::string>> headers;  // the key in one of them
};
// `url`: the API's address, with or without /v1 and what follows it. `structured`: with response_format (openai).
Call make_call(const Options& options, const std::string& url, const std::string& key, const Prompt& prompt,
               bool structured);
// The provider's own address; for options.url "".
std::string own_url(Provider provider);

struct Answer {
  base::Json proposals;  // array; null where there is a fault
  std::string fault;     // refused, cut off, malformed: in words, the endpoint's own among them
  std::optional<double> input_tokens, output_tokens;
};
// The body of a 200. `max_tokens` for the words.
Answer read_answer(const Options& options, std::string_view content_type, const std::string& body);

// What a body with an error says; "" where it says nothing. This and Answer::fault are as long as the endpoint likes, and
// may repeat the key: it is hidden first, then they are clipped.
std::string error_text(const std::string& body);

}  // namespace llm
