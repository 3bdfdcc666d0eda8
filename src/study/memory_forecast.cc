// The forecast of a study: its settings per configuration, this host's capacity, the check before the first launch.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "src/base/log.h"
#include "src/base/units.h"
#include "src/os/gpu.h"
#include "src/os/host.h"
#include "src/os/proc.h"
#include "src/study/header.h"
#include "src/study/memory_estimate.h"

namespace study {
namespace {

constexpr uint64_t kAllLayers = uint64_t{1} << 32;

// The value behind the last of these flags in backend.args.
std::optional<std::string> argument(const Study& study, std::initializer_list<std::string_view> spellings) {
  const std::vector<std::string>& args = study.backend.args;
  for (size_t i = args.size(); i > 1; --i) {
    if (std::find(spellings.begin(), spellings.end(), args[i - 2]) != spellings.end()) {
      return args[i - 1];
    }
  }
  return std::nullopt;
}

bool has_argument(const Study& study, std::initializer_list<std::string_view> spellings) {
  return std::any_of(study.backend.args.begin(), study.backend.args.end(), [&](const std::string& arg) {
    return std::find(spellings.begin(), spellings.end(), arg) != spellings.end();
  });
}

std::optional<uint64_t> whole(std::string_view text) {
  uint64_t value = 0;
  auto [rest, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
  return bad == std::errc() && rest == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

bool truthy(std::string_view text) {
  return text == "true" || text == "on" || text == "1";
}

}  // namespace

MemorySettings memory_settings(const Study& study, const search::Config& config) {
  auto given = [&](std::string_view axis,
                   std::initializer_list<std::string_view> flags) -> std::optional<std::string> {
    size_t index = study.space.index_of(axis);
    return index < config.size() ? std::optional(search::to_string(config[index])) : argument(study, flags);
  };
  MemorySettings settings;
  // 0 asks for the model's own context; what has no flag at all is the server's choice.
  if (auto n_ctx = whole(given("ctx_size", {"-c", "--ctx-size"}).value_or("")); n_ctx && *n_ctx > 0) {
    settings.n_ctx = n_ctx;
  }
  settings.cache_type_k = given("cache_type_k", {"-ctk", "--cache-type-k"}).value_or("f16");
  settings.cache_type_v = given("cache_type_v", {"-ctv", "--cache-type-v"}).value_or("f16");
  const std::string edges = given("kv_first_last", {"--kv-first-last"}).value_or("off");
  if (const size_t comma = edges.find(','); comma != std::string::npos) {
    settings.edge_type = edges.substr(0, comma);
    settings.edge_layers = whole(std::string_view(edges).substr(comma + 1)).value_or(0);
  }
  settings.kv_center = given("kv_center", {"--kv-center"}).value_or("off") != "off";
  settings.kv_sink = whole(given("kv_sink", {"--kv-sink"}).value_or("0")).value_or(0);
  settings.kv_tail = whole(given("kv_tail", {"--kv-tail"}).value_or("0")).value_or(0);
  settings.n_ubatch = whole(given("n_ubatch", {"-ub", "--ubatch-size"}).value_or("512")).value_or(512);
  settings.n_ubatch = std::min(
      settings.n_ubatch, whole(given("n_batch", {"-b", "--batch-size"}).value_or("2048")).value_or(2048));
  settings.n_threads = whole(given("n_threads", {"-t", "--threads"}).value_or("0")).value_or(0);
  settings.own_threads = settings.n_threads == 0;
  settings.n_threads =
      std::max(settings.n_threads,
               whole(given("n_threads_batch", {"-tb", "--threads-batch"}).value_or("0")).value_or(0));
  settings.n_slots = whole(given("parallel", {"-np", "--parallel"}).value_or("1")).value_or(1);
  if (!has_argument(study, {"-kvu", "--kv-unified"})) {
    settings.n_seqs = settings.n_slots;
  }
  settings.flash_attn = given("flash_attn", {"-fa", "--flash-attn"}).value_or("on") != "off";
  settings.mmap = truthy(given("mmap", {}).value_or("true")) && !has_argument(study, {"--no-mmap"});
  settings.mlock = truthy(given("mlock", {}).value_or("false")) || has_argument(study, {"--mlock"});
  if (auto layers = given("n_gpu_layers", {"-ngl", "--n-gpu-layers", "--gpu-layers"})) {
    settings.n_gpu_layers = *layers == "all" ? kAllLayers : whole(*layers);
  }
  settings.moved = has_argument(study, {"-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe",
                                        "--n-cpu-moe", "--rpc", "-lm", "--load-mode", "-dio", "--direct-io"});
  for (const auto& [name, value] : study.backend.env) {
    settings.moved = settings.moved || name.starts_with("LLAMA_ARG_");
  }
  for (const auto& [axis, binding] : study.bindings) {
    // An axis of the user's own may place anything anywhere; only those we know by name are counted on.
    for (std::string_view word : {"moe", "tensor", "offload", "rpc", "load-mode", "device"}) {
      settings.moved = settings.moved || binding.flag.find(word) != std::string::npos;
    }
  }
  return settings;
}

HostCapacity read_host_capacity(const Study& study) {
  HostCapacity host;
  const os::MemInfo memory = os::read_meminfo();
  host.memory = std::min(memory.total, os::cgroup_memory_limit());
  host.swap = memory.swap_total;
  for (const os::GpuState& gpu : os::read_gpus()) {
    host.has_gpu = true;
    host.gpu += gpu.memory_total.value_or(0);
  }
  host.lockable = os::lockable_memory();
  host.cores = static_cast<uint64_t>(std::max(1, os::usable_cores()));
  host.floor = static_cast<uint64_t>(std::max(0.0, study.probes.min_headroom_gib) * (1 << 30));
  return host;
}

base::Result<MemoryForecast> MemoryForecast::make(const Study& study, const HostCapacity& host) {
  MemoryForecast forecast(study, host);
  if (study.backend.kind != BackendKind::kTbqServer && study.backend.kind != BackendKind::kLlamaServer) {
    return forecast;
  }
  for (const std::string& path : model_paths(study)) {
    auto shape = load_model_shape(path);
    if (!shape) {
      return shape.failure();
    }
    if (*shape) {
      forecast.shapes_.emplace_back(path, std::move(**shape));
    }
  }
  return forecast;
}

const ModelShape* MemoryForecast::shape_of(const search::Config& config) const {
  size_t axis = study_->space.index_of("model");
  std::string path = axis < config.size() ? search::to_string(config[axis]) : study_->model;
  for (const auto& [known, shape] : shapes_) {
    if (known == path) {
      return &shape;
    }
  }
  return nullptr;
}

MemorySettings MemoryForecast::settings(const search::Config& config) const {
  MemorySettings settings = memory_settings(*study_, config);
  const ModelShape* shape = shape_of(config);
  if (settings.own_threads) {  // one for each core
    settings.n_threads = std::max(settings.n_threads, host_.cores);
  }
  settings.mlock = settings.mlock && shape != nullptr && host_.lockable >= shape->weight_bytes;
  return settings;
}

MemoryEstimate MemoryForecast::estimate(const search::Config& config) const {
  const ModelShape* shape = shape_of(config);
  return shape == nullptr ? MemoryEstimate{}
                          : estimate_memory(*shape, settings(config), study_->backend.kind, host_.has_gpu);
}

std::string MemoryForecast::cannot_fit(const search::Config& config) const {
  return why_it_cannot_fit(estimate(config), settings(config), host_);
}

base::Result<void> MemoryForecast::check_default() const {
  search::Config config = study_->space.default_config();
  std::string why = cannot_fit(config);
  if (why.empty()) {
    return {};
  }
  std::string next = "use a smaller model or cache type, or a machine with more memory";
  size_t axis = study_->space.index_of("ctx_size");
  if (axis < config.size()) {
    const std::vector<search::Value>& values = study_->space.axes[axis].values;
    for (auto value = values.rbegin(); value != values.rend(); ++value) {
      config[axis] = *value;
      if (cannot_fit(config).empty()) {
        next = fmt::format("make ctx_size {} the default: it is the largest of its values that can fit",
                           search::to_string(*value));
        break;
      }
    }
  }
  return base::error("the default configuration", "does not fit into memory: " + why, next);
}

base::Result<void> check_default_fits(const Study& study) {
  auto forecast = MemoryForecast::make(study, read_host_capacity(study));
  if (!forecast) {
    return forecast.failure();
  }
  return forecast->check_default();
}

std::function<std::string(const search::Config&)> make_cannot_fit(const Study& study) {
  auto forecast = MemoryForecast::make(study, read_host_capacity(study));
  if (!forecast) {
    base::log_warn("no forecast of memory, every configuration is tried: {}", forecast.failure().to_string());
    return {};
  }
  return [known = std::move(*forecast)](const search::Config& config) { return known.cannot_fit(config); };
}

}  // namespace study
