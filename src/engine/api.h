#pragma once
// The API's JSON: requests to what they ask for, results to llama-server's answers with its keys in its
// order. Pure: no socket, no thread, no clock. Fields that would change the output and are not implemented
// are refused, never ignored; names that mean nothing here are ignored, as in llama-server.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/json.h"
#include "src/engine/chat_options.h"
#include "src/engine/generation_types.h"
#include "src/engine/tokenizer.h"

namespace engine {

struct ApiError {
  int code = 400;
  std::string type = "invalid_request_error";
  std::string message;
  base::Json extra;  // more keys of the error object
};
using MaybeError = std::optional<ApiError>;  // nullopt: fine

ApiError invalid_request(std::string message);
// llama-server spells the object in two orders: its handlers code first, its HTTP layer message first.
std::string error_body(const ApiError& error);
std::string http_layer_error_body(int status, std::string_view message);
// 400 for JSON beyond the limits of base/json.h; 500, as llama-server answers it, for malformed JSON.
MaybeError parse_body(const std::string& body, base::Json& out);

struct CompletionRequest {
  GenerationParams params;
  int n = 1, n_max = 1;  // answers to each prompt; at most so many, which the caller sets
  bool stream = false, include_usage = false, timings_per_token = false, return_tokens = false;
  std::vector<std::string> response_fields;
};

// Everything but the prompt. `defaults` are the server's.
MaybeError parse_completion(const base::Json& body, const Tokenizer& tokenizer,
                            const GenerationParams& defaults, CompletionRequest& out);
// A string, ids, a mix of both, or an array of those; `several` tells the last.
// Text that cannot fit n_ctx is refused before it is tokenized.
MaybeError parse_prompts(const base::Json& body, const Tokenizer& tokenizer, int n_ctx,
                         std::vector<std::vector<int>>& out, bool& several);
// A conversation (api_chat.cc): what it asks for, over what the server does by default. A message's
// reasoning_content is left out of the prompt, which is what most templates do with earlier thinking; tool
// calls, and roles that the family's template does not print, are refused.
struct ChatRequest {
  std::vector<ChatMessage> messages;  // at least one
  ChatEnd end = ChatEnd::kOpened;
  ReasoningOptions reasoning;
};
MaybeError parse_chat(const base::Json& body, const ReasoningOptions& defaults, const ChatFamily& family,
                      ChatRequest& out);
// Thinking that is switched off is thinking that ends where it begins, whatever the prompt could do about it.
ReasoningLimit reasoning_limit(const ChatRequest& request, const ChatFamily& family,
                               const Tokenizer& tokenizer);
// What /tokenize gets: a string, or a mix of strings and ids in range.
MaybeError parse_text(const base::Json& body, const Tokenizer& tokenizer, std::vector<int>& out);
// Ids in range.
MaybeError parse_tokens(const base::Json& body, const Tokenizer& tokenizer, std::vector<int>& out);
// Both are exceed_context_size_error; check_text before tokenizing, for what is surely too long.
MaybeError check_text(std::string_view text, const Tokenizer& tokenizer, int n_ctx);
MaybeError check_context(const std::vector<int>& prompt, int n_ctx);

// Bounds the probabilities that the answers together hold until they are sent. Where the client has set no length,
// the answers get one (finish_reason "length"); else 400. `n_ctx` bounds their length too.
MaybeError bound_probs(const std::vector<std::vector<int>>& prompts, int n_ctx, CompletionRequest& request);

// What every piece of one answer shares.
struct AnswerFacts {
  std::string model, id, fingerprint, prompt;  // id: "chatcmpl-..."; prompt: detokenized
  int64_t created = 0;                         // seconds since 1970
  int index = 0, n_prompt = 0;
  bool reasons = false, in_reasoning = false;  // chat: the text may begin with reasoning; it begins inside it
  std::string opened = {};                     // chat: what the prompt has of the answer already
  const Tokenizer* tokenizer = nullptr;        // for probabilities
};

base::Json timings_json(const Timings& timings);
base::Json generation_settings(const CompletionRequest& request, uint32_t seed);

// `completion_probabilities`, and `content` of the OpenAI forms' logprobs.
base::Json probs_json(const std::vector<TokenProbs>& probs, const Tokenizer& tokenizer);

// POST /completion
base::Json completion_chunk(const AnswerFacts& facts, const CompletionRequest& request,
                            const GenerationEvent& event, int n_predicted);
base::Json completion_answer(const AnswerFacts& facts, const CompletionRequest& request,
                             const GenerationResult& result);
// Only the paths asked for, each under its own spelling; everything when none was.
base::Json select_fields(const base::Json& answer, const std::vector<std::string>& fields);

// POST /v1/completions; text chunks have no result yet.
base::Json oai_completion(const AnswerFacts& facts, std::string_view text, const GenerationResult* result,
                          const std::vector<TokenProbs>& probs);

// POST /v1/completions with `echo` (api_echo.cc). parse_echo comes after parse_completion, which has read the
// rest of `request`. With logprobs the answer has OpenAI's classic object: tokens, token_logprobs (the first null),
// top_logprobs and text_offset (in characters) of prompt and completion.
MaybeError parse_echo(const base::Json& body, CompletionRequest& request, bool& echo);
// For the forms without it: `echo` is refused.
MaybeError refuse_echo(const base::Json& body);
// facts.prompt: the prompt as its client wrote it; n_logprobs -1: without them.
base::Json echo_completion(const AnswerFacts& facts, const std::vector<int>& prompt, int n_logprobs,
                           const GenerationResult& result);

// POST /v1/chat/completions
base::Json chat_answer(const AnswerFacts& facts, const GenerationResult& result);
base::Json chat_role_chunk(const AnswerFacts& facts);
base::Json chat_text_chunk(const AnswerFacts& facts, std::string_view text,
                           const std::vector<TokenProbs>& probs);
base::Json chat_reasoning_chunk(const AnswerFacts& facts, std::string_view text,
                                const std::vector<TokenProbs>& probs);
base::Json chat_finish_chunk(const AnswerFacts& facts, const GenerationResult& result, bool with_timings);
base::Json chat_usage_chunk(const AnswerFacts& facts, const GenerationResult& result);

// POST /tokenize, with_pieces: a piece that is not UTF-8 is an array of its bytes.
base::Json tokens_json(const std::vector<int>& tokens, const Tokenizer& tokenizer, bool with_pieces);

}  // namespace engine
