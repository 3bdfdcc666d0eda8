#include "tests/fake_server/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "src/base/version.h"
#include "src/os/files.h"

namespace fake {
namespace {

using base::Json;

constexpr std::string_view kBehaviours[] = {"ok",
                                            "hang-at-load",
                                            "503-forever",
                                            "exit-during-load",
                                            "oom",
                                            "crash-mid-probe",
                                            "garbage-json",
                                            "healthy-but-dead",
                                            "ignore-sigterm",
                                            "fork-away",
                                            "wrong-model",
                                            "too-fast",
                                            "endless-thinking",
                                            "slow",
                                            "cached",
                                            "killed-for-memory",
                                            "cut-off",
                                            "stranger"};

uint64_t hashed(uint64_t seed, std::string_view text) {
  for (char c : text) {
    seed = (seed ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  }
  return seed;
}

// Number of this launch, from 0, in a file that several processes count in.
base::Result<uint64_t> count_in(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return base::sys_error(path, "cannot open the launch counter", errno);
  }
  ::flock(fd, LOCK_EX);
  char text[32] = {};
  ssize_t got = ::pread(fd, text, sizeof text - 1, 0);
  uint64_t number = got > 0 ? std::strtoull(text, nullptr, 10) : 0;
  std::string next = std::to_string(number + 1);
  ssize_t put = ::pwrite(fd, next.data(), next.size(), 0);
  int failure = errno;
  ::close(fd);
  if (put != static_cast<ssize_t>(next.size())) {
    return base::sys_error(path, "cannot write the launch counter", failure);
  }
  return number;
}

// Names of the driver's axes that differ from the flags they become.
std::string flag_of(const std::string& axis) {
  static constexpr std::pair<const char*, const char*> kFlags[] = {{"n_batch", "batch_size"},
                                                                   {"n_ubatch", "ubatch_size"},
                                                                   {"n_threads", "threads"},
                                                                   {"n_threads_batch", "threads_batch"}};
  for (const auto& [name, flag] : kFlags) {
    if (axis == name) {
      return flag;
    }
  }
  return axis;
}

std::string as_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

std::string Launch::flag(const char* name, const char* fallback) const {
  auto found = flags.find(name);
  return found == flags.end() ? fallback : found->second;
}

int Launch::n_ctx() const {
  int asked = std::atoi(flag("ctx_size", "0").c_str());
  return scenario.n_ctx > 0 ? scenario.n_ctx : asked > 0 ? asked : 4096;
}

std::string Launch::model_id() const {
  return is("wrong-model")            ? "somebody-elses-model"
         : !scenario.model_id.empty() ? scenario.model_id
                                      : flag("alias", flag("model", "fake").c_str());
}

Json Launch::props() const {
  Json props = {{"default_generation_settings", {{"params", Json::object()}, {"n_ctx", n_ctx()}}},
                {"total_slots", std::max(1, std::atoi(flag("parallel", "1").c_str()))},
                {"model_alias", model_id()},
                {"model_path", flag("model", "fake")},
                {"chat_template", ""},
                {"build_info", "fake-" + std::string(base::version())}};
  Json tbq = Json::object();
  if (!scenario.reconfigure.empty()) {
    tbq["reconfigure"] = scenario.reconfigure;
  }
  if (scenario.numerics) {
    tbq["numerics_key"] = numerics_key(flags);
  }
  if (double mib = kv_mib(scenario, flags); mib > 0) {
    tbq["kv_bytes"] = static_cast<int64_t>(mib * (1 << 20));
  }
  if (!tbq.empty()) {
    tbq["n_ctx"] = n_ctx();
    tbq["cache_type_k"] = flag("cache_type_k", "f16");
    tbq["cache_type_v"] = flag("cache_type_v", "f16");
    for (const char* axis : {"n_batch", "n_ubatch", "n_threads", "n_threads_batch"}) {
      if (int value = std::atoi(flag(flag_of(axis).c_str(), "0").c_str()); value > 0) {
        tbq[axis] = value;
      }
    }
    if (std::string attention = flag("flash_attn", ""); !attention.empty()) {
      tbq["flash_attn"] = attention == "true" ? "on" : attention;
    }
    props["tbq"] = std::move(tbq);
  }
  if (scenario.props.is_object()) {
    props.merge_patch(scenario.props);
  }
  return props;
}

base::Result<Scenario> Script::judge(const Flags& flags) const {
  auto scenario = parse_scenario(text_, where_, flags);
  if (!scenario) {
    return scenario.failure();
  }
  if (!behaviour_.empty()) {
    scenario->behaviour = behaviour_;
  }
  if (std::find(std::begin(kBehaviours), std::end(kBehaviours), scenario->behaviour) ==
      std::end(kBehaviours)) {
    return base::error(where_, fmt::format("unknown behaviour {}", scenario->behaviour),
                       "see tests/fake_server/README.md");
  }
  return scenario;
}

base::Result<uint64_t> Script::next_number(const Scenario& scenario) {
  uint64_t here = launches_++;
  if (!scenario.launch_counter.empty()) {
    return count_in(scenario.launch_counter);
  }
  if (const char* seed = std::getenv("FAKE_SERVER_LAUNCH_SEED")) {
    return std::strtoull(seed, nullptr, 10) + here;
  }
  auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return static_cast<uint64_t>(now) * 65599 + static_cast<uint64_t>(::getpid()) + here;
}

base::Result<std::shared_ptr<const Launch>> Script::launch(const Flags& flags) {
  auto scenario = judge(flags);
  if (!scenario) {
    return scenario.failure();
  }
  uint64_t flags_seed = scenario->seed;
  for (const auto& [name, value] : flags) {  // other flags, other noise; ports and directories are chance
    if (name == "port" || name == "host" || name == "scenario") {
      continue;
    }
    flags_seed = hashed(flags_seed, name + "=" + value.substr(value.rfind('/') + 1));
  }
  if (scenario->launch_noise > 0 || scenario->drift_per_launch != 0) {
    auto number = next_number(*scenario);
    if (!number) {
      return number.failure();
    }
    // Noise is of the launch, not of the configuration: only then are two launches of one independent.
    double factor = std::exp(scenario->launch_noise * gaussian(scenario->seed, *number));
    if (!scenario->launch_counter.empty()) {
      factor *= std::pow(1 + scenario->drift_per_launch, static_cast<double>(*number));
    }
    scenario->decode_tps *= factor;
    scenario->decode_ms_per_1k /= factor;
    scenario->prefill_tps *= factor;
    flags_seed += *number;
  }
  scenario->seed = flags_seed;
  if (scenario->behaviour == "slow") {
    scenario->time_scale *= 50;
  }
  std::string suite;
  if (!scenario->suite.empty()) {
    auto file = os::read_file(scenario->suite);
    if (!file) {
      return file.failure();
    }
    suite = *file;
  }
  return std::make_shared<const Launch>(std::move(*scenario), flags, suite);
}

base::Result<Flags> reconfigured(const Flags& flags, const Json& body, const std::vector<std::string>& axes) {
  Flags changed = flags;
  for (const auto& [axis, value] : body.items()) {
    if (std::find(axes.begin(), axes.end(), axis) == axes.end()) {
      return base::error(axis, "is not among what this server changes in place", "restart it");
    }
    std::string text = as_text(value);
    bool fine = !text.empty();
    if (axis.starts_with("cache_type")) {
      fine = is_cache_type(text);
    } else if (axis.starts_with("n_") || axis == "ctx_size" || axis == "parallel") {
      fine = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos && text.size() < 10 &&
             std::atoi(text.c_str()) > 0;
    } else if (axis == "flash_attn") {
      text = text == "true" ? "on" : text == "false" ? "off" : text;
      fine = text == "on" || text == "off" || text == "auto";
    }
    if (!fine) {
      return base::error(axis, fmt::format("\"{}\" is no value for it", text), "");
    }
    changed[flag_of(axis)] = text;
  }
  return changed;
}

}  // namespace fake
