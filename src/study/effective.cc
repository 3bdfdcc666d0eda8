#include "src/study/effective.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "src/report/text.h"

namespace study {
namespace {

// The fields of the server's own block in /props that an axis can be compared with.
struct ToldField {
  std::string_view axis;
  const char* key;
  bool capped;  // larger values are cut down to what can be used
};
constexpr std::array<ToldField, 16> kTold = {{
    {"cache_type_k", "cache_type_k", false},
    {"cache_type_v", "cache_type_v", false},
    {"kv_rotate", "kv_rotate", false},
    {"kv_first_last", "kv_first_last", false},
    {"kv_center", "kv_center", false},
    {"kv_sink", "kv_sink", false},
    {"kv_tail", "kv_tail", false},
    {"activations", "activations", false},
    {"n_batch", "n_batch", true},
    {"n_ubatch", "n_ubatch", true},
    {"n_threads", "n_threads", false},
    {"n_threads_batch", "n_threads_batch", false},
    {"flash_attn", "flash_attn", false},
    {"parallel", "n_parallel", false},
    {"mmap", "mmap", false},
    {"mlock", "mlock", false},
}};

// What a server was started with, and the axes by which a trial changes it, itself or through another: batches are cut
// down to the context, a second thread count is the first where it is not given.
struct StartSetting {
  const char* key;
  std::array<std::string_view, 4> axes;
  bool own = true;  // in the server's own block
};
constexpr std::array<StartSetting, 24> kStartSettings = {{
    {"model", {}, false},  // of a server without /props
    {"model_path", {"model"}, false},
    {"n_ctx", {"ctx_size", "parallel"}, false},
    {"total_slots", {"parallel"}, false},
    {"cache_type_k", {"cache_type_k"}},
    {"cache_type_v", {"cache_type_v"}},
    {"kv_rotate", {"kv_rotate"}},
    {"kv_first_last", {"kv_first_last"}},
    {"kv_center", {"kv_center"}},
    {"kv_center_id", {"kv_center", "ctx_size", "parallel"}},
    {"kv_sink", {"kv_sink"}},
    {"kv_tail", {"kv_tail"}},
    {"activations", {"activations"}},
    {"n_batch", {"n_batch", "ctx_size", "parallel"}},
    {"n_ubatch", {"n_ubatch", "n_batch", "ctx_size", "parallel"}},
    {"n_threads", {"n_threads"}},
    {"n_threads_batch", {"n_threads_batch", "n_threads"}},
    {"flash_attn", {"flash_attn"}},
    {"kv_unified", {"parallel"}},
    {"n_gpu_layers", {"n_gpu_layers"}},
    {"n_draft", {"n_draft"}},
    {"mmap", {"mmap"}},
    {"mlock", {"mlock"}},
    {"backend", {}},
}};

std::string plain_text(const base::Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
}

// A server's words in a message: a few, and nothing that a terminal obeys.
std::string shown(const base::Json& value) {
  constexpr size_t kMostShown = 120;
  return report::fit(report::printable(plain_text(value)), kMostShown);
}

}  // namespace

base::Json effective_config(const base::Json& props) {
  base::Json effective = base::Json::object();
  const base::Json settings = props.is_object() && props.contains("default_generation_settings")
                                  ? props["default_generation_settings"]
                                  : base::Json::object();
  if (int64_t n_ctx = base::json_get<int64_t>(settings, "n_ctx", 0); n_ctx > 0) {
    effective["n_ctx"] = n_ctx;  // of one slot
  }
  for (const char* key : {"total_slots", "model_path", "model_alias", "build_info", "tbq"}) {
    if (props.is_object() && props.contains(key)) {
      effective[key] = props[key];
    }
  }
  return effective;
}

base::Json told_axes(const search::Space& space, const base::Json& effective) {
  base::Json told = base::Json::object();
  const base::Json block =
      effective.is_object() ? effective.value("tbq", base::Json::object()) : base::Json::object();
  for (const search::Axis& axis : space.axes) {
    const auto* field =
        std::find_if(kTold.begin(), kTold.end(), [&](const ToldField& row) { return row.axis == axis.name; });
    const std::string key = field == kTold.end() ? axis.name : field->key;
    if (axis.name == "ctx_size") {
      const int64_t slots = std::max<int64_t>(1, base::json_get<int64_t>(effective, "total_slots", 1));
      if (int64_t n_ctx = base::json_get<int64_t>(effective, "n_ctx", 0); n_ctx > 0) {
        told[axis.name] = n_ctx * slots;
      }
    } else if (block.is_object() && block.contains(key)) {
      const base::Json& value = block[key];
      if (value.is_boolean()) {
        told[axis.name] = value.get<bool>() ? "on" : "off";
      } else if (value.is_number() || value.is_string()) {
        told[axis.name] = value;
      }
    }
  }
  return told;
}

std::string config_mismatch(const search::Space& space, const search::Config& config,
                            const base::Json& effective) {
  auto asked = [&](std::string_view axis) -> const search::Value* {
    size_t index = space.index_of(axis);
    return index < config.size() ? &config[index] : nullptr;
  };
  auto whole = [&](std::string_view axis) {
    const search::Value* value = asked(axis);
    const int64_t* number = value == nullptr ? nullptr : std::get_if<int64_t>(value);
    return number == nullptr ? int64_t{0} : *number;
  };
  auto differs = [](std::string_view axis, const std::string& want, const std::string& runs) {
    return fmt::format("asked for {} {}, the server runs with {}", axis, want, runs);
  };
  int64_t ctx = whole("ctx_size");
  int64_t per_slot = base::json_get<int64_t>(effective, "n_ctx", 0);
  int64_t slots = base::json_get<int64_t>(effective, "total_slots", 0);
  // 0 asks for the model's own length; rounding up is no harm.
  if (ctx > 0 && per_slot > 0 && per_slot * std::max<int64_t>(1, slots) < ctx) {
    return differs("ctx_size", std::to_string(ctx), std::to_string(per_slot * std::max<int64_t>(1, slots)));
  }
  int64_t parallel = asked("parallel") == nullptr ? 0 : whole("parallel");
  if (parallel > 0 && slots > 0 && slots != parallel) {
    return differs("parallel", std::to_string(parallel), std::to_string(slots));
  }
  const base::Json block =
      effective.is_object() ? effective.value("tbq", base::Json::object()) : base::Json();
  for (const ToldField& field : kTold) {
    const search::Value* value = asked(field.axis);
    if (value == nullptr || !block.is_object() || !block.contains(field.key)) {
      continue;
    }
    std::string want = search::to_string(*value), runs = plain_text(block[field.key]);
    int64_t asked_number = whole(field.axis);
    // Servers cut batches down to the context, and a micro-batch to the batch.
    int64_t cap = field.capped ? std::min(per_slot > 0 ? per_slot : INT64_MAX,
                                          field.axis == "n_ubatch"
                                              ? base::json_get<int64_t>(block, "n_batch", INT64_MAX)
                                              : INT64_MAX)
                               : INT64_MAX;
    bool same = want == runs || want == "auto" || runs.empty() ||
                (field.capped && asked_number > cap && runs == std::to_string(cap));
    if (!same) {
      return differs(field.axis, want, runs);
    }
  }
  return "";
}

std::string changed_settings(const search::Space& space, const base::Json& then, const base::Json& now) {
  auto field = [](const base::Json& effective, const StartSetting& setting) -> base::Json {
    const base::Json own =
        effective.is_object() ? effective.value("tbq", base::Json::object()) : base::Json::object();
    const base::Json& from = setting.own ? own : effective;
    return from.is_object() ? from.value(setting.key, base::Json()) : base::Json();
  };
  std::string changed;
  for (const StartSetting& setting : kStartSettings) {
    const bool decided = std::any_of(setting.axes.begin(), setting.axes.end(), [&](std::string_view axis) {
      return !axis.empty() && space.find(axis) != nullptr;
    });
    const base::Json before = field(then, setting), today = field(now, setting);
    if (decided || before.is_null() || before == today) {
      continue;
    }
    changed += fmt::format("{}{} {}, now {}", changed.empty() ? "" : "; ", setting.key, shown(before),
                           today.is_null() ? "not told" : shown(today));
  }
  return changed;
}

std::optional<std::string> named_model(const base::Json& models, const std::vector<std::string>& names) {
  auto file_name = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
  auto matches = [&](const std::string& value) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return value == name || file_name(value) == file_name(name) || value + ".gguf" == file_name(name);
    });
  };
  for (const char* list : {"data", "models"}) {
    if (!models.is_object() || !models.contains(list) || !models[list].is_array()) {
      continue;
    }
    for (const base::Json& entry : models[list]) {
      for (const char* key : {"id", "name", "model"}) {
        std::string value = base::json_get<std::string>(entry, key, "");
        if (!value.empty() && (names.empty() || matches(value))) {
          return value;
        }
      }
      for (const base::Json& alias :
           entry.is_object() ? entry.value("aliases", base::Json::array()) : base::Json::array()) {
        if (alias.is_string() && matches(alias.get<std::string>())) {
          return alias.get<std::string>();
        }
      }
    }
  }
  return std::nullopt;
}

std::string another_model(const base::Json& models, const std::vector<std::string>& names) {
  auto id = named_model(models, {});
  const std::string wanted = names.empty() ? "" : fmt::format(", not '{}'", names.front());
  return id ? fmt::format("the server names another model: '{}'{}", shown(*id), wanted)
            : "the server's /v1/models names no model" + wanted;
}

}  // namespace study
