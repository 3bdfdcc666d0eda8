#include "src/study/in_place.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace study {
namespace {

// What the bundled server's /reconfigure takes; a running one tells its own list.
constexpr std::array<std::string_view, 16> kBundledAxes = {
    "ctx_size",        "cache_type_k", "cache_type_v", "kv_rotate", "kv_first_last", "kv_center",
    "kv_sink",         "kv_tail",      "activations",  "n_batch",   "n_ubatch",      "n_threads",
    "n_threads_batch", "flash_attn",   "parallel",     "n_draft"};
constexpr const char* kOffSwitch = "--no-reconfigure";

bool contains(const std::vector<std::string>& list, std::string_view entry) {
  return std::find(list.begin(), list.end(), entry) != list.end();
}

std::vector<std::string> texts(const base::Json& object, const char* key) {
  std::vector<std::string> list;
  if (!object.is_object() || !object.contains(key) || !object[key].is_array()) {
    return list;
  }
  for (const base::Json& entry : object[key]) {
    if (entry.is_string()) {
      list.push_back(entry.get<std::string>());
    }
  }
  return list;
}

// As on the command line.
base::Json wire_value(const search::Value& value) {
  if (const bool* on = std::get_if<bool>(&value)) {
    return *on ? "on" : "off";
  }
  return std::visit([](const auto& held) { return base::Json(held); }, value);
}

// Whether every answer of a needle result says something of the numbers alone, and its prompts fit here too.
bool depends_on_numerics_alone(const base::Json& needle, int64_t n_ctx) {
  auto rows = needle.find("rows");
  if (rows == needle.end() || !rows->is_array()) {
    return false;
  }
  return std::all_of(rows->begin(), rows->end(), [&](const base::Json& row) {
    std::string verdict = base::json_get<std::string>(row, "verdict", "");
    return verdict != "error" && verdict != "timed_out" &&
           (n_ctx <= 0 || base::json_get<int64_t>(row, "prompt_tokens", 0) < n_ctx);
  });
}

}  // namespace

std::vector<std::string> in_place_axes(const Study& study, const ServerProgram& program) {
  std::vector<std::string> axes;
  std::vector<std::string> known = program.reconfigurable;
  if (program.kind == BackendKind::kTbqServer && program.flags.has(kOffSwitch) &&
      !contains(study.backend.args, kOffSwitch)) {
    known.assign(kBundledAxes.begin(), kBundledAxes.end());
  }
  if (study.backend.reuse == Reuse::kNever) {
    return axes;
  }
  for (const search::Axis& axis : study.space.axes) {
    if (contains(known, axis.name) && !study.bindings.contains(axis.name)) {
      axes.push_back(axis.name);
    }
  }
  return axes;
}

std::vector<std::string> offered_axes(const base::Json& effective) {
  return effective.is_object() && effective.contains("tbq") ? texts(effective["tbq"], "reconfigure")
                                                            : std::vector<std::string>();
}

std::vector<std::string> recorded_in_place_axes(const base::Json& header) {
  return texts(header, "in_place");
}

std::optional<base::Json> reconfigure_body(const Study& study, const search::Config* from,
                                           const search::Config& to,
                                           const std::vector<std::string>& offered) {
  base::Json changed = base::Json::object(), all = base::Json::object();
  for (size_t i = 0; i < study.space.axes.size() && i < to.size(); ++i) {
    const std::string& name = study.space.axes[i].name;
    bool differs = from == nullptr || i >= from->size() || (*from)[i] != to[i];
    bool possible = contains(offered, name) && !study.bindings.contains(name);
    if (possible) {
      all[name] = wire_value(to[i]);
      if (differs) {
        changed[name] = all[name];
      }
    } else if (differs) {
      return std::nullopt;
    }
  }
  if (all.empty()) {
    return std::nullopt;  // such a server would only be asked to stay as it is
  }
  return changed.empty() ? all : changed;
}

bool cite(const ProbeOptions& probes, const TrialContext& context, int64_t n_ctx, TrialRecord& record) {
  if (context.known == nullptr || record.numerics_key.empty()) {
    return false;
  }
  auto found = context.known->find(record.numerics_key);
  if (found == context.known->end()) {
    return false;
  }
  const NumericsResult& known = found->second;
  if ((probes.quality && !known.quality.is_object()) || (probes.needle && !known.needle.is_object()) ||
      (probes.perplexity && !known.perplexity.is_object()) ||
      (probes.needle && !depends_on_numerics_alone(known.needle, n_ctx))) {
    return false;
  }
  record.quality = known.quality;
  record.needle = known.needle;
  record.perplexity = known.perplexity;
  record.cited_trial_id = known.trial_id;
  for (const auto& [name, value] : known.values) {
    record.metrics.values[name] = value;
  }
  record.metrics.quality_items = known.quality_items;
  return true;
}

}  // namespace study
