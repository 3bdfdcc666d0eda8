#include "src/study/warm_start.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <tuple>

#include "src/base/units.h"
#include "src/report/text.h"
#include "src/study/effective.h"
#include "src/study/header.h"
#include "src/study/record.h"
#include "src/study/trial.h"

namespace study {
namespace {

// The kernel's share of memory differs a little from boot to boot.
constexpr double kSameMemory = 0.01;

const base::Json& at(const base::Json& object, const char* key) {
  static const base::Json kNone;
  auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() ? *found : kNone;
}

std::string shown(const base::Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "unknown" : base::dump_line(value);
}

// Collects "what: X there, Y here".
class Differences {
 public:
  void compare(const std::string& what, const base::Json& then, const base::Json& now) {
    if (then != now) {
      found_.push_back(fmt::format("{}: {} there, {} here", what, shown(then), shown(now)));
    }
  }
  void add(std::string text) { found_.push_back(std::move(text)); }
  const std::vector<std::string>& found() const { return found_; }

 private:
  std::vector<std::string> found_;
};

void compare_models(const base::Json& then, const base::Json& now, Differences& differ) {
  auto models = [](const base::Json& header) {
    const base::Json& all = at(header, "models");
    return all.is_array() ? all : base::Json::array({at(header, "model")});
  };
  const base::Json old = models(then), mine = models(now);
  if (old.size() != mine.size()) {
    differ.add(fmt::format("models: {} there, {} here", old.size(), mine.size()));
    return;
  }
  for (size_t i = 0; i < mine.size(); ++i) {
    const bool content = at(old[i], "head_hash").is_string() && at(mine[i], "head_hash").is_string();
    differ.compare("the model's size", at(old[i], "size"), at(mine[i], "size"));
    if (content) {
      differ.compare("the model's beginning (1 MiB)", at(old[i], "head_hash"), at(mine[i], "head_hash"));
      if (at(old[i], "slices_hash").is_string() && at(mine[i], "slices_hash").is_string()) {
        differ.compare("the model's weights (a sample)", at(old[i], "slices_hash"),
                       at(mine[i], "slices_hash"));
      }
    } else {  // a name is all the identity there is
      differ.compare("the model", at(old[i], "path"), at(mine[i], "path"));
    }
  }
}

void compare_hosts(const base::Json& then, const base::Json& now, Differences& differ) {
  for (const char* fact : {"arch", "cpu_model", "logical_cpus", "physical_cores", "gpus"}) {
    differ.compare(fmt::format("the host's {}", fact), at(then, fact), at(now, fact));
  }
  const auto before = base::json_get<double>(then, "memory_bytes", 0);
  const auto today = base::json_get<double>(now, "memory_bytes", 0);
  if (std::fabs(before - today) > kSameMemory * std::max(before, today)) {
    differ.add(fmt::format("the host's memory: {} there, {} here",
                           base::format_bytes(static_cast<uint64_t>(std::max(before, 0.0))),
                           base::format_bytes(static_cast<uint64_t>(std::max(today, 0.0)))));
  }
}

void compare_servers(const Study& study, const base::Json& then, const base::Json& now, Differences& differ) {
  differ.compare("the server", at(then, "kind"), at(now, "kind"));
  if (study.backend.kind == BackendKind::kOpenAi) {  // the kind says next to nothing of these
    auto name = [](const base::Json& binary) {
      return base::Json(
          std::filesystem::path(base::json_get<std::string>(binary, "path", "")).filename().string());
    };
    differ.compare("the server's program", name(then), name(now));
    differ.compare("the server's version", at(then, "version"), at(now, "version"));
  }
  if (study.backend.kind == BackendKind::kUrl) {
    differ.compare("the server's address", at(then, "path"), at(now, "path"));
    if (at(then, "settings").is_object()) {
      std::string changed = changed_settings(study.space, at(then, "settings"), at(now, "settings"));
      if (!changed.empty()) {
        differ.add("the server's settings: " + changed);
      }
    }
  }
}

constexpr const char* kLimits = "limits";  // of measurement_json()

// How it was measured, of the probes that both have; `then` and `now` of those studies, `old` and `mine` their
// measurement_json(). Limits apart: what they made fail is left out one by one.
void compare_probes(const Study& then, const Study& now, const base::Json& old, const base::Json& mine,
                    Differences& differ) {
  if (then.backend.args != now.backend.args) {
    differ.add(fmt::format("backend.args: '{}' there, '{}' here", fmt::join(then.backend.args, " "),
                           fmt::join(now.backend.args, " ")));
  }
  if (then.backend.env != now.backend.env) {
    differ.add("backend.env");  // not its values: one may be a secret
  }
  for (const auto& [probe, options] : mine.items()) {
    const base::Json& theirs = at(old, probe.c_str());
    for (const auto& [name, value] : options.items()) {
      if (probe != kLimits && theirs.is_object() && theirs.contains(name)) {
        differ.compare(fmt::format("probes.{}.{}", probe, name), theirs[name], value);
      }
    }
  }
}

// The first of these limits that lets more pass here than it did there; "" = none does.
std::string eased(const base::Json& old, const base::Json& mine, std::initializer_list<const char*> limits) {
  for (const char* name : limits) {
    const base::Json &then = at(at(old, kLimits), name), &now = at(at(mine, kLimits), name);
    if (then.is_number() && now.is_number() &&
        (std::string_view(name).ends_with("headroom_gib") ? now.get<double>() < then.get<double>()
                                                          : now.get<double>() > then.get<double>())) {
      return name;
    }
  }
  return "";
}

// What the objective and the limits need to have been measured.
std::set<std::string> needed_metrics(const Study& study) {
  std::set<std::string> names;
  for (const auto* list : {&study.objective.maximize, &study.objective.subject_to}) {
    for (const search::Expression& expression : *list) {
      for (std::string name : expression.names()) {
        name = name.starts_with("default.") ? name.substr(8) : name;
        if (find_metric(name) != nullptr && study.space.find(name) == nullptr) {
          names.insert(name);
        }
      }
    }
  }
  if (!study.objective.quality_not_worse_than.empty()) {
    names.insert("quality");
  }
  return names;
}

bool same_objective(const Study& a, const Study& b) {
  auto texts = [](const Objective& objective) {
    std::vector<std::string> list = objective.quality_not_worse_than;
    for (const auto* part : {&objective.maximize, &objective.subject_to}) {
      list.emplace_back("|");
      for (const search::Expression& expression : *part) {
        list.push_back(expression.text());
      }
    }
    return list;
  };
  return a.objective.pareto == b.objective.pareto && texts(a.objective) == texts(b.objective);
}

// One configuration with all its launches.
struct Known {
  base::Json entry;
  std::map<std::string, std::pair<double, int>> speeds;  // sum of logarithms, number
  int launches = 0;
};

void add_launch(const TrialMetrics& metrics, Known& known) {
  for (const char* name : {"decode_tps", "prefill_tps", "decode_tps_at_half_context", "ttft_ms"}) {
    auto value = metrics.values.find(name);
    if (value != metrics.values.end() && value->second > 0 && std::isfinite(value->second)) {
      known.speeds[name].first += std::log(value->second);
      ++known.speeds[name].second;
    }
  }
  ++known.launches;
}

class Gatherer {
 public:
  // `old` and `mine`: how they measure.
  Gatherer(const Study& study, bool same_objective, const base::Json& old, const base::Json& mine)
      : study_(study), same_objective_(same_objective), needed_(needed_metrics(study)) {
    eased_[Status::kLoadTimeout] = eased(old, mine, {"backend.load_timeout"});
    eased_[Status::kHang] =
        eased(old, mine, {"backend.load_stall", "probes.stall_timeout", "probes.request_timeout"});
    eased_[Status::kOom] = eased(old, mine, {"probes.memory.min_headroom_gib"});
  }

  void add(const base::Json& end) {
    const auto status = parse_status(base::json_get<std::string>(end, "status", ""));
    if (!status || *status == Status::kSkippedPredicted || *status == Status::kInterrupted ||
        *status == Status::kDuplicate) {
      return;  // never launched
    }
    const bool again = is_repeated(base::json_get<std::string>(end, "phase", ""));
    auto config = search::from_json(study_.space, at(end, "params"));
    if (!config) {
      left_out("are no points of this space", again);
      return;
    }
    const search::Config canonical = study_.space.canonical(*config);
    if (!study_.space.violated(canonical).empty()) {
      left_out("break a constraint of this space", again);
      return;
    }
    std::optional<TrialMetrics> metrics = metrics_of(study_.space, end);
    if (metrics) {
      const double drift = base::json_get<double>(end, "drift", 1);
      metrics = slowed(*metrics, drift > 0 ? drift : 1);
    }
    auto [place, fresh] = index_.emplace(search::key_of(canonical), known_.size());
    if (!fresh) {
      if (metrics && *status == Status::kOk && known_[place->second].launches > 0) {
        add_launch(*metrics, known_[place->second]);
      }
      return;
    }
    if (std::string why = again ? "are repeats of such" : unusable(*status, metrics); !why.empty()) {
      index_.erase(place);
      left_out(why, again);
      return;
    }
    const base::Json params = search::to_json(study_.space, canonical);
    Known known;
    known.entry = {{"trial_id", base::json_get<int>(end, "trial_id", 0)},
                   {"params", params},
                   {"params_hash", params_hash(params)},
                   {"status", to_string(*status)},
                   // Of another objective it is the noise of something else: this study's own holds then.
                   {"noise", same_objective_ ? base::Json(base::json_get<double>(end, "noise", 0))
                                             : base::Json(nullptr)}};
    if (metrics) {
      known.entry["metrics"] = metrics_json(*metrics);
      known.entry["quality_items"] = metrics->quality_items;
    }
    if (metrics && *status == Status::kOk) {
      add_launch(*metrics, known);
    }
    known_.push_back(std::move(known));
  }

  base::Json known() const {
    base::Json list = base::Json::array();
    for (const Known& known : known_) {
      base::Json entry = known.entry;
      entry["launches"] = std::max(known.launches, 1);
      for (const auto& [name, logs] : known.speeds) {
        entry["metrics"][name] = std::exp(logs.first / logs.second);
      }
      list.push_back(std::move(entry));
    }
    return list;
  }
  const std::map<std::string, int>& left_out() const { return left_out_; }

 private:
  // Repeats of a trial that is left out are not counted beside it.
  void left_out(const std::string& why, bool again) { left_out_[why] += again ? 0 : 1; }

  std::string unusable(Status status, const std::optional<TrialMetrics>& metrics) const {
    if (status == Status::kImplausible || status == Status::kTimeout) {
      return "were disturbed";  // that says more of the hour than of the configuration
    }
    if (auto limit = eased_.find(status); limit != eased_.end() && !limit->second.empty()) {
      return fmt::format("failed by a {} that is less strict here", limit->second);
    }
    if (ended_early(status)) {
      return same_objective_ ? "" : "ended early by another objective";
    }
    for (const std::string& name : needed_) {
      if (status == Status::kOk && (!metrics || !metrics->values.contains(name))) {
        return fmt::format("lack {}", name);
      }
    }
    return "";
  }

  const Study& study_;
  bool same_objective_;
  std::set<std::string> needed_;
  std::map<Status, std::string> eased_;  // failures that may be none here, by which limit
  std::vector<Known> known_;
  std::map<std::string, size_t> index_;
  std::map<std::string, int> left_out_;  // why -> trials
};

std::string left_out_text(const base::Json& left_out) {
  std::string text;
  for (const base::Json& group : left_out.is_array() ? left_out : base::Json::array()) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", base::json_get<int>(group, "trials", 0),
                        base::json_get<std::string>(group, "why", ""));
  }
  return text;
}

}  // namespace

base::Result<base::Json> warm_start(const Study& study, const base::Json& header, const JournalContent& old,
                                    const std::string& where) {
  const std::string path = base::json_get<std::string>(old.header, "space_path", "");
  auto parsed =
      parse_space_file(base::json_get<std::string>(old.header, "space", ""), path, SpaceOrigin::kRecorded);
  if (const auto* errors = std::get_if<SpaceFileErrors>(&parsed)) {
    return base::error(where,
                       "its space file is not read here any more: " + report::printable(errors->to_string()),
                       "set the variables and files it names as they were, or leave --warm-start out");
  }
  const Study& then = std::get<Study>(parsed);
  // A journal from before the header told: its space file with today's defaults.
  const bool told = at(old.header, "measurement").is_object();
  base::Json measured = told ? at(old.header, "measurement") : measurement_json(then);
  for (const auto& [probe, file, key] : {std::tuple{"quality", "suite", "quality_suite"},
                                         std::tuple{"perplexity", "corpus", "perplexity_corpus"}}) {
    if (!told && measured.contains(probe)) {  // these it told always
      measured[probe][file] = at(at(old.header, key), "hash");
    }
  }
  const base::Json mine = measurement_json(study);
  Differences differ;
  compare_models(old.header, header, differ);
  compare_hosts(at(old.header, "host"), at(header, "host"), differ);
  compare_servers(study, at(old.header, "binary"), at(header, "binary"), differ);
  compare_probes(then, study, measured, mine, differ);
  if (!differ.found().empty()) {
    return base::error(where,
                       report::printable(fmt::format("was measured under other conditions; {}",
                                                     fmt::join(differ.found(), "; "))),
                       "its numbers would mislead this study: leave --warm-start out, or name a journal of "
                       "this model and machine");
  }
  Gatherer gatherer(study, same_objective(then, study), measured, mine);
  for (const base::Json* end : old.of_type("trial_end")) {
    gatherer.add(*end);
  }
  base::Json left_out = base::Json::array();
  for (const auto& [why, trials] : gatherer.left_out()) {
    if (trials > 0) {
      left_out.push_back({{"why", why}, {"trials", trials}});
    }
  }
  base::Json known = gatherer.known();
  if (known.empty()) {
    const std::string why = left_out_text(left_out);
    return base::error(where,
                       why.empty() ? "holds no trial that was launched"
                                   : fmt::format("has no trial that this study can use: {}", why),
                       "leave --warm-start out");
  }
  return base::Json{{"study_id", base::json_get<std::string>(old.header, "study_id", "")},
                    {"study", base::json_get<std::string>(old.header, "study", "")},
                    {"started", base::json_get<std::string>(old.header, "started", "")},
                    {"path", where},
                    {"version", base::json_get<std::string>(at(old.header, "binary"), "version", "")},
                    {"measurement_told", told},
                    {"known", std::move(known)},
                    {"left_out", std::move(left_out)}};
}

std::string warm_start_text(const base::Json& warm) {
  std::string text = fmt::format("{} configurations known from study {}", at(warm, "known").size(),
                                 base::json_get<std::string>(warm, "study_id", ""));
  if (!base::json_get<bool>(warm, "measurement_told", true)) {
    text +=
        " (its journal is of an older version: how it measured was taken from its space file and today's "
        "defaults)";
  }
  const std::string out = left_out_text(at(warm, "left_out"));
  return report::printable(out.empty() ? text : text + "; trials left out: " + out);
}

}  // namespace study
