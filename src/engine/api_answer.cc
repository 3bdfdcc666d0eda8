// Answers: results to llama-server's JSON, keys in its order.

#include <algorithm>
#include <limits>

#include "src/engine/api.h"
#include "src/engine/chat_reasoning.h"
#include "src/engine/utf8.h"

namespace engine {
namespace {

using base::Json;

std::string_view stop_type_name(StopType type) {
  switch (type) {
    case StopType::kEos:
      return "eos";
    case StopType::kLimit:
      return "limit";
    case StopType::kWord:
      return "word";
    case StopType::kNone:
      break;
  }
  return "none";
}

std::string_view finish_reason(const GenerationResult& result) {
  return result.stop_type == StopType::kLimit ? "length" : "stop";
}

Json usage_json(const GenerationResult& result) {
  auto n = static_cast<int>(result.tokens.size());
  return {{"completion_tokens", n},
          {"prompt_tokens", result.n_prompt},
          {"total_tokens", n + result.n_prompt},
          {"prompt_tokens_details", {{"cached_tokens", result.timings.cache_n}}}};
}

Json logprobs_json(const std::vector<TokenProbs>& probs, const AnswerFacts& facts) {
  return probs.empty() ? Json() : Json{{"content", probs_json(probs, *facts.tokenizer)}};
}

// A chat.completion.chunk; choices is an array.
Json chat_chunk(const AnswerFacts& facts, Json choices) {
  return {{"choices", std::move(choices)},
          {"created", facts.created},
          {"id", facts.id},
          {"model", facts.model},
          {"system_fingerprint", facts.fingerprint},
          {"object", "chat.completion.chunk"}};
}

Json chat_choice(const AnswerFacts& facts, Json finish, Json delta) {
  return Json::array(
      {{{"finish_reason", std::move(finish)}, {"index", facts.index}, {"delta", std::move(delta)}}});
}

}  // namespace

Json timings_json(const Timings& t) {
  // llama-server's formulas: the first generated token belongs to the prompt's time, hence n - 1.
  int steps = t.predicted_n - 1;
  bool some = steps > 0 && t.predicted_ms > 0;
  bool prompt = t.prompt_n > 0 && t.prompt_ms > 0;
  Json out = {{"cache_n", t.cache_n},
              {"prompt_n", t.prompt_n},
              {"prompt_ms", t.prompt_ms},
              {"prompt_per_token_ms", prompt ? t.prompt_ms / t.prompt_n : 0.0},
              {"prompt_per_second", prompt ? 1000.0 * t.prompt_n / t.prompt_ms : 0.0},
              {"predicted_n", t.predicted_n},
              {"predicted_ms", t.predicted_ms},
              {"predicted_per_token_ms", some ? t.predicted_ms / steps : 0.0},
              {"predicted_per_second", some ? 1000.0 * steps / t.predicted_ms : 0.0}};
  if (t.draft_n > 0) {
    out["draft_n"] = t.draft_n;
    out["draft_n_accepted"] = t.draft_n_accepted;
  }
  if (some &&
      t.predicted_bytes > 0) {  // of the weights; guesses that are right make it fewer, wrong ones more
    out["bytes_per_token"] = t.predicted_bytes / static_cast<uint64_t>(steps);
  }
  return out;
}

Json generation_settings(const CompletionRequest& request, uint32_t seed) {
  const GenerationParams& p = request.params;
  const SamplerParams& s = p.sampling;
  Json bias = Json::array();
  for (const auto& [token, amount] : s.logit_bias) {
    bias.push_back({{"token", token}, {"bias", amount}});
  }
  return {{"seed", seed},
          {"temperature", s.temperature},
          {"top_k", s.top_k},
          {"top_p", s.top_p},
          {"min_p", s.min_p},
          {"stop", p.stop},
          {"max_tokens", p.n_predict},
          {"n_predict", p.n_predict},
          {"ignore_eos", s.ignore_eos},
          {"stream", request.stream},
          {"logit_bias", bias},
          {"n_probs", p.n_probs},
          {"min_keep", s.min_keep},
          {"samplers", {"top_k", "top_p", "min_p", "temperature"}},
          {"timings_per_token", request.timings_per_token}};
}

Json probs_json(const std::vector<TokenProbs>& probs, const Tokenizer& tokenizer) {
  const auto entry_json = [&](const TokenProbs::Entry& entry) -> Json {
    const std::string piece = tokenizer.piece(entry.token, true);
    Json bytes = Json::array();
    for (const unsigned char c : piece) {
      bytes.push_back(c);
    }
    // JSON has no infinity.
    const float logprob = std::max(entry.logprob, std::numeric_limits<float>::lowest());
    return {{"id", entry.token}, {"token", piece}, {"bytes", bytes}, {"logprob", logprob}};
  };
  Json out = Json::array();
  for (const TokenProbs& token : probs) {
    Json item = entry_json(token.drawn);
    item["top_logprobs"] = Json::array();
    for (const TokenProbs::Entry& entry : token.top) {
      item["top_logprobs"].push_back(entry_json(entry));
    }
    out.push_back(std::move(item));
  }
  return out;
}

Json completion_chunk(const AnswerFacts& facts, const CompletionRequest& request,
                      const GenerationEvent& event, int n_predicted) {
  Json chunk = {{"index", facts.index},
                {"content", event.text},
                {"tokens", event.token >= 0 ? Json::array({event.token}) : Json::array()},
                {"stop", false},
                {"id_slot", -1},
                {"tokens_predicted", n_predicted},
                {"tokens_evaluated", facts.n_prompt}};
  if (request.timings_per_token) {
    chunk["timings"] = timings_json(event.timings);
  }
  if (!event.probs.empty()) {
    chunk["completion_probabilities"] = probs_json(event.probs, *facts.tokenizer);
  }
  return chunk;
}

Json completion_answer(const AnswerFacts& facts, const CompletionRequest& request,
                       const GenerationResult& result) {
  // A stream's last event repeats neither text nor tokens.
  bool whole = !request.stream;
  Json out = {{"index", facts.index},
              {"content", whole ? result.content : ""},
              {"tokens", whole && request.return_tokens ? Json(result.tokens) : Json::array()},
              {"id_slot", result.id_slot},
              {"stop", true},
              {"model", facts.model},
              {"tokens_predicted", result.tokens.size()},
              {"tokens_evaluated", result.n_prompt},
              {"generation_settings", generation_settings(request, result.seed)},
              {"prompt", facts.prompt},
              {"has_new_line", result.content.find('\n') != std::string::npos},
              {"truncated", result.truncated},
              {"stop_type", stop_type_name(result.stop_type)},
              {"stopping_word", result.stopping_word},
              {"tokens_cached", result.tokens_cached},
              {"timings", timings_json(result.timings)}};
  if (whole && request.params.n_probs > 0) {
    out["completion_probabilities"] = probs_json(result.probs, *facts.tokenizer);
  }
  return out;
}

Json select_fields(const Json& answer, const std::vector<std::string>& fields) {
  if (fields.empty()) {
    return answer;
  }
  Json out = Json::object();
  for (const std::string& path : fields) {
    const Json* at = &answer;
    for (size_t start = 0; at && start <= path.size();) {
      size_t end = std::min(path.find('/', start), path.size());
      auto next = at->is_object() ? at->find(path.substr(start, end - start)) : at->end();
      at = next == at->end() ? nullptr : &*next;
      start = end + 1;
    }
    if (at) {
      out[path] = *at;
    }
  }
  return out;
}

Json oai_completion(const AnswerFacts& facts, std::string_view text, const GenerationResult* result,
                    const std::vector<TokenProbs>& probs) {
  Json out = {{"choices", Json::array({{{"text", text},
                                        {"index", facts.index},
                                        {"logprobs", logprobs_json(probs, facts)},
                                        {"finish_reason", result ? Json(finish_reason(*result)) : Json()}}})},
              {"created", facts.created},
              {"model", facts.model},
              {"system_fingerprint", facts.fingerprint},
              {"object", "text_completion"}};
  if (result) {
    out["usage"] = usage_json(*result);
  }
  out["id"] = facts.id;
  if (result) {
    out["timings"] = timings_json(result->timings);
  }
  return out;
}

Json chat_answer(const AnswerFacts& facts, const GenerationResult& result) {
  Json message = {{"role", "assistant"}, {"content", facts.opened + result.content}};
  if (facts.reasons) {
    ReasoningSplitter splitter(facts.in_reasoning);
    ReasoningSplitter::Parts parts = splitter.push(result.content), rest = splitter.flush();
    message["content"] = parts.content + rest.content;
    if (std::string reasoning = parts.reasoning + rest.reasoning; !reasoning.empty()) {
      message["reasoning_content"] = std::move(reasoning);
    }
  }
  Json choice = {{"finish_reason", finish_reason(result)}, {"index", facts.index}, {"message", message}};
  if (!result.probs.empty()) {
    choice["logprobs"] = logprobs_json(result.probs, facts);
  }
  return {{"choices", Json::array({std::move(choice)})},
          {"created", facts.created},
          {"model", facts.model},
          {"system_fingerprint", facts.fingerprint},
          {"object", "chat.completion"},
          {"usage", usage_json(result)},
          {"id", facts.id},
          {"timings", timings_json(result.timings)}};
}

Json chat_role_chunk(const AnswerFacts& facts) {
  return chat_chunk(facts, chat_choice(facts, nullptr, {{"role", "assistant"}, {"content", nullptr}}));
}

namespace {

Json chat_piece_chunk(const AnswerFacts& facts, const char* key, std::string_view text,
                      const std::vector<TokenProbs>& probs) {
  Json choice = chat_choice(facts, nullptr, {{key, text}});
  if (!probs.empty()) {
    choice[0]["logprobs"] = logprobs_json(probs, facts);
  }
  return chat_chunk(facts, std::move(choice));
}

}  // namespace

Json chat_text_chunk(const AnswerFacts& facts, std::string_view text, const std::vector<TokenProbs>& probs) {
  return chat_piece_chunk(facts, "content", text, probs);
}

Json chat_reasoning_chunk(const AnswerFacts& facts, std::string_view text,
                          const std::vector<TokenProbs>& probs) {
  return chat_piece_chunk(facts, "reasoning_content", text, probs);
}

Json chat_finish_chunk(const AnswerFacts& facts, const GenerationResult& result, bool with_timings) {
  Json chunk = chat_chunk(facts, chat_choice(facts, finish_reason(result), Json::object()));
  if (with_timings) {
    chunk["timings"] = timings_json(result.timings);
  }
  return chunk;
}

Json chat_usage_chunk(const AnswerFacts& facts, const GenerationResult& result) {
  Json chunk = chat_chunk(facts, Json::array());
  chunk["usage"] = usage_json(result);
  chunk["timings"] = timings_json(result.timings);
  return chunk;
}

Json tokens_json(const std::vector<int>& tokens, const Tokenizer& tokenizer, bool with_pieces) {
  if (!with_pieces) {
    return {{"tokens", tokens}};
  }
  Json out = Json::array();
  for (int token : tokens) {
    std::string piece = tokenizer.piece(token, true);
    Json shown = piece;
    if (!is_valid_utf8(piece)) {
      shown = Json::array();
      for (unsigned char c : piece) {
        shown.push_back(c);
      }
    }
    out.push_back({{"id", token}, {"piece", shown}});
  }
  return {{"tokens", out}};
}

}  // namespace engine
