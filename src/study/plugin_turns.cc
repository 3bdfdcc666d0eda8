// The loop's side of a plugin: what it is told, how long it may take, what the journal keeps of it.

#include <fmt/format.h>

#include <algorithm>

#include "search/plugin_text.h"
#include "src/base/units.h"
#include "src/study/header.h"
#include "src/study/loop_state.h"
#include "src/study/record.h"

namespace study {
namespace {

// Exchanges that come to nothing may take so much of the time that trials have taken, wherever the search then ends:
// a plugin that is dead, slow or lying costs a study less than 1%.
constexpr double kWasteShare = 0.01;
// Of what is left an exchange gets this much, for ending a program that is late takes time, too.
constexpr double kOfTheRest = 0.9;
// An exchange in vain for so much of its patience was too short.
constexpr double kNearlyLate = 0.8;
// Of a prompt beside the request itself: instructions, the frame of the answer's schema.
constexpr size_t kPromptBytes = 4096;

// What one answer may cost at most, in case nothing is heard of it any more.
search::PluginUsage most_of(const PluginSetup& setup, const base::Json& request) {
  search::PluginUsage usage;
  if (!setup.llm) {
    return usage;
  }
  const LlmSetup& llm = *setup.llm;
  const size_t schema = 2 * base::dump_line(request.value("space", base::Json::object())).size();
  const double in = search::tokens_of(base::dump_line(request).size() + schema + kPromptBytes);
  usage.input_tokens = in;
  usage.output_tokens = llm.max_tokens;
  if (llm.usd_per_mtok_in > 0 || llm.usd_per_mtok_out > 0) {
    usage.cost_usd = (in * llm.usd_per_mtok_in + llm.max_tokens * llm.usd_per_mtok_out) / 1e6;
  }
  usage.estimated = true;
  return usage;
}

base::Json texts(const std::vector<search::Expression>& expressions) {
  base::Json list = base::Json::array();
  for (const search::Expression& expression : expressions) {
    list.push_back(expression.text());
  }
  return list;
}

// What helps to choose, and no path or host name: it may leave the house. Of paths that are values of an axis the file
// name is told (search/labels.h).
base::Json facts_of(const base::Json& header) {
  auto chosen = [&](const char* part, std::initializer_list<const char*> names) {
    base::Json facts = base::Json::object();
    const base::Json all = header.is_object() ? header.value(part, base::Json::object()) : base::Json();
    for (const char* name : names) {
      if (all.is_object() && all.contains(name)) {
        facts[name] = all[name];
      }
    }
    return facts;
  };
  return {{"backend", chosen("binary", {"kind", "version"})},
          {"model", chosen("model", {"name", "architecture", "size"})},
          {"host",
           chosen("host", {"arch", "cpu_model", "logical_cpus", "physical_cores", "memory_bytes", "gpus"})}};
}

}  // namespace

std::unique_ptr<search::Strategy> Loop::with_plugin(std::unique_ptr<search::Strategy> strategy) {
  if (!study_.search.plugin) {
    return strategy;
  }
  search::PluginOptions options;
  options.share = study_.search.plugin->share;
  options.cannot_fit = options_.cannot_fit;
  auto plugin = std::make_unique<search::Plugin>(std::move(strategy), study_.space, options);
  plugin_ = plugin.get();
  return plugin;
}

void Loop::connect_plugin(const base::Json& header) {
  if (plugin_ == nullptr || !options_.ask_plugin) {
    return;
  }
  plugin_facts_ = facts_of(header);
  plugin_->connect(
      [this](int exchange, base::Json request) { return ask_plugin(exchange, std::move(request)); },
      [this](const search::PluginExchange& exchange) { record_exchange(exchange); });
}

Loop::Patience Loop::plugin_patience() const {
  const PluginSetup& setup = *study_.search.plugin;
  Patience patience{setup.timeout_s, "search.plugin.timeout"};
  const double all = setup.time_share * trials_s_ + setup.grace_s - plugin_->spent_s();
  const double waste =
      std::min(setup.time_share, kWasteShare) * trials_s_ + setup.grace_s - plugin_->wasted_s();
  if (const double left = kOfTheRest * std::min(all, waste); left < patience.seconds) {
    patience = {left, "search.plugin.time"};
  }
  if (limit_s() > 0) {  // nor of the trial that follows, and of the end
    const double left = limit_s() - elapsed_s() - pace_.search_trial_s() - (leader_id_ > 0 ? kept_s() : 0);
    if (left < patience.seconds) {
      patience = {left, "the end of the run"};
    }
  }
  return patience;
}

search::PluginReply Loop::ask_plugin(int exchange, base::Json request) {
  const PluginSetup& setup = *study_.search.plugin;
  const Patience patience = plugin_patience();
  // What was too short once would be again.
  const double least = std::min(std::max(setup.least_s, 2 * late_s_), setup.timeout_s);
  search::PluginReply reply;
  if (patience.seconds < least) {
    reply.asked = false;
    reply.fault =
        fmt::format("not asked: {} leaves less than {} for it", patience.bound, base::format_duration(least));
    return reply;
  }
  base::Json limits = texts(study_.objective.subject_to);
  for (const std::string& reference : study_.objective.quality_not_worse_than) {
    limits.push_back("quality not_worse_than " + reference);
  }
  request["study"] = study_.name;
  request["facts"] = plugin_facts_;
  request["objective"] = {{"maximize", texts(study_.objective.maximize)},
                          {"subject_to", std::move(limits)},
                          {"pareto", study_.objective.pareto}};
  plugin_->labels().hide(request["objective"]);
  request["trials_left"] = std::max(0, options_.max_trials - ended_);
  request["time_left_s"] =
      limit_s() > 0 ? base::Json(std::max(0.0, limit_s() - elapsed_s())) : base::Json(nullptr);
  request["answer_within_s"] = patience.seconds;
  std::string server = runner_.server_url();
  request["server_url"] = server.empty() ? base::Json(nullptr) : base::Json(server);
  const search::PluginUsage most = most_of(setup, request);
  if (!record_start(exchange, base::json_get<int>(request, "n", 0), most)) {
    reply.asked = false;
    return reply;
  }
  asked_s_ = patience.seconds;
  observer_.asking(setup.name);
  reply = options_.ask_plugin(exchange, base::dump_line(request), patience.seconds);
  observer_.asking("");
  reply.unless_told = most;
  if (reply.late) {
    reply.fault += fmt::format("; {} allows no more", patience.bound);
  }
  if (stopped() && reply.line.empty()) {
    reply.asked = false;  // by the user: no failure of the plugin's; what it may have cost is in the journal
    reply.fault = "the run was stopped";
  }
  return reply;
}

base::Json Loop::exchange_record(const char* type, int exchange) const {
  const PluginSetup& setup = *study_.search.plugin;
  base::Json record = {
      {"type", type}, {"schema_version", kSchemaVersion}, {"study_id", study_id_}, {"proposer", setup.name}};
  if (setup.llm) {
    record["llm"] = llm_json(*setup.llm);
  }
  record["exchange"] = exchange;
  return record;
}

bool Loop::record_start(int exchange, int asked, const search::PluginUsage& usage) {
  base::Json record = exchange_record("plugin_start", exchange);
  record["asked"] = asked;
  record["usage"] = search::to_json(usage);
  record["started"] = utc_now();
  if (auto written = journal_.append(record); !written) {
    plugin_unwritten_ = written.failure();
    return false;
  }
  return true;
}

void Loop::record_exchange(const search::PluginExchange& exchange) {
  if (exchange.taken.empty() && exchange.seconds >= kNearlyLate * asked_s_) {
    late_s_ = asked_s_;
  }
  base::Json record = exchange_record("plugin", exchange.number);
  record.update(search::to_json(study_.space, exchange));
  record["ended"] = utc_now();
  if (auto written = journal_.append(record); !written) {
    plugin_unwritten_ = written.failure();
  }
  if (!exchange.fault.empty()) {
    observer_.note(fmt::format("{} ({}): {}", study_.search.plugin->name,
                               base::format_duration(exchange.seconds), exchange.fault));
  }
}

void Loop::tell_plugin(const EndedTrial& trial) {
  if (plugin_ == nullptr || trial.status == Status::kSkippedPredicted) {
    return;
  }
  search::PluginTrial told;
  told.trial_id = trial.trial_id;
  told.config = trial.config;
  told.outcome = trial.outcome;
  told.status = to_string(trial.status);
  told.violations = trial.judgement.violations;
  told.metrics = trial.metrics ? metrics_json(*trial.metrics) : base::Json(nullptr);
  plugin_->remember(std::move(told));
}

void Loop::replay_exchange_start(const base::Json& record) {
  if (plugin_ != nullptr) {
    plugin_->replay_start(base::json_get<int>(record, "exchange", 0), search::read_usage(record));
  }
}

base::Result<void> Loop::replay_exchange(const base::Json& record) {
  if (plugin_ == nullptr) {
    return {};
  }
  auto exchange = search::exchange_from_json(study_.space, record);
  if (!exchange) {
    return base::error(
        fmt::format("{}: exchange {}", journal_.path(), base::json_get<int>(record, "exchange", 0)),
        exchange.failure().to_string(), "the journal does not fit its own space; start a new study");
  }
  plugin_->replay(*exchange);
  return {};
}

}  // namespace study
