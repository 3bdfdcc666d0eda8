// POST /v1/completions with `echo`: the classic OpenAI form, in which the prompt is part of the answer and, with
// `logprobs`, each of its tokens is judged. Perplexity is measured with it (max_tokens 0 or 1).

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "src/engine/api.h"
#include "src/engine/request_fields.h"
#include "src/engine/utf8.h"

namespace engine {
namespace {

using base::Json;

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

// A piece as JSON text: bytes that are no UTF-8 by themselves are spelled out, so that no two become the same.
std::string shown(const std::string& piece) {
  if (is_valid_utf8(piece)) {
    return piece;
  }
  std::string out = "bytes:";
  for (const char c : piece) {
    out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

// The classic logprobs object, grown token by token.
class Judged {
 public:
  Judged(const Tokenizer& tokenizer, int n_top) : tokenizer_(tokenizer), n_top_(static_cast<size_t>(n_top)) {}

  void add(int token, size_t offset, const TokenProbs* probs) {
    tokens_.push_back(shown(tokenizer_.piece(token, true)));
    offsets_.push_back(offset);
    logprobs_.push_back(probs ? finite(probs->drawn.logprob) : Json());
    Json top;
    if (probs) {
      top = Json::object();
      for (size_t i = 0; i < std::min(n_top_, probs->top.size()); ++i) {
        put(top, probs->top[i]);
      }
      put(top, probs->drawn);
    }
    top_.push_back(std::move(top));
  }
  Json take() {
    return {{"tokens", std::move(tokens_)},
            {"token_logprobs", std::move(logprobs_)},
            {"top_logprobs", std::move(top_)},
            {"text_offset", std::move(offsets_)}};
  }

 private:
  // JSON has no infinity.
  static Json finite(float logprob) { return std::max(logprob, std::numeric_limits<float>::lowest()); }
  void put(Json& top, const TokenProbs::Entry& entry) const {
    const std::string key = shown(tokenizer_.piece(entry.token, true));
    if (!top.contains(key)) {  // of two that look the same, the likelier
      top[key] = finite(entry.logprob);
    }
  }

  const Tokenizer& tokenizer_;
  size_t n_top_;
  Json tokens_ = Json::array(), logprobs_ = Json::array(), top_ = Json::array(), offsets_ = Json::array();
};

}  // namespace

MaybeError parse_echo(const Json& body, CompletionRequest& request, bool& echo) {
  RequestFields fields(body);
  echo = false;
  fields.boolean("echo", echo);
  if (fields.error) {
    return fields.error;
  }
  if (!echo) {
    return std::nullopt;
  }
  GenerationParams& params = request.params;
  params.prompt_only = params.n_predict == 0;
  int n = -1;
  fields.number("logprobs", n, 0, kMaxProbs, true);  // the classic form has no "logprobs": true
  if (fields.error || n < 0) {
    return fields.error;
  }
  if (request.stream) {
    return invalid_request("Field 'stream': logprobs with echo come in one piece; leave stream out");
  }
  params.n_prompt_probs = n;
  params.n_probs = std::max(n, 1);
  return std::nullopt;
}

MaybeError refuse_echo(const Json& body) {
  return base::json_get(body, "echo", false)
             ? MaybeError(invalid_request("Field 'echo': only /v1/completions can; leave it out"))
             : std::nullopt;
}

Json echo_completion(const AnswerFacts& facts, const std::vector<int>& prompt, int n_logprobs,
                     const GenerationResult& result) {
  Json out = oai_completion(facts, facts.prompt + result.content, &result, {});
  if (n_logprobs < 0) {
    return out;
  }
  const Tokenizer& tokenizer = *facts.tokenizer;
  // The tokens may spell a little more than the text has: a token to begin with, a space before the first word.
  const size_t n_text = count_characters(facts.prompt);
  size_t n_spelled = 0;
  for (const int token : prompt) {
    n_spelled += count_characters(tokenizer.piece(token, true));
  }
  const size_t surplus = n_spelled - std::min(n_spelled, n_text);
  Judged judged(tokenizer, n_logprobs);
  size_t offset = 0;
  for (size_t i = 0; i < prompt.size(); ++i) {
    const TokenProbs* probs =
        i > 0 && i <= result.prompt_probs.size() ? &result.prompt_probs[i - 1] : nullptr;
    judged.add(prompt[i], std::min(n_text, offset - std::min(offset, surplus)), probs);
    offset += count_characters(tokenizer.piece(prompt[i], true));
  }
  offset = n_text;
  for (const TokenProbs& probs : result.probs) {
    judged.add(probs.drawn.token, offset, &probs);
    offset += count_characters(tokenizer.piece(probs.drawn.token, false));
  }
  out["choices"][0]["logprobs"] = judged.take();
  return out;
}

}  // namespace engine
