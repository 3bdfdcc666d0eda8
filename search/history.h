#pragma once
// What a strategy has been told, and what follows from it: which configurations are worth proposing at all.
// Repeats of one configuration are pooled; forecasts (Outcome::predicted) are kept apart from what ran.

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "search/frontier.h"
#include "search/strategy.h"

namespace search {

// One outcome for several of the same configuration. Objectives are means weighted by 1 / noise^2 (plain ones
// when a noise is not known) over the launches that were measured; feasible when more than half of those
// were. A failed launch beside measured ones adds nothing. All launches are of one study (see History::know).
Outcome pooled(const std::vector<Outcome>& outcomes);

class History {
 public:
  explicit History(const Space& space) : space_(space), default_(space.default_config()) {}

  struct Entry {
    Config config;    // canonical
    Outcome outcome;  // pooled
  };

  void tell(const Config& config, const Outcome& outcome);
  // As Strategy::know. Ignored where this study has launched the configuration.
  void know(const Config& config, const Outcome& outcome);

  // One per configuration that was really launched, in the order of the first launches.
  const std::vector<Entry>& entries() const { return entries_; }
  int launched() const { return static_cast<int>(entries_.size()); }
  // How many of them are known from elsewhere alone.
  int known() const { return known_; }
  // What it came to, or nullptr: never launched.
  const Outcome* find(const Config& canonical) const;
  bool ran_out_of_memory(const Config& canonical) const;

  const Frontier& frontier() const { return frontier_; }
  bool doomed(const Config& canonical) const { return frontier_.dooms(space_, canonical); }
  // How often a failure has left the frontier.
  int reprieves() const { return reprieves_; }

  // Neither launched nor forecast, a forecast of the frontier that no longer holds left aside; no constraint
  // broken.
  bool open(const Config& canonical) const;
  // open, and not doomed.
  bool worth_trying(const Config& canonical) const { return open(canonical) && !doomed(canonical); }

  // Trials enough for `limits`, or so many forecasts that nearly nothing of this space fits.
  bool used_up(const Limits& limits) const;

  // A doomed configuration that deserves a launch by now, one per kSkipsPerAudit forecasts: of those skipped
  // the nearest to what failed. nullptr when none is due.
  static constexpr int kSkipsPerAudit = 6;
  const Config* due_audit() const;

  const Space& space() const { return space_; }
  const Config& default_config() const { return default_; }

 private:
  struct Skip {
    Config config;
    bool by_frontier = false;  // it was doomed when the forecast was told
    bool refused = false;      // somebody else forecast it again when it was to be audited
  };

  void forecast(const Config& config, const std::string& key);
  void add(Config config, std::string key, const Outcome& outcome, bool known);

  Space space_;  // a copy: a strategy outlives whatever it was made from
  Config default_;
  std::vector<Entry> entries_;
  struct Launches {
    std::vector<Outcome> outcomes;
    bool known = false;  // from elsewhere
  };
  std::vector<Launches> launches_;                 // of each entry
  std::unordered_map<std::string, size_t> index_;  // key -> entry
  Frontier frontier_;
  std::vector<Skip> skips_;
  std::unordered_map<std::string, size_t> skip_index_;
  int forecasts_ = 0, audits_ = 0, reprieves_ = 0, known_ = 0;
};

}  // namespace search
