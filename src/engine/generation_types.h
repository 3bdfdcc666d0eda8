#pragma once
// What goes into and comes out of one generation: plain data between the engine thread and the API's JSON.

#include <cstdint>
#include <string>
#include <vector>

#include "src/engine/reasoning_budget.h"
#include "src/engine/sampler.h"

namespace engine {

// A generated token and the likeliest ones, by the plain softmax of the raw logits (no bias, no temperature).
struct TokenProbs {
  struct Entry {
    int token = 0;
    float logprob = 0;  // natural
  };
  Entry drawn;
  std::vector<Entry> top;  // likeliest first; the lower id of equals first
};

struct GenerationParams {
  SamplerParams sampling;
  int n_predict = -1;  // -1: until the context is full; 0 still gives one token, as in llama-server
  std::vector<std::string> stop;
  int n_probs = 0;  // likeliest tokens to report with each generated one; 0: no probabilities at all
  ReasoningLimit reasoning;
  bool cache_prompt = true;  // reuse the rows of a common prefix with a prompt before
  int id_slot = -1;          // modulo their number; -1: any
  // Also report how likely each token of the prompt was, with so many likeliest ones; -1: no. Nothing is reused
  // then, for the rows of every token are needed.
  int n_prompt_probs = -1;
  bool prompt_only = false;  // generate nothing
};

// llama-server's `timings`; every member is what its name says there.
struct Timings {
  int cache_n = 0;       // prompt tokens taken from the cache
  int prompt_n = 0;      // prompt tokens evaluated
  double prompt_ms = 0;  // from the start of the prompt to the first token drawn
  int predicted_n = 0;
  double predicted_ms = 0;  // from the first token drawn to the last; at least 0.001 once there is one
  int draft_n = 0, draft_n_accepted = 0;  // tokens guessed ahead and verified; those that were right
  // Not llama-server's: bytes of weights read since the first token was drawn. Of steps that other requests share,
  // the part that its tokens are of the step's.
  uint64_t predicted_bytes = 0;
};

enum class StopType { kNone, kEos, kLimit, kWord };

struct GenerationResult {
  std::string content;            // everything generated, the stop word excluded
  std::vector<int> tokens;        // the end-of-generation token included
  int n_prompt = 0;               // tokens, the cached ones included
  int tokens_cached = 0;          // rows now in the KV cache
  std::vector<TokenProbs> probs;  // one per token of `content`, when asked for; not those of a stop word
  std::vector<TokenProbs> prompt_probs;  // one per token of the prompt but the first, when asked for
  int id_slot = 0;
  StopType stop_type = StopType::kNone;
  std::string stopping_word;
  bool truncated = false;  // the context was full
  uint32_t seed = 0;       // the one used
  Timings timings;
};

struct GenerationEvent {
  enum class Kind { kStarted, kToken, kDone, kFailed };
  Kind kind = Kind::kStarted;
  // kToken
  std::string text;               // to send now; empty while something is held back
  int token = -1;                 // -1: only text that had been held back
  bool mid_character = false;     // no event for the client yet
  Timings timings;                // until now
  std::vector<TokenProbs> probs;  // the token's, when asked for
  GenerationResult result;        // kDone
  int status = 500;               // kFailed: HTTP status
  std::string message;            // kFailed
};

}  // namespace engine
