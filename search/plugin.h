#pragma once
// Proposals from outside (a program in any language, a language model) woven into a deterministic strategy. The plugin
// never decides what is run: each of its proposals must be a new point of the space, and at most a set share of the
// trials are its; whatever is wrong or late, the deterministic strategy's own proposal is run instead, and why is kept.
// Pure: who really asks is the caller's (src/study/plugin_site.h). The protocol is described in search/README.md.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "search/history.h"
#include "search/labels.h"
#include "search/strategy.h"
#include "src/base/json.h"

namespace search {

struct PluginOptions {
  double share = 0.3;    // of the launched trials, at any time, at most
  int per_exchange = 3;  // proposals asked for at once, at most
  // Why a configuration cannot be launched at all (a forecast of memory); "" where it may, empty where nobody knows.
  std::function<std::string(const Config&)> cannot_fit = {};
};

// What an exchange cost, as far as it is known.
struct PluginUsage {
  std::optional<double> input_tokens, output_tokens, cost_usd;
  bool estimated = false;  // in part at least nobody told
  bool known() const { return input_tokens || output_tokens || cost_usd; }
};

// What came of asking once. `line` is the plugin's answer; else `fault` says what went wrong. `asked` false: nobody was
// asked, because there is no time for it (`fault` says so); that is no failure of the plugin's.
struct PluginReply {
  std::string line, fault;
  double seconds = 0;
  bool asked = true, late = false;  // late: the fault is that no answer came in time
  PluginUsage unless_told;          // what the exchange counts for where the answer does not tell
};

// One exchange, for the journal: everything that resume needs, and what a person wants to know of it.
struct PluginExchange {
  struct Taken {
    Config config;  // canonical
    std::string rationale;
  };
  struct Refused {
    base::Json params;  // as they came; a clipped text where they were no object or too long
    std::string why;
  };
  int number = 0;  // from 1, in the study
  int asked = 0;   // proposals
  double seconds = 0;
  std::vector<Taken> taken;
  std::vector<Refused> refused;
  std::string fault;    // why nothing was taken; "" where something was
  std::string message;  // what the plugin itself said went wrong
  PluginUsage usage;
};
base::Json to_json(const Space& space, const PluginExchange& exchange);
// Errors: a proposal that was taken is none of this space.
base::Result<PluginExchange> exchange_from_json(const Space& space, const base::Json& record);

// A trial as the plugin is told of it: more than the strategies see.
struct PluginTrial {
  int trial_id = 0;
  bool known = false;  // from an earlier study: the number is that study's, speeds are scaled to this one's
  Config config;
  Outcome outcome;
  std::string status;  // as in the journal
  std::vector<std::string> violations;
  base::Json metrics;  // {name: number}, or null
};

class Plugin final : public Strategy {
 public:
  // `fallback` decides whenever the plugin does not.
  Plugin(std::unique_ptr<Strategy> fallback, const Space& space, const PluginOptions& options);

  std::optional<Proposal> ask() override;
  void tell(const Config& config, const Outcome& outcome) override;
  bool done() const override { return fallback_->done(); }

  // From here on the plugin is really asked, and each exchange recorded before its first proposal is run. Before,
  // while a journal is learnt again, ask() gives what the journal's exchanges left, else the fallback's proposal.
  // Failures of former runs are forgiven.
  using Ask = std::function<PluginReply(int exchange, base::Json request)>;
  using Record = std::function<void(const PluginExchange&)>;
  void connect(Ask ask, Record record);
  // Of the journal, in their places among the trials: an exchange; that one began, and what it counts for if nothing
  // is known of its end.
  void replay(const PluginExchange& exchange);
  void replay_start(int exchange, const PluginUsage& usage);
  // Counts for no share.
  void know(const Config& config, const Outcome& outcome) override;
  // Before the tell() or know() of the same trial.
  void remember(PluginTrial trial);

  // How outsiders are told of values that are paths.
  const Labels& labels() const { return labels_; }
  // Seconds of all exchanges, and of those that came to nothing.
  double spent_s() const { return spent_s_; }
  double wasted_s() const { return wasted_s_; }

 private:
  std::optional<Proposal> choose();
  std::optional<Proposal> queued();
  void exchange();
  base::Json request() const;
  base::Json trial_json(const PluginTrial& trial) const;
  void read_answer(const std::string& line, PluginExchange& exchange) const;
  // Why a proposal cannot be taken, or "" with `config` set.
  std::string examine(const base::Json& proposal, const PluginExchange& exchange, Config& config) const;
  void learn(const PluginExchange& exchange);
  void charge(const PluginUsage& usage);
  void charge_begun();
  int launched() const { return history_.launched() - history_.known(); }  // by this study
  int room() const;  // trials that the share still allows now

  std::unique_ptr<Strategy> fallback_;
  Space space_;
  Labels labels_;
  PluginOptions options_;
  History history_;
  Ask ask_;
  Record record_;

  std::vector<PluginExchange::Taken> queue_;  // taken, not yet run
  std::unordered_set<std::string> taken_;     // keys of all that were ever taken
  std::vector<PluginExchange::Refused> last_refused_;
  std::optional<std::pair<int, PluginUsage>> begun_;  // of the journal, not known to have ended
  int exchanges_ = 0, trials_ = 0;                    // trials that ran what it proposed
  int failures_ = 0, wait_ = 0;                       // in a row; turns until it is asked again
  std::string last_fault_, left_alone_;
  double spent_s_ = 0, wasted_s_ = 0, noise_ = 0;
  double input_tokens_ = 0, output_tokens_ = 0, cost_usd_ = 0;
  std::vector<PluginTrial> best_, last_;
  std::optional<PluginTrial> default_;

  bool computed_ = false;
  std::optional<Proposal> pending_;
};

}  // namespace search
