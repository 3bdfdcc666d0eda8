// The loop's side of a plugin: what it is told, how long it may take, what the journal keeps of it.

#include <fmt/format.h>

#include <algorithm>

#include "src/base/units.h"
#include "src/study/loop_state.h"
#include "src/study/record.h"

namespace study {
namespace {

// Of the time that exchanges may take, those that come to nothing get this much. With the default of 5%, and since a
// search may end at half its trials, a plugin that is dead, slow or lying costs a study less than 1% of its time.
constexpr double kWasteShare = 0.1;
constexpr double kLeastPatienceS = 0.05;

base::Json texts(const std::vector<search::Expression>& expressions) {
  base::Json list = base::Json::array();
  for (const search::Expression& expression : expressions) {
    list.push_back(expression.text());
  }
  return list;
}

// What helps to choose, and no path or host name: it may leave the house.
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
  past_s_ = trials_s_;
  if (plugin_ == nullptr || !options_.ask_plugin) {
    return;
  }
  plugin_facts_ = facts_of(header);
  plugin_->connect(
      [this](int exchange, base::Json request) { return ask_plugin(exchange, std::move(request)); },
      [this](const search::PluginExchange& exchange) { record_exchange(exchange); });
}

double Loop::plugin_patience_s() const {
  double planned = timed_trials_ > 0 ? options_.max_trials * trials_s_ / timed_trials_ : 0;
  planned = limit_s() > 0 ? std::min(planned, past_s_ + limit_s()) : planned;
  const PluginSetup& setup = *study_.search.plugin;
  double left = std::min(setup.time_share * planned - plugin_->spent_s(),
                         kWasteShare * setup.time_share * planned - plugin_->wasted_s());
  if (limit_s() > 0) {  // nor of the trial that follows, and of the end
    left = std::min(left, limit_s() - elapsed_s() - pace_.search_trial_s() - (leader_id_ > 0 ? kept_s() : 0));
  }
  return std::min(setup.timeout_s, left);
}

search::PluginReply Loop::ask_plugin(int exchange, base::Json request) {
  double patience = plugin_patience_s();
  if (patience < kLeastPatienceS) {
    search::PluginReply reply;
    reply.asked = false;
    reply.fault = fmt::format(
        "not asked: of the study's time, {:.2g}% for all exchanges and a tenth of it for fruitless ones "
        "(search.plugin.time) leave no more",
        100 * study_.search.plugin->time_share);
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
  request["trials_left"] = std::max(0, options_.max_trials - ended_);
  request["time_left_s"] =
      limit_s() > 0 ? base::Json(std::max(0.0, limit_s() - elapsed_s())) : base::Json(nullptr);
  request["answer_within_s"] = patience;
  std::string server = runner_.server_url();
  request["server_url"] = server.empty() ? base::Json(nullptr) : base::Json(server);
  observer_.asking(study_.search.plugin->name);
  search::PluginReply reply = options_.ask_plugin(exchange, base::dump_line(request), patience);
  observer_.asking("");
  if (reply.line.empty() && reply.seconds >= patience) {
    const bool whole = patience >= study_.search.plugin->timeout_s;
    reply.fault += fmt::format("; {} allows no more", whole ? "search.plugin.timeout" : "search.plugin.time");
  }
  if (stopped() && reply.line.empty()) {
    reply.asked = false;  // by the user: no failure of the plugin's, and nothing to record
    reply.fault = "the run was stopped";
  }
  return reply;
}

void Loop::record_exchange(const search::PluginExchange& exchange) {
  base::Json record = {{"type", "plugin"},
                       {"schema_version", kSchemaVersion},
                       {"study_id", study_id_},
                       {"proposer", study_.search.plugin->name}};
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
