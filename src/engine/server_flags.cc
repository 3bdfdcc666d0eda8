// The table of tbq-server's flags: each is declared once, with its binding.

#include "src/engine/server_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>

#include "kernels/formats/formats.h"
#include "src/engine/context_plan.h"
#include "src/engine/gpu.h"
#include "src/os/files.h"

namespace engine {
namespace {

using Parse = FlagContext;
using Why = std::string;

template <class T>
Why number(std::string_view text, T lo, T hi, T& out) {
  T value{};
  auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure == std::errc::result_out_of_range && end == text.data() + text.size()) {
    return fmt::format("{} is not between {} and {}", text, lo, hi);
  }
  if (failure != std::errc() || end != text.data() + text.size() || std::isnan(value)) {
    return fmt::format("'{}' is not a number", text);
  }
  if (value < lo || value > hi) {
    return fmt::format("{} is not between {} and {}", text, lo, hi);
  }
  out = value;
  return "";
}

Why one_of(std::string_view text, std::initializer_list<std::string_view> allowed) {
  return std::find(allowed.begin(), allowed.end(), text) != allowed.end()
             ? ""
             : fmt::format("'{}' is none of: {}", text, fmt::join(allowed, ", "));
}

Why threads(std::string_view text, int& out) {
  Why why = number(text, -1, 1024, out);
  out = std::max(out, 0);  // -1: automatic
  return why;
}

Why cache_type(std::string_view text, std::string& out) {
  if (!kernels::find_kv_format(text)) {
    return fmt::format("Unsupported cache type: {}; one of: {}", text, kernels::kv_format_names());
  }
  out = text;
  return "";
}

Why directory(std::string_view text, std::string& out) {
  std::error_code failure;
  if (!std::filesystem::is_directory(text, failure)) {
    return fmt::format("'{}' is not a directory", text);
  }
  out = text;
  return "";
}

// Blanks around a key are none of it, and lines without one are no keys.
Why add_keys(std::string_view text, char separator, ServerOptions& options) {
  constexpr std::string_view kBlanks = " \t\r\n\v\f";
  const size_t had = options.api_keys.size();
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(separator, at), text.size());
    const std::string_view part = text.substr(at, end - at);
    if (const size_t first = part.find_first_not_of(kBlanks); first != std::string_view::npos) {
      const std::string_view key = part.substr(first, part.find_last_not_of(kBlanks) - first + 1);
      if (std::ranges::any_of(key, [](unsigned char c) { return c < ' ' || c == 0x7f; })) {
        return fmt::format("key {} holds a control character, which no header can carry",
                           options.api_keys.size() - had + 1);
      }
      options.api_keys.emplace_back(key);
    }
    at = end + 1;
  }
  return options.api_keys.size() == had ? "no key given" : "";
}

Why load_mode(Parse& p, std::string_view mode) {
  if (Why why = one_of(mode, {"auto", "none", "mmap", "mlock", "mmap+mlock"}); !why.empty()) {
    return why;
  }
  p.options.mmap = mode == "auto" || mode.starts_with("mmap");
  p.options.mlock = mode.ends_with("mlock");
  return "";
}

Why spec_type(std::string_view type, bool& ngram) {
  ngram = type == "ngram-mod";
  return one_of(type, {"none", "ngram-mod"});
}

constexpr int kMax = std::numeric_limits<int>::max();

// In several lists, since clang-format gives up on one so long.
constexpr Flag kSetupFlags[] = {
    {"-h --help --usage", "", "", "", "", "print this and exit",
     [](Parse& p, std::string_view) { return p.options.help = true, Why(); }},
    {"--version", "", "", "", "", "print the version and exit",
     [](Parse& p, std::string_view) { return p.options.version = true, Why(); }},
    {"-m --model", "", "LLAMA_ARG_MODEL", "FILE", "", "GGUF model to serve",
     [](Parse& p, std::string_view v) { return p.options.model = v, Why(); }},
    {"-a --alias", "", "LLAMA_ARG_ALIAS", "NAME", "the model's path", "the model's name in the API",
     [](Parse& p, std::string_view v) { return p.options.alias = v, Why(); }},
    {"--host", "", "LLAMA_ARG_HOST", "HOST", "127.0.0.1", "address to listen on",
     [](Parse& p, std::string_view v) { return p.options.host = v, Why(); }},
    {"--port", "", "LLAMA_ARG_PORT", "N", "8080", "port to listen on; 0: any free one, printed",
     [](Parse& p, std::string_view v) { return number(v, 0, 65535, p.options.port); }},
    {"--api-key", "", "LLAMA_API_KEY", "KEY,...", "", "keys that clients must show one of",
     [](Parse& p, std::string_view v) { return add_keys(v, ',', p.options); }},
    {"--api-key-file", "", "LLAMA_ARG_API_KEY_FILE", "FILE", "", "file with one such key per line",
     [](Parse& p, std::string_view v) {
       auto text = os::read_file(std::string(v), 1 << 20);
       if (!text) {
         return text.failure().to_string();
       }
       constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // of some editors
       std::string_view keys = *text;
       keys.remove_prefix(keys.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0);
       return add_keys(keys, '\n', p.options);
     }},
    {"--threads-http", "", "LLAMA_ARG_THREADS_HTTP", "N", "32", "requests that may wait at once",
     [](Parse& p, std::string_view v) {
       int n = 0;
       Why why = number(v, -1, 1024, n);
       p.options.threads_http = n >= 1 ? n : p.options.threads_http;
       return why;
     }},
    {"-to --timeout", "", "LLAMA_ARG_TIMEOUT", "N", "3600",
     "seconds for a client that neither sends nor reads (30 at most for one that does not read a stream)",
     [](Parse& p, std::string_view v) { return number(v, 1, 1000000, p.options.timeout_s); }},
    {"-c --ctx-size", "", "LLAMA_ARG_CTX_SIZE", "N", "0",
     "context in tokens; 0: what the model was trained for",
     [](Parse& p, std::string_view v) { return number(v, 0, kMax / 2, p.options.context.n_ctx); }},
    {"-n --predict --n-predict", "", "LLAMA_ARG_N_PREDICT", "N", "-1",
     "tokens to generate; -1: until the context is full",
     [](Parse& p, std::string_view v) { return number(v, -1, kMax, p.options.n_predict); }},
    {"-b --batch-size", "", "LLAMA_ARG_BATCH", "N", "2048", "most prompt tokens per call of the engine",
     [](Parse& p, std::string_view v) { return number(v, 1, kMax, p.options.context.n_batch); }},
    {"-ub --ubatch-size", "", "LLAMA_ARG_UBATCH", "N", "512", "most tokens computed together",
     [](Parse& p, std::string_view v) { return number(v, 1, kMax, p.options.context.n_ubatch); }},
    {"-t --threads", "", "LLAMA_ARG_THREADS", "N", "physical cores", "threads while generating",
     [](Parse& p, std::string_view v) { return threads(v, p.options.context.n_threads); }},
    {"-tb --threads-batch", "", "", "N", "as --threads", "threads while reading a prompt",
     [](Parse& p, std::string_view v) { return threads(v, p.options.context.n_threads_batch); }},
    {"-np --parallel", "", "LLAMA_ARG_N_PARALLEL", "N", "4, with --kv-unified",
     "requests worked on at once; the context is shared out among them",
     [](Parse& p, std::string_view v) {
       int n = 0;
       Why why = number(v, -1, 1024, n);
       if (why.empty() && n == 0) {
         why = "0 is no number of sequences; use 1 or more, or -1 for the default";
       }
       p.options.parallel = n;
       return why;
     }},
    {"-kvu --kv-unified", "-no-kvu --no-kv-unified", "LLAMA_ARG_KV_UNIFIED", "", "off where -np is given",
     "every sequence may fill the whole context, as far as the others leave room",
     [](Parse& p, std::string_view v) { return p.options.kv_unified = v == "1", Why(); }},
    {"-cb --cont-batching", "-nocb --no-cont-batching", "LLAMA_ARG_CONT_BATCHING", "", "on",
     "sequences are evaluated together; here always",
     [](Parse& p, std::string_view v) {
       if (v != "1") {
         p.warnings.emplace_back("--no-cont-batching is ignored: sequences are always evaluated together");
       }
       return Why();
     }},
    {"-ctk --cache-type-k", "", "LLAMA_ARG_CACHE_TYPE_K", "TYPE", "f16", "type of the cache's keys",
     [](Parse& p, std::string_view v) { return cache_type(v, p.options.context.cache_type_k); }},
    {"-ctv --cache-type-v", "", "LLAMA_ARG_CACHE_TYPE_V", "TYPE", "f16", "type of the cache's values",
     [](Parse& p, std::string_view v) { return cache_type(v, p.options.context.cache_type_v); }},
    {"--activations", "", "", "TYPE", "q8",
     "what quantized weights and keys are multiplied with: q8, activations rounded to int8; f32, exact and "
     "slower",
     [](Parse& p, std::string_view v) {
       p.options.context.activations = v;
       return one_of(v, {"q8", "f32"});
     }},
    {"--kv-rotate", "", "LLAMA_ARG_KV_ROTATE", "on|off|auto", "auto",
     "quantized caches are stored rotated: auto = each type as it keeps more of the model; tbq types always "
     "are",
     [](Parse& p, std::string_view v) {
       p.options.context.kv_rotate = v;
       return one_of(v, {"on", "off", "auto"});
     }},
    {"--kv-first-last", "", "LLAMA_ARG_KV_FIRST_LAST", "TYPE,N", "off",
     "the first N and the last N layers store K and V as TYPE; N at most half of the layers",
     [](Parse& p, std::string_view v) {
       p.options.context.kv_first_last = v;
       const auto edges = parse_first_last(v);
       return edges ? Why() : fmt::format("{}; {}", edges.failure().what, edges.failure().next);
     }},
    {"--kv-center", "", "LLAMA_ARG_KV_CENTER", "off|on|FILE", "off",
     "take the model's mean key and value from every row before it is stored: on = measured once and kept in "
     "MODEL.kv-means; FILE = that file of means",
     [](Parse& p, std::string_view v) {
       p.options.context.kv_center = v;
       return v.empty() ? Why("write off, on or a file of means") : Why();
     }},
    {"--kv-sink", "", "LLAMA_ARG_KV_SINK", "N", "0",
     "keys and values of the first N tokens, up to a multiple of 128, are kept in f16 too and read from "
     "there",
     [](Parse& p, std::string_view v) { return number(v, 0, kMax / 2, p.options.context.kv_sink); }},
    {"--kv-tail", "", "LLAMA_ARG_KV_TAIL", "N", "0",
     "so are those of the last N tokens before each query; for quantized caches",
     [](Parse& p, std::string_view v) { return number(v, 0, kMax / 2, p.options.context.kv_tail); }},
    {"-fa --flash-attn", "", "LLAMA_ARG_FLASH_ATTN", "on|off|auto", "auto",
     "attention here is always fused; off is refused with a quantized V cache, as in llama-server",
     [](Parse& p, std::string_view v) {
       Why why = one_of(v, {"on", "off", "auto"});
       if (why.empty() && v == "off") {
         p.warnings.emplace_back(
             "--flash-attn off is ignored: this engine has one attention path, and it is fused");
       }
       p.options.flash_attn = v;
       return why;
     }},
    {"-ngl --gpu-layers --n-gpu-layers", "", "LLAMA_ARG_N_GPU_LAYERS", "N|auto|all", "auto",
     "layers on the GPU, the last ones; the output counts as one; auto and all: everything, where there is a "
     "GPU",
     [](Parse& p, std::string_view v) {
       int& n = p.options.context.n_gpu_layers;
       n = v == "auto" ? kAutoLayers : kAllLayers;
       Why why = v == "auto" || v == "all" ? "" : number(v, kAllLayers, kMax, n);
       if (v != "auto" && v != "0" && !gpu_built()) {
         p.warnings.emplace_back("no usable GPU found, --gpu-layers option will be ignored");
       }
       return why;
     }},
    {"--fit", "", "LLAMA_ARG_FIT", "on|off", "off",
     "llama-server's fitting of unset options; here always off",
     [](Parse& p, std::string_view v) {
       if (v == "on") {
         p.warnings.emplace_back("--fit on is ignored: options are used as given");
       }
       return one_of(v, {"on", "off"});
     }},
    {"--numa", "", "LLAMA_ARG_NUMA", "TYPE", "", "distribute, isolate or numactl; ignored",
     [](Parse& p, std::string_view v) {
       p.warnings.emplace_back("--numa is ignored: this build does not place threads or memory");
       return one_of(v, {"distribute", "isolate", "numactl"});
     }},
    {"-lm --load-mode", "", "LLAMA_ARG_LOAD_MODE", "MODE", "auto", "auto, none, mmap, mlock or mmap+mlock",
     load_mode},
    {"--mmap", "--no-mmap", "LLAMA_ARG_MMAP", "", "on", "map the model file instead of reading it",
     [](Parse& p, std::string_view v) { return p.options.mmap = v == "1", Why(); }},
    {"--mlock", "", "LLAMA_ARG_MLOCK", "", "off", "keep the model in memory",
     [](Parse& p, std::string_view v) { return p.options.mlock = v == "1", Why(); }},
};

constexpr Flag kBehaviourFlags[] = {
    {"--warmup", "--no-warmup", "", "", "on", "one token before the server is ready",
     [](Parse& p, std::string_view v) { return p.options.warmup = v == "1", Why(); }},
    {"--cache-prompt", "--no-cache-prompt", "LLAMA_ARG_CACHE_PROMPT", "", "on",
     "reuse the common prefix of successive prompts",
     [](Parse& p, std::string_view v) { return p.options.cache_prompt = v == "1", Why(); }},
    {"--spec-type", "", "LLAMA_ARG_SPEC_TYPE", "TYPE", "none",
     "none or ngram-mod: guess from what the sequence had before; answers stay the same",
     [](Parse& p, std::string_view v) { return spec_type(v, p.options.speculation.ngram); }},
    {"--spec-ngram-mod-n-min", "", "", "N", "48", "least tokens of a guess; over n-max: n-max",
     [](Parse& p, std::string_view v) { return number(v, 0, 1024, p.options.speculation.n_min); }},
    {"--spec-ngram-mod-n-max", "", "", "N", "64", "most tokens of a guess",
     [](Parse& p, std::string_view v) { return number(v, 1, 1024, p.options.speculation.n_max); }},
    {"--spec-ngram-mod-n-match", "", "", "N", "24", "tokens that must have come before in this order",
     [](Parse& p, std::string_view v) { return number(v, 1, 1024, p.options.speculation.n_match); }},
    {"--slots", "--no-slots", "LLAMA_ARG_ENDPOINT_SLOTS", "", "on", "GET /slots: what each sequence does",
     [](Parse& p, std::string_view v) { return p.options.slots = v == "1", Why(); }},
    {"--slot-save-path", "", "", "DIR", "",
     "POST /slots/N?action=save, restore or erase; files are in this directory",
     [](Parse& p, std::string_view v) { return directory(v, p.options.slot_save_path); }},
    {"--metrics", "", "LLAMA_ARG_ENDPOINT_METRICS", "", "off", "GET /metrics: counters for Prometheus",
     [](Parse& p, std::string_view v) { return p.options.metrics = v == "1", Why(); }},
    {"--reconfigure", "--no-reconfigure", "", "", "on",
     "POST /reconfigure changes the context, its cache types, slots, batch sizes and threads without a new "
     "process",
     [](Parse& p, std::string_view v) { return p.options.reconfigure = v == "1", Why(); }},
    {"-cram --cache-ram", "", "LLAMA_ARG_CACHE_RAM", "N", "0",
     "llama-server's copies of old prompts; here there are none",
     [](Parse& p, std::string_view v) {
       int n = 0;
       Why why = number(v, -1, kMax, n);
       if (why.empty() && n != 0) {
         p.warnings.emplace_back("--cache-ram is ignored: this server keeps no copies of old prompts");
       }
       return why;
     }},
    {"-s --seed", "", "", "N", "-1", "seed of sampling; -1: a random one",
     [](Parse& p, std::string_view v) {
       int64_t seed = 0;
       Why why = number<int64_t>(v, -1, 0xFFFFFFFF, seed);
       p.options.sampling.seed = static_cast<uint32_t>(seed);
       return why;
     }},
    {"--temp --temperature", "", "", "N", "0.8", "temperature; 0: always the best token",
     [](Parse& p, std::string_view v) { return number(v, 0.0F, 1000.0F, p.options.sampling.temperature); }},
    {"--top-k", "", "LLAMA_ARG_TOP_K", "N", "40", "draw from the K best tokens; 0: all",
     [](Parse& p, std::string_view v) { return number(v, 0, kMax, p.options.sampling.top_k); }},
    {"--top-p", "", "", "N", "0.95", "draw from the best tokens that together have this probability; 1: all",
     [](Parse& p, std::string_view v) { return number(v, 0.0F, 1.0F, p.options.sampling.top_p); }},
    {"--min-p", "", "", "N", "0.05", "least probability, relative to the best token's; 0: any",
     [](Parse& p, std::string_view v) { return number(v, 0.0F, 1.0F, p.options.sampling.min_p); }},
    {"--ignore-eos", "", "", "", "off", "never draw a token that ends generation",
     [](Parse& p, std::string_view v) { return p.options.sampling.ignore_eos = v == "1", Why(); }},
    {"-lv --verbosity --log-verbosity", "", "LLAMA_ARG_LOG_VERBOSITY", "N", "3",
     "0 nothing, 1 errors, 2 warnings, 3 information, 4 and 5 more",
     [](Parse& p, std::string_view v) { return number(v, 0, 5, p.options.verbosity); }},
};

constexpr Flag kChatFlags[] = {
    {"--chat-template", "", "LLAMA_ARG_CHAT_TEMPLATE", "NAME|TEXT", "the model's",
     "family of chat templates by name (chatml, qwen3, llama-3.1, ...), or a template of such a family",
     [](Parse& p, std::string_view v) { return set_chat_template(p.options.chat, v); }},
    {"--chat-template-file", "", "LLAMA_ARG_CHAT_TEMPLATE_FILE", "FILE", "", "the same from a file",
     [](Parse& p, std::string_view v) { return set_chat_template_file(p.options.chat, v); }},
    {"--chat-template-kwargs", "", "LLAMA_ARG_CHAT_TEMPLATE_KWARGS", "JSON", "",
     "only {\"enable_thinking\": false} has an effect, that of --reasoning off",
     [](Parse& p, std::string_view v) {
       return set_chat_template_kwargs(p.options.chat.reasoning, v, p.warnings);
     }},
    {"--jinja", "--no-jinja", "LLAMA_ARG_JINJA", "", "off",
     "ignored: templates are recognised and rendered by this server itself",
     [](Parse& p, std::string_view v) {
       p.warnings.push_back(
           fmt::format("--{}jinja is ignored: chat templates are recognised and rendered by this server "
                       "itself, never run",
                       v == "1" ? "" : "no-"));
       return Why();
     }},
    {"--reasoning-format", "", "LLAMA_ARG_THINK", "FORMAT", "auto",
     "where thinking goes: none: into the answer; auto, deepseek, deepseek-legacy: reasoning_content",
     [](Parse& p, std::string_view v) { return set_reasoning_format(p.options.chat.reasoning, v); }},
    {"-rea --reasoning", "", "LLAMA_ARG_REASONING", "on|off|auto", "auto", "whether models that can think do",
     [](Parse& p, std::string_view v) { return set_reasoning(p.options.chat.reasoning, v); }},
    {"--reasoning-effort", "", "LLAMA_ARG_REASONING_EFFORT", "LEVEL", "default",
     "ignored: no template here takes one",
     [](Parse& p, std::string_view v) {
       if (v != "default") {
         p.warnings.emplace_back(
             "--reasoning-effort is ignored: no template here takes one; see --reasoning-budget");
       }
       return Why();
     }},
    {"--reasoning-budget", "", "LLAMA_ARG_THINK_BUDGET", "N", "-1",
     "tokens of thinking, after which it is ended; -1: no limit; 0: at once",
     [](Parse& p, std::string_view v) { return number(v, -1, kMax, p.options.chat.reasoning.budget); }},
    {"--reasoning-budget-message", "", "LLAMA_ARG_THINK_BUDGET_MESSAGE", "TEXT", "",
     "said before the end of thinking that ran out of its budget",
     [](Parse& p, std::string_view v) { return p.options.chat.reasoning.budget_message = v, Why(); }},
};

constexpr auto kFlags = [] {
  std::array<Flag, std::size(kSetupFlags) + std::size(kBehaviourFlags) + std::size(kChatFlags)> all{};
  auto at = std::copy(std::begin(kSetupFlags), std::end(kSetupFlags), all.begin());
  at = std::copy(std::begin(kBehaviourFlags), std::end(kBehaviourFlags), at);
  std::copy(std::begin(kChatFlags), std::end(kChatFlags), at);
  return all;
}();

}  // namespace

std::span<const Flag> server_flags() {
  return kFlags;
}

}  // namespace engine
