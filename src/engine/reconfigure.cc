#include "src/engine/reconfigure.h"

#include <fmt/format.h>

#include "src/base/fnv.h"
#include "src/base/suggest.h"
#include "src/base/version.h"

namespace engine {
namespace {

struct Axis {
  std::string_view name, flag;
};

constexpr Axis kAxes[] = {
    {"ctx_size", "--ctx-size"},
    {"cache_type_k", "--cache-type-k"},
    {"cache_type_v", "--cache-type-v"},
    {"kv_rotate", "--kv-rotate"},
    {"kv_first_last", "--kv-first-last"},
    {"kv_center", "--kv-center"},
    {"kv_sink", "--kv-sink"},
    {"kv_tail", "--kv-tail"},
    {"n_batch", "--batch-size"},
    {"n_ubatch", "--ubatch-size"},
    {"n_threads", "--threads"},
    {"n_threads_batch", "--threads-batch"},
    {"activations", "--activations"},
    {"flash_attn", "--flash-attn"},
    {"parallel", "--parallel"},
    {"n_draft", ""},  // several flags: set_draft()
};

// 0: no speculation; else guesses of exactly that many tokens.
std::string set_draft(ServerOptions& options, const std::string& count, std::vector<std::string>& warnings) {
  if (count == "0") {
    return set_server_option(options, "--spec-type", "none", warnings);
  }
  std::string why = set_server_option(options, "--spec-type", "ngram-mod", warnings);
  for (const char* flag : {"--spec-ngram-mod-n-min", "--spec-ngram-mod-n-max"}) {
    why = why.empty() ? set_server_option(options, flag, count, warnings) : why;
  }
  return why;
}

}  // namespace

std::vector<std::string> reconfigurable_axes() {
  std::vector<std::string> names;
  for (const Axis& axis : kAxes) {
    names.emplace_back(axis.name);
  }
  return names;
}

MaybeError parse_reconfiguration(const std::string& body, ServerOptions& options,
                                 std::vector<std::string>& warnings) {
  auto json = base::parse_json(body, "");
  if (!json) {
    return invalid_request(json.failure().what);
  }
  if (!json->is_object()) {
    return invalid_request("the request's body must be a JSON object");
  }
  ServerOptions changed = options;
  if (options.context.kv_center != "on" && options.context.kv_center != "off") {
    changed.named_means = options.context.kv_center;
  }
  for (const auto& [key, value] : json->items()) {
    const Axis* axis = nullptr;
    for (const Axis& row : kAxes) {
      axis = row.name == key ? &row : axis;
    }
    if (axis == nullptr) {
      const std::vector<std::string> names = reconfigurable_axes();
      const std::string meant = base::closest(key, names);
      return invalid_request(fmt::format(
          "Field '{}': cannot be changed while the server runs{}; one of: {}", key,
          meant.empty() ? "" : fmt::format(" (did you mean '{}'?)", meant), fmt::join(names, ", ")));
    }
    if (!value.is_string() && !value.is_number()) {
      return invalid_request(
          fmt::format("Field '{}': must be a number or a string, as on the command line, "
                      "but is {}",
                      key, value.type_name()));
    }
    const std::string text = value.is_string() ? value.get<std::string>() : base::dump_line(value);
    // A request names no files of the server's, but for the one it was started with.
    if (key == "kv_center" && text != "on" && text != "off" &&
        (text.empty() || text != changed.named_means)) {
      return invalid_request(fmt::format("Field 'kv_center': '{}' is none of: on, off", text));
    }
    const std::string why = axis->flag.empty() ? set_draft(changed, text, warnings)
                                               : set_server_option(changed, axis->flag, text, warnings);
    if (!why.empty()) {
      return invalid_request(fmt::format("Field '{}': {}", key, why));
    }
  }
  if (auto fine = check_server_options(changed); !fine) {
    return invalid_request(fine.failure().to_string());
  }
  options = std::move(changed);
  return std::nullopt;
}

std::string numerics_key(const Model& model, const ContextInfo& info, const ChatOptions& chat) {
  const ReasoningOptions& reasoning = chat.reasoning;
  const std::string text =
      fmt::format("{:016x}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}", model.fingerprint,
                  info.cache_type_k, info.cache_type_v, info.k_rotated, info.v_rotated,
                  info.edge_layers > 0 ? fmt::format("{} {}", info.kv_first_last, info.edge_rotated) : "",
                  info.kv_center_id, info.exact_sink, info.exact_tail, info.activations, info.backend,
                  info.n_gpu_layers > 0 ? fmt::format("{} {}", info.n_gpu_layers, info.n_ubatch) : "",
                  base::version(), base::commit(), reasoning.thinking, reasoning.split, reasoning.budget,
                  reasoning.budget_message, chat.chat_template ? chat.chat_template->text() : "");
  return fmt::format("{:016x}", base::fnv1a(text));
}

}  // namespace engine
