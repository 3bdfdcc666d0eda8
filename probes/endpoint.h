#pragma once
// How a probe talks to the server under test: llama-server's native /completion and the OpenAI chat route, or
// the latter alone.

#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/error.h"
#include "src/base/json.h"

namespace probes {

struct Endpoint {
  std::string base_url;                          // "http://127.0.0.1:40123"
  std::string api_key;                           // "" = none; sent as a header, never logged
  double timeout_s = 120;                        // one request
  double stall_timeout_s = 60;                   // no token for this long
  const std::atomic<bool>* cancelled = nullptr;  // polled; ends the request with the Error "cancelled"
  // False: a server of /v1 alone (vllm, sglang, trtllm-serve). complete() then asks the chat route, tokens of a
  // text are estimated, and nothing is sent that is not in OpenAI's API or widely understood beside it.
  bool native = true;
  std::string model;  // the name such a server wants in each request; "" = not sent
};

// What one chat answer may cost. Whatever goes over it is ended by us: the stream is closed.
struct Budget {
  int max_tokens = 64;  // of the answer
  int max_thinking_tokens =
      0;  // beside them; 0 = thinking is switched off, and what still comes counts as answer
  double max_answer_s = 0;  // from the request on; 0 = nine tenths of the endpoint's timeout_s
};

// One streamed generation, timed on our own clock.
struct Generation {
  std::string content;    // the answer
  std::string reasoning;  // thinking, kept apart (reasoning_content, or <think>..</think> cut out)
  // "stop", "length"; by our own hand "thinking_limit", "time_limit": it was still at it when its budget ended
  std::string finish_reason;
  double ttft_ms = 0;            // request sent -> first reasoning or content token
  double total_ms = 0;           // request sent -> last token
  std::vector<double> token_ms;  // arrival of each content or reasoning event since the request was sent
  int prompt_tokens = 0, completion_tokens = 0;
  base::Json timings;  // the server's own, verbatim; null where it sends none
};

struct ChatMessage {
  std::string role, content;
};

// The Errors of the functions below keep os::http's wording (os::http_fault tells them apart), and add:
// "HTTP 400: <the server's message>", "the stream ended before the answer was complete", "an event that is no
// JSON". A server that is dead or hung shows as kRefused, kClosed, kTimedOut, kNoData.

// POST /v1/chat/completions, streamed, temperature 0, fixed seed, cache_prompt false. A server that says nothing
// at all is an Error (a hang or a time-out); one that goes on and on is a Generation whose finish_reason says so.
base::Result<Generation> chat(const Endpoint& endpoint, const std::vector<ChatMessage>& messages,
                              const Budget& budget);
base::Result<Generation> chat(const Endpoint& endpoint, const std::vector<ChatMessage>& messages,
                              int max_tokens);  // the budget's other fields at their defaults

// POST /completion (raw prompt), streamed, same rules; ignore_eos so that exactly n_predict tokens come.
// cache_prompt: the server may keep what it has read of the same prompt (only where that is no measurement of
// prefill). Not native: the chat route, which may end earlier.
base::Result<Generation> complete(const Endpoint& endpoint, std::string_view prompt, int n_predict,
                                  bool ignore_eos, bool cache_prompt = false);

// POST /tokenize; number of tokens. Not native: an estimate, four characters each.
base::Result<int> count_tokens(const Endpoint& endpoint, std::string_view text);
// A text of about `tokens` tokens: text(n) gives n units of it (sentences, say), each longer than the last.
// Counts with /tokenize, at most six times; four characters a token where the server has no /tokenize. Never
// over `tokens` unless one unit alone is.
base::Result<std::string> text_of_length(const Endpoint& endpoint, int tokens,
                                         const std::function<std::string(int)>& text);

// Pure pieces, for tests.
// Cuts <think>...</think> out of content, into reasoning. An opening tag without a close: all of it is
// thinking; a close without an opening (the template opened it): what stands before is.
void split_thinking(std::string& content, std::string& reasoning);
// One data event of a stream taken into a Generation, `ms` after the request was sent. False: it is no JSON
// object.
bool take_chat_event(std::string_view data, double ms, Generation& generation);
bool take_completion_event(std::string_view data, double ms, Generation& generation);
// Watches a stream of one answer: over() is the finish_reason to end it with, "" while it may go on. Called once
// after each piece of the stream.
class BudgetWatch {
 public:
  BudgetWatch(const Budget& budget, double timeout_s);
  std::string_view over(const Generation& generation, double ms);

 private:
  Budget budget_;
  double limit_ms_;
  size_t thinking_ = 0;  // tokens so far
  bool answering_ = false;
};
// The answer begins by declining ("I'm sorry, but", "I cannot", ...).
bool is_refusal(std::string_view answer);
// `text` cut to at most max_bytes at a character border.
std::string clip(std::string_view text, size_t max_bytes);

}  // namespace probes
