#include "src/engine/server.h"

#include <algorithm>
#include <chrono>

#include "src/base/log.h"
#include "src/base/units.h"
#include "src/engine/gpu.h"
#include "src/engine/kv_calibration.h"
#include "src/engine/routes.h"

namespace engine {
namespace {

constexpr std::chrono::milliseconds kStopPatience{600};
// A client that takes nothing of its stream for so long holds a thread that others wait for: it is cut off.
constexpr int kMostUnread_s = 30;
constexpr size_t kMaxBody = 16u << 20;  // a prompt of 100K tokens is half a megabyte of text or ids

// Takes as long for a wrong key as for a right one of the same length.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned difference = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned char>(a[i]) ^ (b.empty() ? 0xFFU : static_cast<unsigned char>(b[i % b.size()]));
  }
  return difference == 0;
}

bool has_key(const std::vector<std::string>& keys, const os::HttpIncoming& request) {
  std::string_view shown;
  if (const std::string* bearer = request.header("authorization"); bearer && bearer->starts_with("Bearer ")) {
    shown = std::string_view(*bearer).substr(7);
  } else if (const std::string* key = request.header("x-api-key")) {
    shown = *key;
  }
  bool found = false;
  for (const std::string& key : keys) {
    found |= same_secret(shown, key);
  }
  return found;
}

void refuse(os::HttpReply& reply, int status, std::string_view message, bool close = false) {
  reply.send(status, "application/json; charset=utf-8", http_layer_error_body(status, message), {}, close);
}

// A context, logged and warmed up with a token (-1: not), so that a reconfigured one is as ready as a first one.
base::Result<std::unique_ptr<Context>> open_context(const std::shared_ptr<const Model>& model,
                                                    ContextOptions options, KvMeansSource& means,
                                                    int warmup) {
  auto centered = means.get(options);
  if (!centered) {
    return centered.failure();
  }
  options.kv_means = *std::move(centered);
  auto context = Context::open(model, options);
  if (!context) {
    return context.failure();
  }
  const ContextInfo& info = (*context)->info();
  base::log_info("slots: {}, each of up to {} tokens{}", info.n_seqs, info.n_ctx,
                 info.kv_unified && info.n_seqs > 1 ? ", in one cache" : "");
  base::log_info("context: n_ctx = {}, n_batch = {}, n_ubatch = {}, threads = {}/{}, backend = {}",
                 info.n_ctx, info.n_batch, info.n_ubatch, info.n_threads, info.n_threads_batch, info.backend);
  base::log_info("memory: weights {:.2f} MiB, KV cache {:.2f} MiB (K {}, V {}), workspace {:.2f} MiB",
                 static_cast<double>(info.weight_bytes) / (1 << 20),
                 static_cast<double>(info.kv_bytes) / (1 << 20), info.cache_type_k, info.cache_type_v,
                 static_cast<double>(info.workspace_bytes) / (1 << 20));
  if (info.n_gpu_layers > 0) {
    base::log_info("GPU: {} of {} layers (with the output), weights {}, KV cache {}, workspace {}",
                   info.n_gpu_layers, model->hp.n_layer + 1, base::format_bytes(info.gpu_weight_bytes),
                   base::format_bytes(info.gpu_kv_bytes), base::format_bytes(info.gpu_workspace_bytes));
  }
  base::log_info(
      "KV cache: {:.4g} bits per value (K {:.4g}, V {:.4g}){}{}",
      (info.k_bits_per_value + info.v_bits_per_value) / 2, info.k_bits_per_value, info.v_bits_per_value,
      info.edge_layers == 0 ? ""
                            : fmt::format(", the first and the last {} layers as {}", info.edge_layers,
                                          info.kv_first_last.substr(0, info.kv_first_last.find(','))),
      info.kv_center_id.empty() ? "" : ", less the means " + info.kv_center_id);
  if (info.exact_bytes > 0) {
    base::log_info(
        "of the KV cache {:.2f} MiB are copies in f16: the first {} tokens of a slot, the last {}; "
        "{:.4g} bits per value with them",
        static_cast<double>(info.exact_bytes) / (1 << 20), info.exact_sink, info.exact_tail,
        info.bits_per_value);
  }
  for (const std::string& fallback : info.fallbacks) {
    base::log_warn("{}", fallback);
  }
  if (warmup >= 0) {
    if (auto warm = (*context)->eval(0, std::span(&warmup, 1)); !warm) {
      return warm.failure();
    }
    (*context)->truncate(0, 0);
  }
  return context;
}

}  // namespace

ChatTemplate::Bos Loaded::bos() const {
  return {tokenizer.bos() >= 0 ? tokenizer.piece(tokenizer.bos(), true) : "", tokenizer.adds_bos()};
}

Server::Server(ServerOptions options)
    : options_(std::move(options)),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {
  tuning_.options = options_;
  tuning_.flash_attn = options_.flash_attn != "off";
  tuning_.lost = [](std::string_view) {};
}

base::Result<void> Server::bind() {
  os::HttpServerOptions http;
  http.host = options_.host;
  http.port = options_.port;
  http.n_threads = http_threads(options_);
  http.n_urgent_threads = 4;
  http.urgent = [](std::string_view path) { return is_urgent_route(path); };
  http.limits.max_body_bytes = kMaxBody;
  http.write_timeout_s = std::min(options_.timeout_s, kMostUnread_s);
  http.idle_timeout_s = std::min(options_.timeout_s, 600);
  http.headers = {{"Server", "tbq-server"}};
  http.error_body = http_layer_error_body;
  auto bound = os::HttpServer::bind(std::move(http));
  if (!bound) {
    return bound.failure();
  }
  http_ = std::move(*bound);
  return http_->start(
      [this](const os::HttpIncoming& request, os::HttpReply& reply) { handle(request, reply); });
}

base::Result<void> Server::load() {
  auto model = load_model(options_.model, {.mmap = options_.mmap, .mlock = options_.mlock});
  if (!model) {
    return model.failure();
  }
  auto tokenizer = Tokenizer::from_gguf((*model)->file, options_.model);
  if (!tokenizer) {
    return tokenizer.failure();
  }
  if (tokenizer->n_vocab() > (*model)->hp.n_vocab) {
    return base::error(options_.model,
                       fmt::format("the vocabulary has {} tokens, but the model's output only {}",
                                   tokenizer->n_vocab(), (*model)->hp.n_vocab),
                       "the file is damaged; convert the model again");
  }
  const HParams& hp = (*model)->hp;
  base::log_info(
      "model: {}, {} layers, {} parameters, {:.2f} MiB of weights read per token{}", hp.architecture,
      hp.n_layer, base::format_count((*model)->n_params),
      static_cast<double>(bytes_per_token(**model)) / (1 << 20),
      hp.n_expert == 0 ? "" : fmt::format(" ({} of {} experts per layer)", hp.n_expert_used, hp.n_expert));
  const int warmup = options_.warmup ? std::max(0, tokenizer->bos()) : -1;
  Generator::Open open = [model = *model, means = std::make_shared<KvMeansSource>(*model, *tokenizer),
                          warmup](const ContextOptions& wanted) {
    return open_context(model, wanted, *means, warmup);
  };
  options_.context.gpu = tuning_.options.context.gpu = choose_gpu(options_.context.n_gpu_layers);
  auto context = open(options_.context_options());
  if (!context) {
    return context.failure();
  }
  auto loaded = std::make_unique<Loaded>(Loaded{*model, std::move(*tokenizer), {}, nullptr});
  loaded->chat = options_.chat.chat_template.value_or(ChatTemplate::from_text(
      std::string((*model)->file.get_string("tokenizer.chat_template").value_or(""))));
  base::log_info("chat template: {}", loaded->chat.family().name);
  if (!loaded->chat.warning().empty()) {
    base::log_warn("{}", loaded->chat.warning());
  }
  if (const std::string note = loaded->chat.note(); !note.empty()) {
    base::log_info("{}", note);
  }
  std::lock_guard lock(mutex_);
  if (stopping_) {
    return base::error("", "stopped while loading");
  }
  loaded->generator = std::make_unique<Generator>(std::move(*context), options_.context_options(),
                                                  options_.speculation, std::move(open), loaded->tokenizer);
  loaded_ = std::move(loaded);
  ready_ = loaded_.get();
  return {};
}

bool Server::stop() {
  Generator* generator = nullptr;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    generator = loaded_ ? loaded_->generator.get() : nullptr;
  }
  if (generator) {
    generator->stop();
    if (!generator->stopped_within(kStopPatience)) {
      return false;
    }
  }
  if (http_) {
    http_->stop();
  }
  return true;
}

void Server::handle(const os::HttpIncoming& request, os::HttpReply& reply) {
  const Loaded* loaded = ready_;
  if (!loaded) {
    return refuse(reply, 503, "Loading model", true);
  }
  if (!options_.api_keys.empty() && !is_public_route(request.path) && !has_key(options_.api_keys, request)) {
    return refuse(reply, 401, "Invalid API Key");
  }
  Route route = find_route(request.method, request.path);
  if (!route) {
    return refuse(reply, 404, "File Not Found");
  }
  route({options_, *loaded, created_, tuning_}, request, reply);
}

}  // namespace engine
