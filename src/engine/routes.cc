#include "src/engine/routes.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/version.h"
#include "src/engine/file_type.h"
#include "src/engine/monitor.h"
#include "src/engine/reconfigure.h"

namespace engine {
namespace {

using base::Json;

// What a body of 16 MiB could ask for beyond these takes gigabytes to say.
constexpr size_t kMaxPieces = 1 << 20, kMaxDetokenize = 1 << 20;
constexpr std::string_view kJsonType = "application/json; charset=utf-8";
const os::HttpHeaders kRetryAfter = {{"Retry-After", "1"}};  // seconds

ApiError not_served(std::string_view name) {
  return {501,
          "not_supported_error",
          fmt::format("This server does not support {0} endpoint. Start it with `--{0}`", name),
          {}};
}

// Ready means that a request sent now is answered: not while a reconfiguration drains and opens.
void health(const RouteContext& context, const os::HttpIncoming&, os::HttpReply& reply) {
  if (context.loaded.generator->paused()) {
    return reply.send(503, kJsonType, http_layer_error_body(503, "Loading model"), kRetryAfter);
  }
  reply_json(reply, {{"status", "ok"}});
}

void models(const RouteContext& context, const os::HttpIncoming&, os::HttpReply& reply) {
  const Model& model = *context.loaded.model;
  std::string name = context.options.model_name();
  Json details = {{"parent_model", ""},   {"format", "gguf"},
                  {"family", ""},         {"families", Json::array({""})},
                  {"parameter_size", ""}, {"quantization_level", ""}};
  Json listed = {{"name", name},
                 {"model", name},
                 {"modified_at", ""},
                 {"size", ""},
                 {"digest", ""},
                 {"type", "model"},
                 {"description", ""},
                 {"tags", Json::array({""})},
                 {"capabilities", Json::array({"completion"})},
                 {"parameters", ""},
                 {"details", details}};
  Json meta = {{"vocab_type", context.loaded.tokenizer.kind()},
               {"n_vocab", context.loaded.tokenizer.n_vocab()},
               {"n_ctx", context.loaded.generator->info().n_ctx},
               {"n_ctx_train", model.hp.n_ctx_train},
               {"n_embd", model.hp.n_embd},
               {"n_params", model.n_params},
               {"size", model.weight_bytes},
               {"ftype", file_type_name(model.file.get_int("general.file_type"))}};
  Json data = {{"id", name},        {"aliases", Json::array({name})}, {"tags", Json::array()},
               {"object", "model"}, {"created", context.created},     {"owned_by", "tbq"},
               {"meta", meta}};
  reply_json(reply, {{"models", Json::array({listed})}, {"object", "list"}, {"data", Json::array({data})}});
}

void props(const RouteContext& context, const os::HttpIncoming&, os::HttpReply& reply) {
  const Tokenizer& tokenizer = context.loaded.tokenizer;
  CompletionRequest defaults;
  defaults.params.sampling = context.options.sampling;
  defaults.params.n_predict = context.options.n_predict;
  Json params = generation_settings(defaults, context.options.sampling.seed);
  params.erase("stop");
  params.erase("logit_bias");
  auto token_text = [&](int token) { return token >= 0 ? tokenizer.piece(token, true) : std::string(); };
  reply_json(reply, {{"default_generation_settings",
                      {{"params", params}, {"n_ctx", context.loaded.generator->info().n_ctx}}},
                     {"total_slots", context.loaded.generator->info().n_seqs},
                     {"model_alias", context.options.model_name()},
                     {"model_ftype", file_type_name(context.loaded.model->file.get_int("general.file_type"))},
                     {"model_path", context.options.model},
                     {"modalities", {{"vision", false}, {"video", false}, {"audio", false}}},
                     {"endpoint_slots", context.options.slots},
                     {"endpoint_props", false},
                     {"endpoint_metrics", context.options.metrics},
                     {"chat_template", context.loaded.chat.text()},
                     {"bos_token", token_text(tokenizer.bos())},
                     {"eos_token", token_text(tokenizer.eos())},
                     {"build_info", build_info()},
                     {"is_sleeping", false},
                     {"tbq", effective_settings(context)}});
}

void slots(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  if (!context.options.slots) {
    return reply_error(reply, not_served("slots"));
  }
  const ServingBoard::View view = context.loaded.generator->view();
  const bool wants_free = ("&" + request.query + "&").find("&fail_on_no_slot=1&") != std::string::npos;
  const auto is_busy = [](const SlotState& slot) { return slot.processing; };
  if (wants_free && std::ranges::all_of(view.slots, is_busy)) {
    return reply_error(reply, {503, "unavailable_error", "no slot available", {}});
  }
  reply_json(reply, slots_json(view, context.loaded.generator->info().n_ctx,
                               context.loaded.generator->speculation().ngram));
}

void metrics(const RouteContext& context, const os::HttpIncoming&, os::HttpReply& reply) {
  if (!context.options.metrics) {
    return reply_error(reply, not_served("metrics"));
  }
  reply.send(200, "text/plain; version=0.0.4", metrics_text(context.loaded.generator->view(true)),
             {{"Process-Start-Time-Unix", std::to_string(context.created)}});
}

// Runs `body` over the parsed JSON of the request; what it returns is the error to answer with.
template <class Body>
void with_json(const os::HttpIncoming& request, os::HttpReply& reply, Body&& body) {
  Json json;
  MaybeError error = parse_body(request.body, json);
  if (!error) {
    error = body(json);
  }
  if (error) {
    reply_error(reply, *error);
  }
}

void tokenize(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  with_json(request, reply, [&](const Json& json) -> MaybeError {
    std::vector<int> tokens;
    if (MaybeError error = parse_text(json, context.loaded.tokenizer, tokens)) {
      return error;
    }
    const bool with_pieces = base::json_get(json, "with_pieces", false);
    if (with_pieces && tokens.size() > kMaxPieces) {
      return invalid_request(fmt::format("{} tokens; pieces are told of at most {}: send the text in parts",
                                         tokens.size(), kMaxPieces));
    }
    reply_json(reply, tokens_json(tokens, context.loaded.tokenizer, with_pieces));
    return std::nullopt;
  });
}

void detokenize(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  with_json(request, reply, [&](const Json& json) -> MaybeError {
    std::vector<int> tokens;
    if (MaybeError error = parse_tokens(json, context.loaded.tokenizer, tokens)) {
      return error;
    }
    if (tokens.size() > kMaxDetokenize) {
      return invalid_request(fmt::format("{} tokens; at most {} are taken at once: send them in parts",
                                         tokens.size(), kMaxDetokenize));
    }
    reply_json(reply, {{"content", context.loaded.tokenizer.decode(tokens, true)}});
    return std::nullopt;
  });
}

// The prompt of the conversation in `json`.
MaybeError chat_prompt(const RouteContext& context, const Json& json, std::string& out) {
  ChatRequest chat;
  if (MaybeError error =
          parse_chat(json, context.options.chat.reasoning, context.loaded.chat.family(), chat)) {
    return error;
  }
  out = context.loaded.chat.render(std::move(chat.messages), chat.end, chat.reasoning.thinking,
                                   context.loaded.bos());
  return std::nullopt;
}

void apply_template(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  with_json(request, reply, [&](const Json& json) -> MaybeError {
    std::string prompt;
    MaybeError error = chat_prompt(context, json, prompt);
    if (!error) {
      reply_json(reply, {{"prompt", prompt}});
    }
    return error;
  });
}

void count_chat_tokens(const RouteContext& context, const os::HttpIncoming& request, os::HttpReply& reply) {
  with_json(request, reply, [&](const Json& json) -> MaybeError {
    std::string prompt;
    MaybeError error = chat_prompt(context, json, prompt);
    if (!error) {
      reply_json(reply, {{"input_tokens", context.loaded.tokenizer.encode(prompt, true, true).size()},
                         {"object", "response.input_tokens"}});
    }
    return error;
  });
}

// What llama-server has and this server has not.
void not_offered(const RouteContext&, const os::HttpIncoming& request, os::HttpReply& reply) {
  reply_error(reply, {501,
                      "not_supported_error",
                      fmt::format("This server does not support {}", std::string_view(request.path)),
                      {}});
}

struct Row {
  std::string_view method, path;
  Route route;
  bool urgent = false, is_public = false;
};

constexpr Row kRoutes[] = {
    {"GET", "/health", health, true, true},
    {"GET", "/v1/health", health, true, true},
    {"GET", "/models", models, true, true},
    {"GET", "/v1/models", models, true, true},
    {"GET", "/props", props, true},
    {"GET", "/slots", slots, true},
    {"GET", "/metrics", metrics, true},
    {"POST", "/reconfigure", route_reconfigure},
    {"POST", "/tokenize", tokenize},
    {"POST", "/detokenize", detokenize},
    {"POST", "/apply-template", apply_template},
    {"POST", "/chat/completions/input_tokens", count_chat_tokens},
    {"POST", "/v1/chat/completions/input_tokens", count_chat_tokens},
    {"POST", "/completion", route_completion},
    {"POST", "/completions", route_completion},
    {"POST", "/v1/completions", route_oai_completion},
    {"POST", "/chat/completions", route_chat},
    {"POST", "/v1/chat/completions", route_chat},
    {"POST", "/props", not_offered},
    {"POST", "/infill", not_offered},
    {"POST", "/embedding", not_offered},
    {"POST", "/embeddings", not_offered},
    {"POST", "/v1/embeddings", not_offered},
    {"POST", "/rerank", not_offered},
    {"POST", "/reranking", not_offered},
    {"POST", "/v1/rerank", not_offered},
    {"POST", "/v1/reranking", not_offered},
    {"POST", "/responses", not_offered},
    {"POST", "/v1/responses", not_offered},
    {"POST", "/v1/messages", not_offered},
};

}  // namespace

Route find_route(std::string_view method, std::string_view path) {
  for (const Row& row : kRoutes) {
    if (row.path == path && row.method == (method == "HEAD" ? "GET" : method)) {
      return row.route;
    }
  }
  return method == "POST" && path.starts_with("/slots/") ? route_slot : nullptr;
}

bool is_urgent_route(std::string_view path) {
  for (const Row& row : kRoutes) {
    if (row.path == path) {
      return row.urgent;
    }
  }
  return false;
}

bool is_public_route(std::string_view path) {
  for (const Row& row : kRoutes) {
    if (row.path == path) {
      return row.is_public;
    }
  }
  return false;
}

Json effective_settings(const RouteContext& context) {
  const ContextInfo info = context.loaded.generator->info();
  Json out = {{"cache_type_k", info.cache_type_k},
              {"cache_type_v", info.cache_type_v},
              {"kv_rotate", info.kv_rotate},
              {"kv_first_last", info.kv_first_last},
              {"kv_center", info.kv_center},
              {"kv_center_id", info.kv_center_id.empty() ? Json(nullptr) : Json(info.kv_center_id)},
              {"kv_sink", info.kv_sink},
              {"kv_tail", info.kv_tail},
              {"k_rotated", info.k_rotated},
              {"v_rotated", info.v_rotated},
              {"k_bits_per_value", info.k_bits_per_value},
              {"v_bits_per_value", info.v_bits_per_value},
              {"bits_per_value", info.bits_per_value},
              {"activations", info.activations},
              {"n_ctx", info.n_ctx},
              {"n_batch", info.n_batch},
              {"n_ubatch", info.n_ubatch},
              {"n_threads", info.n_threads},
              {"n_threads_batch", info.n_threads_batch},
              {"n_parallel", info.n_seqs},
              {"kv_unified", info.kv_unified},
              {"n_gpu_layers", info.n_gpu_layers},
              {"gpu_weight_bytes", info.gpu_weight_bytes},
              {"gpu_kv_bytes", info.gpu_kv_bytes},
              {"gpu_workspace_bytes", info.gpu_workspace_bytes},
              {"n_draft", context.loaded.generator->speculation().n_draft()},
              {"flash_attn", context.tuning.flash_attn ? "on" : "off"},
              {"mmap", context.options.mmap},
              {"mlock", context.options.mlock},
              {"kv_bytes", info.kv_bytes},
              {"kv_exact_bytes", info.exact_bytes},
              {"weight_bytes", info.weight_bytes},
              {"weight_bytes_per_token", bytes_per_token(*context.loaded.model)},
              {"workspace_bytes", info.workspace_bytes},
              {"backend", info.backend},
              {"fallbacks", info.fallbacks},
              {"numerics_key", numerics_key(*context.loaded.model, info, context.options.chat)}};
  if (context.options.reconfigure) {
    out["reconfigure"] = reconfigurable_axes();
  }
  return out;
}

std::string build_info() {
  return fmt::format("tbq-{}-{}", base::version(), base::commit());
}

void reply_json(os::HttpReply& reply, const Json& body) {
  reply.send(200, kJsonType, base::dump_line(body));
}

void reply_error(os::HttpReply& reply, const ApiError& error) {
  reply.send(error.code, kJsonType, error_body(error), error.code == 503 ? kRetryAfter : os::HttpHeaders());
}

}  // namespace engine
