#include "search/plugin.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "search/plugin_text.h"

namespace search {
namespace {

// Failures in a row: the second makes it wait one of its turns, each further one twice as many, the last for good.
constexpr int kFreeFailures = 2, kMostFailures = 6;
constexpr size_t kBestKept = 8, kLastKept = 12;
constexpr size_t kMostExamined = 64, kRefusedKept = 16;

}  // namespace

Plugin::Plugin(std::unique_ptr<Strategy> fallback, const Space& space, const PluginOptions& options)
    : fallback_(std::move(fallback)), space_(space), labels_(space), options_(options), history_(space) {}

std::optional<Proposal> Plugin::ask() {
  if (!computed_) {
    pending_ = choose();
    computed_ = true;
  }
  return pending_;
}

void Plugin::tell(const Config& config, const Outcome& outcome) {
  fallback_->tell(config, outcome);
  if (!outcome.predicted) {
    std::string key = key_of(space_.canonical(config));
    trials_ += taken_.erase(key) > 0 ? 1 : 0;
    noise_ = outcome.noise > 0 ? outcome.noise : noise_;
  }
  history_.tell(config, outcome);
  computed_ = false;
}

void Plugin::know(const Config& config, const Outcome& outcome) {
  fallback_->know(config, outcome);
  history_.know(config, outcome);
  computed_ = false;
}

void Plugin::connect(Ask ask, Record record) {
  ask_ = std::move(ask);
  record_ = std::move(record);
  charge_begun();
  failures_ = wait_ = 0;
  computed_ = false;
}

int Plugin::room() const {
  int n = 0;  // the share must hold after each of them
  while (n < options_.per_exchange && trials_ + n + 1 <= options_.share * (launched() + n + 1) + 1e-9) {
    ++n;
  }
  return n;
}

std::optional<Proposal> Plugin::choose() {
  std::optional<Proposal> own = fallback_->ask();
  // The default comes first, and forecasts and audits are no choice of a point.
  if (!own || own->phase == "default" || !own->doomed.empty() || own->rationale.starts_with("audit") ||
      room() == 0) {
    return own;
  }
  if (auto proposal = queued()) {
    return proposal;
  }
  if (!ask_) {
    return own;
  }
  left_alone_.clear();
  if (failures_ >= kMostFailures) {
    left_alone_ = fmt::format("not asked any more after {} failures in a row: {}", failures_, last_fault_);
  } else if (wait_ > 0) {
    --wait_;
    left_alone_ = fmt::format("not asked this time, after {} failures in a row: {}", failures_, last_fault_);
  } else {
    exchange();
    if (auto proposal = queued()) {
      return proposal;
    }
  }
  own->fallback = left_alone_;
  return own;
}

std::optional<Proposal> Plugin::queued() {
  while (!queue_.empty()) {
    const PluginExchange::Taken& next = queue_.front();
    if (history_.worth_trying(next.config)) {
      return Proposal{next.config, "plugin", next.rationale};
    }
    // Somebody else ran it meanwhile, or what did shows that it cannot fit.
    taken_.erase(key_of(next.config));
    queue_.erase(queue_.begin());
  }
  return std::nullopt;
}

void Plugin::exchange() {
  PluginExchange it;
  it.number = exchanges_ + 1;
  it.asked = room();
  base::Json asked = request();
  asked["n"] = it.asked;
  asked["request"] = it.number;
  labels_.hide(asked);
  PluginReply reply = ask_(it.number, std::move(asked));
  if (!reply.asked) {
    left_alone_ = reply.fault;
    return;
  }
  it.seconds = reply.seconds;
  it.fault = reply.fault;
  if (it.fault.empty()) {
    read_answer(reply.line, it);
  }
  if (!it.usage.known()) {
    it.usage = reply.unless_told;
  }
  learn(it);
  left_alone_ = it.fault;
  record_(it);
}

void Plugin::replay_start(int exchange, const PluginUsage& usage) {
  charge_begun();
  exchanges_ = std::max(exchanges_, exchange);
  begun_.emplace(exchange, usage);
}

void Plugin::charge_begun() {
  if (begun_) {
    charge(begun_->second);
    begun_.reset();
  }
}

void Plugin::charge(const PluginUsage& usage) {
  input_tokens_ += usage.input_tokens.value_or(0);
  output_tokens_ += usage.output_tokens.value_or(0);
  cost_usd_ += usage.cost_usd.value_or(0);
}

void Plugin::replay(const PluginExchange& exchange) {
  learn(exchange);
  computed_ = false;
}

void Plugin::learn(const PluginExchange& exchange) {
  exchanges_ = std::max(exchanges_, exchange.number);
  if (begun_ && begun_->first == exchange.number) {
    begun_.reset();  // its end tells what it cost
  }
  charge(exchange.usage);
  spent_s_ += exchange.seconds;
  last_refused_ = exchange.refused;
  if (exchange.taken.empty()) {
    wasted_s_ += exchange.seconds;
    last_fault_ = exchange.fault;
    ++failures_;
    wait_ = failures_ < kFreeFailures ? 0 : 1 << std::min(failures_ - kFreeFailures, 10);
    return;
  }
  failures_ = wait_ = 0;
  for (const PluginExchange::Taken& taken : exchange.taken) {
    taken_.insert(key_of(taken.config));
    queue_.push_back(taken);
  }
}

void Plugin::remember(PluginTrial trial) {
  trial.config = space_.canonical(trial.config);
  if (trial.config == history_.default_config() && !default_) {
    default_ = trial;
  }
  if (!trial.known) {  // its own launch is worth more than what was known of it
    std::erase_if(best_, [&](const PluginTrial& it) { return it.known && it.config == trial.config; });
  }
  if (trial.outcome.feasible) {
    auto place = std::find_if(best_.begin(), best_.end(), [&](const PluginTrial& other) {
      return better(trial.outcome, other.outcome, kObjectiveTolerance);
    });
    best_.insert(place, trial);
    best_.resize(std::min(best_.size(), kBestKept));
  }
  last_.push_back(std::move(trial));
  if (last_.size() > kLastKept) {
    last_.erase(last_.begin());
  }
}

base::Json Plugin::trial_json(const PluginTrial& trial) const {
  return {{"trial_id", trial.trial_id},
          {"known", trial.known},
          {"params", to_json(space_, trial.config)},
          {"status", trial.status},
          {"feasible", trial.outcome.feasible},
          {"objective", trial.outcome.objective},
          {"violations", trial.violations},
          {"metrics", trial.metrics}};
}

base::Json Plugin::request() const {
  base::Json request = {{"schema_version", kPluginSchemaVersion}};
  request["space"] = space_json(space_);
  request["noise"] = noise_;
  request["default"] = default_ ? trial_json(*default_) : base::Json(nullptr);
  for (const auto& [name, trials] : {std::pair{"best", &best_}, std::pair{"last", &last_}}) {
    request[name] = base::Json::array();
    for (const PluginTrial& trial : *trials) {
      request[name].push_back(trial_json(trial));
    }
  }
  request["trials_done"] = launched();
  request["usage_so_far"] = {
      {"input_tokens", input_tokens_}, {"output_tokens", output_tokens_}, {"cost_usd", cost_usd_}};
  request["refused_last_time"] = refused_json(last_refused_);
  return request;
}

void Plugin::read_answer(const std::string& line, PluginExchange& exchange) const {
  auto answer = base::parse_json(line, "the answer");
  if (!answer || !answer->is_object()) {
    exchange.fault =
        answer ? "the answer is no JSON object" : "the answer is no JSON: " + clipped(answer.failure().what);
    return;
  }
  exchange.usage = read_usage(*answer);
  exchange.message = clipped(base::json_get<std::string>(*answer, "error", ""));
  auto proposals = answer->find("proposals");
  bool none = proposals == answer->end() || !proposals->is_array() || proposals->empty();
  if (none) {
    exchange.fault =
        !exchange.message.empty() ? "the plugin says: " + exchange.message : "the answer has no proposals";
    return;
  }
  for (size_t i = 0; i < std::min(proposals->size(), kMostExamined); ++i) {
    if (static_cast<int>(exchange.taken.size()) >= exchange.asked) {
      break;  // more than it was asked for
    }
    const base::Json& proposal = (*proposals)[i];
    Config config;
    std::string why = examine(proposal, exchange, config);
    if (why.empty()) {
      std::string rationale = clipped(base::json_get<std::string>(proposal, "rationale", ""));
      exchange.taken.push_back({std::move(config), rationale.empty() ? "proposed by the plugin" : rationale});
    } else if (exchange.refused.size() < kRefusedKept) {
      auto params = proposal.is_object() ? proposal.find("params") : proposal.end();
      exchange.refused.push_back(
          {shortened(params != proposal.end() && proposal.is_object() ? *params : proposal), std::move(why)});
    }
  }
  if (exchange.taken.empty()) {
    exchange.fault = exchange.refused.front().why;
    if (exchange.refused.size() > 1) {
      exchange.fault = fmt::format("none of {} proposals can be run; the first: {}", exchange.refused.size(),
                                   exchange.fault);
    }
  }
}

std::string Plugin::examine(const base::Json& proposal, const PluginExchange& exchange,
                            Config& config) const {
  if (!proposal.is_object() || !proposal.contains("params")) {
    return "a proposal without params";
  }
  auto found = from_json(space_, labels_.values(proposal["params"]));
  if (!found) {
    return clipped(found.failure().to_string());
  }
  config = space_.canonical(*found);
  if (std::string broken = space_.violated(config); !broken.empty()) {
    return "breaks the constraint " + broken;
  }
  if (history_.find(config) != nullptr) {
    return "has been run before";
  }
  auto twice = [&](const PluginExchange::Taken& taken) { return taken.config == config; };
  if (std::any_of(exchange.taken.begin(), exchange.taken.end(), twice)) {
    return "is proposed twice";
  }
  if (history_.doomed(config)) {
    return history_.frontier().why(space_, config);
  }
  if (!history_.open(config)) {
    return "was skipped before: it is known not to fit";
  }
  return options_.cannot_fit ? clipped(options_.cannot_fit(config)) : "";
}

}  // namespace search
