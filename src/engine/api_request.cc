// Requests: JSON to what it asks for, and the errors.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/engine/api.h"
#include "src/engine/request_fields.h"

namespace engine {
namespace {

using base::Json;

constexpr double kMaxInt = std::numeric_limits<int32_t>::max();
// Of all answers to a request together. Entries are a kilobyte each as an answer's JSON; a stream sends that token by
// token, and keeps 8 bytes.
constexpr int64_t kMaxWholeEntries = 1 << 18, kMaxStreamedEntries = 1 << 22;
// Every prompt of a request has its own copy of what the request says; far above what anybody asks for.
constexpr size_t kMaxPrompts = 256, kMaxBiases = 64 << 10;

// How many likeliest tokens: "n_probs", or "logprobs" by its number, or in the chat's spelling "logprobs": true and
// the number in "top_logprobs".
void read_probs(RequestFields& fields, int& n_probs) {
  constexpr int kDefault = 20;
  const Json* logprobs = fields.find("logprobs");
  const bool chat = logprobs && *logprobs == true;
  const auto count = [&](std::string_view name) { fields.number(name, n_probs, 0, kMaxProbs, true); };
  if (logprobs && !logprobs->is_boolean()) {
    count("logprobs");
  }
  count("n_probs");
  if (chat) {
    n_probs = kDefault;
    count("top_logprobs");
  } else if (fields.find("top_logprobs")) {
    fields.fail("top_logprobs requires logprobs to be set to true");
  }
}

// A field we do not implement, and the values of it that change nothing.
struct Unsupported {
  std::string_view name;
  bool (*neutral)(const Json& value);
};

bool zero(const Json& v) {
  return (v.is_number() && v.get<double>() == 0) || v == false || (v.is_structured() && v.empty()) || v == "";
}
bool one(const Json& v) {
  return v.is_number() && v.get<double>() == 1;
}
bool not_positive(const Json& v) {
  return v.is_number() && v.get<double>() <= 0;
}

bool text_format(const Json& v) {
  auto type = v.find("type");  // end() for what is no object
  return v.is_object() && (type == v.end() || *type == "text");
}

constexpr Unsupported kUnsupported[] = {
    {"post_sampling_probs", zero},
    {"repeat_penalty", one},
    {"presence_penalty", zero},
    {"frequency_penalty", zero},
    {"dry_multiplier", zero},
    {"xtc_probability", zero},
    {"typical_p", one},
    {"top_n_sigma", not_positive},
    {"dynatemp_range", zero},
    {"mirostat", zero},
    {"adaptive_target", [](const Json& v) { return v.is_number() && v.get<double>() < 0; }},
    {"samplers", zero},
    {"grammar", zero},
    {"json_schema", zero},
    {"lora", zero},
    {"tools", zero},
    {"functions", zero},  // what tools were called before
    {"t_max_predict_ms", not_positive},
    {"min_tokens", zero},
    {"best_of", one},
    {"suffix", zero},
    {"response_format", text_format},
};

MaybeError read_logit_bias(const Json& value, const Tokenizer& tokenizer,
                           std::vector<std::pair<int, float>>& out) {
  ApiError bad = invalid_request(
      "Field 'logit_bias': must be [[token or text, bias or false], ...] or {text: bias}, for at most 65536 "
      "tokens");
  auto add = [&](const Json& token, const Json& bias) -> bool {
    constexpr double kMost = std::numeric_limits<float>::max();
    float amount = 0;
    if (bias.is_number()) {
      amount = static_cast<float>(std::clamp(bias.get<double>(), -kMost, kMost));
    } else if (bias == false) {
      amount = -std::numeric_limits<float>::infinity();
    } else {
      return false;
    }
    if (token.is_number_integer()) {
      if (tokenizer.in_range(token.get<int64_t>())) {
        out.emplace_back(token.get<int>(), amount);
      }
      return out.size() <= kMaxBiases;
    }
    if (!token.is_string() || token.get_ref<const std::string&>().size() > kMaxStringBytes) {
      return false;
    }
    for (int id : tokenizer.encode(token.get<std::string>(), false, true)) {
      out.emplace_back(id, amount);
    }
    return out.size() <= kMaxBiases;
  };
  if (value.is_object()) {
    for (const auto& [key, bias] : value.items()) {
      bool digits =
          !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == std::string::npos;
      if (!add(digits ? Json(std::stoi(key)) : Json(key), bias)) {
        return bad;
      }
    }
    return std::nullopt;
  }
  if (!value.is_array()) {
    return bad;
  }
  for (const Json& pair : value) {
    if (!pair.is_array() || pair.size() != 2 || !add(pair[0], pair[1])) {
      return bad;
    }
  }
  return std::nullopt;
}

// One prompt: text, ids, a mix of them, or {"prompt_string": text}.
MaybeError read_prompt(const Json& value, const Tokenizer& tokenizer, int n_ctx, std::vector<int>& out) {
  ApiError bad = invalid_request(
      "\"prompt\" elements must be a string, a list of tokens, a JSON object containing a prompt string, or "
      "a list of "
      "mixed strings & tokens.");
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (MaybeError error = check_text(text, tokenizer, n_ctx)) {
      return error;
    }
    out = tokenizer.encode(text, true, true);
    return std::nullopt;
  }
  if (value.is_object()) {
    auto text = value.find("prompt_string");
    return text != value.end() && text->is_string() ? read_prompt(*text, tokenizer, n_ctx, out) : bad;
  }
  if (!value.is_array()) {
    return bad;
  }
  bool first = true;
  for (const Json& item : value) {
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      if (MaybeError error = check_text(text, tokenizer, n_ctx)) {
        return error;
      }
      std::vector<int> tokens = tokenizer.encode(text, first, true);
      out.insert(out.end(), tokens.begin(), tokens.end());
    } else if (!item.is_number_integer()) {
      return bad;
    } else if (!tokenizer.in_range(item.get<int64_t>())) {
      return invalid_request("Prompt contains invalid tokens");
    } else {
      out.push_back(item.get<int>());
    }
    first = false;
  }
  return std::nullopt;
}

ApiError exceeds_context(std::string_view at_least, int64_t n, int n_ctx) {
  return ApiError{
      400,
      "exceed_context_size_error",
      fmt::format("request ({}{} tokens) exceeds the available context size ({} tokens), try increasing it",
                  at_least, n, n_ctx),
      {{"n_prompt_tokens", n}, {"n_ctx", n_ctx}}};
}

}  // namespace

ApiError invalid_request(std::string message) {
  ApiError error;
  error.message = std::move(message);
  return error;
}

std::string error_body(const ApiError& error) {
  Json body = {{"code", error.code}, {"message", error.message}, {"type", error.type}};
  if (error.extra.is_object()) {
    body.update(error.extra);
  }
  return base::dump_line({{"error", body}});
}

std::string http_layer_error_body(int status, std::string_view message) {
  std::string_view type = status == 401   ? "authentication_error"
                          : status == 404 ? "not_found_error"
                          : status == 501 ? "not_supported_error"
                          : status == 503 ? "unavailable_error"
                          : status >= 500 ? "server_error"
                                          : "invalid_request_error";
  return base::dump_line({{"error", {{"message", message}, {"type", type}, {"code", status}}}});
}

MaybeError parse_body(const std::string& body, Json& out) {
  bool refused = false;
  auto parsed = base::parse_json(body, "", &refused);
  if (!parsed && refused) {
    return invalid_request(parsed.failure().to_string());
  }
  if (!parsed) {
    return ApiError{500, "server_error", parsed.failure().what, {}};
  }
  out = std::move(*parsed);
  if (!out.is_object()) {
    return invalid_request("the request's body must be a JSON object");
  }
  return std::nullopt;
}

MaybeError parse_completion(const Json& body, const Tokenizer& tokenizer, const GenerationParams& defaults,
                            CompletionRequest& out) {
  out.params = defaults;
  RequestFields fields(body);
  for (const Unsupported& field : kUnsupported) {
    if (const Json* value = fields.find(field.name); value && !field.neutral(*value)) {
      return invalid_request(
          fmt::format("Field '{}': this value is not supported by tbq-server; leave it out", field.name));
    }
  }
  for (std::string_view name : {"n", "n_cmpl"}) {
    fields.number(name, out.n, 1, out.n_max, true);
  }
  GenerationParams& p = out.params;
  SamplerParams& s = p.sampling;
  for (std::string_view name :
       {"max_tokens", "max_completion_tokens", "n_predict"}) {  // the last one counts most
    fields.number(name, p.n_predict, -1, kMaxInt, true);
  }
  p.n_predict = p.n_predict < 0 ? defaults.n_predict : p.n_predict;  // -1 is the server's own limit
  fields.number("top_k", s.top_k, 0, kMaxInt);
  fields.number("top_p", s.top_p, 0, 1);
  fields.number("min_p", s.min_p, 0, 1);
  fields.number("temperature", s.temperature, 0, std::numeric_limits<float>::max());
  fields.number("min_keep", s.min_keep, 0, kMaxInt);
  read_probs(fields, p.n_probs);
  fields.number("id_slot", p.id_slot, -1, kMaxInt);
  double repeat_last_n = 0;  // has no effect without a penalty, but llama-server checks it
  fields.number("repeat_last_n", repeat_last_n, 0, kMaxInt, true);
  double ignored = 0;  // the context never shifts, but llama-server checks these
  fields.number("n_keep", ignored, -1, kMaxInt, true);
  fields.number("n_discard", ignored, 0, kMaxInt, true);
  constexpr double kSeeds = 4294967296.0;  // larger ones are taken modulo this; negative ones ask for any
  double seed = s.seed;
  fields.number("seed", seed, -1, 9e18);
  s.seed = seed < 0 ? kRandomSeed : static_cast<uint32_t>(std::fmod(seed, kSeeds));
  fields.boolean("ignore_eos", s.ignore_eos);
  fields.boolean("cache_prompt", p.cache_prompt);
  fields.boolean("stream", out.stream);
  fields.boolean("timings_per_token", out.timings_per_token);
  fields.boolean("return_tokens", out.return_tokens);
  fields.strings("stop", p.stop);
  fields.strings("response_fields", out.response_fields);
  if (const Json* options = fields.find("stream_options"); options && options->is_object()) {
    out.include_usage = base::json_get(*options, "include_usage", false);
  }
  if (const Json* bias = fields.find("logit_bias"); bias && !fields.error) {
    fields.error = read_logit_bias(*bias, tokenizer, s.logit_bias);
  }
  return fields.error;
}

MaybeError parse_prompts(const Json& body, const Tokenizer& tokenizer, int n_ctx,
                         std::vector<std::vector<int>>& out, bool& several) {
  auto prompt = body.find("prompt");
  if (prompt == body.end()) {
    return invalid_request("[json.exception.out_of_range.403] key 'prompt' not found");
  }
  if (prompt->is_array() && prompt->empty()) {
    return invalid_request("\"prompt\" must not be empty");
  }
  // An array is one prompt when it has a number in it; otherwise its elements are prompts.
  several = prompt->is_array();
  for (const Json& item : *prompt) {
    several = several && !item.is_number();
  }
  if (several && prompt->size() > kMaxPrompts) {
    return invalid_request(
        fmt::format("{} prompts; at most {} are taken in one request", prompt->size(), kMaxPrompts));
  }
  if (!several) {
    return read_prompt(*prompt, tokenizer, n_ctx, out.emplace_back());
  }
  for (const Json& item : *prompt) {
    if (MaybeError error = read_prompt(item, tokenizer, n_ctx, out.emplace_back())) {
      return error;
    }
  }
  return std::nullopt;
}

MaybeError parse_text(const Json& body, const Tokenizer& tokenizer, std::vector<int>& out) {
  auto content = body.find("content");
  if (content == body.end() || content->is_null()) {
    return std::nullopt;
  }
  bool special = base::json_get(body, "add_special", false);
  const bool parse_special = base::json_get(body, "parse_special", true);
  // Only the first piece begins the text.
  for (const Json& piece : content->is_array() ? *content : Json::array({*content})) {
    if (piece.is_string()) {
      const std::vector<int> tokens =
          tokenizer.encode(piece.get_ref<const std::string&>(), special, parse_special);
      out.insert(out.end(), tokens.begin(), tokens.end());
    } else if (piece.is_number_integer() && content->is_array() && tokenizer.in_range(piece.get<int64_t>())) {
      out.push_back(piece.get<int>());
    } else {
      return invalid_request(
          "Field 'content': must be a string, or an array of strings and of token ids in range");
    }
    special = false;
  }
  return std::nullopt;
}

MaybeError parse_tokens(const Json& body, const Tokenizer& tokenizer, std::vector<int>& out) {
  auto tokens = body.find("tokens");
  if (tokens == body.end()) {
    return std::nullopt;
  }
  if (!tokens->is_array()) {
    return invalid_request("Field 'tokens': must be an array of token ids");
  }
  for (const Json& token : *tokens) {
    if (!token.is_number_integer() || !tokenizer.in_range(token.get<int64_t>())) {
      return invalid_request(fmt::format("Field 'tokens': {} is no token id between 0 and {}",
                                         base::dump_line(token), tokenizer.n_vocab() - 1));
    }
    out.push_back(token.get<int>());
  }
  return std::nullopt;
}

MaybeError check_text(std::string_view text, const Tokenizer& tokenizer, int n_ctx) {
  // Tokenizing takes many times the text's memory, so what surely cannot fit stops here. An unknown character
  // of up to 4 bytes is one token too.
  const size_t longest = std::max<size_t>(4, tokenizer.max_token_bytes());
  const size_t n = text.size() / longest;
  if (n <= static_cast<size_t>(n_ctx)) {
    return std::nullopt;
  }
  return exceeds_context("at least ", static_cast<int64_t>(n), n_ctx);
}

MaybeError bound_probs(const std::vector<std::vector<int>>& prompts, int n_ctx, CompletionRequest& request) {
  GenerationParams& params = request.params;
  const int64_t limit = request.stream ? kMaxStreamedEntries : kMaxWholeEntries;
  const auto n_answers = static_cast<int64_t>(prompts.size()) * request.n;
  int64_t n_prompt_tokens = 0, n_longest = 0;  // n_longest: tokens that any of the answers has room for
  for (const std::vector<int>& prompt : prompts) {
    n_prompt_tokens += static_cast<int64_t>(prompt.size()) * request.n;
    n_longest = std::max(n_longest, n_ctx - static_cast<int64_t>(prompt.size()));
  }
  const auto refused = [&] {
    return invalid_request(fmt::format(
        "the answer's probabilities would be more than {} tokens with their alternatives; ask for fewer "
        "of them (n_probs, logprobs or top_logprobs), fewer tokens (max_tokens) or fewer prompts at once",
        limit));
  };
  if (params.n_prompt_probs >= 0) {
    const int64_t n_judged = n_prompt_tokens * std::max(1, params.n_prompt_probs);
    if (n_judged > limit) {
      return refused();
    }
  }
  if (params.n_probs <= 0 || params.prompt_only) {
    return std::nullopt;
  }
  const int64_t room = limit / (n_answers * params.n_probs);  // tokens of each answer
  if (n_longest <= room) {
    return std::nullopt;
  }
  if (params.n_predict < 0 && room > 0) {
    params.n_predict = static_cast<int>(room);
  }
  return params.n_predict >= 0 && std::max(1, params.n_predict) <= room ? std::nullopt
                                                                        : MaybeError(refused());
}

MaybeError check_context(const std::vector<int>& prompt, int n_ctx) {
  auto n = static_cast<int64_t>(prompt.size());
  return n < n_ctx ? std::nullopt : MaybeError(exceeds_context("", n, n_ctx));
}

}  // namespace engine
