#pragma once
// What a strategy has been told, and what follows from it: which configurations are worth proposing at all.

#include <string>
#include <unordered_map>
#include <vector>

#include "search/strategy.h"

namespace search {

class History {
 public:
  explicit History(const Space& space) : space_(space), default_(space.default_config()) {}

  struct Entry {
    Config config;  // canonical
    Outcome outcome;
  };

  void tell(const Config& config, const Outcome& outcome);

  // Every tell in order, repeats of one configuration included.
  const std::vector<Entry>& entries() const { return entries_; }
  // The last outcome told for this configuration, or nullptr.
  const Outcome* find(const Config& canonical) const;
  int distinct() const { return static_cast<int>(last_.size()); }  // configurations told
  bool told(const Config& canonical) const { return last_.contains(key_of(canonical)); }

  // True when an out-of-memory trial shows that this configuration would end the same way.
  bool must_run_out_of_memory(const Config& canonical) const;
  // Not told, no constraint violated, not doomed.
  bool worth_trying(const Config& canonical) const;

  // The best feasible entry (best_of), or nullptr.
  const Entry* best() const;

  const Space& space() const { return space_; }
  const Config& default_config() const { return default_; }

 private:
  Space space_;  // a copy: a strategy outlives whatever it was made from
  Config default_;
  std::vector<Entry> entries_;
  std::vector<Config> out_of_memory_;
  std::unordered_map<std::string, size_t> last_;  // key -> index of its last entry
};

}  // namespace search
