#pragma once
// Which configurations may win: each feasible one with all its launches. Pure. The best of many noisy values is too
// good to be true, so the contenders are launched again before one of them goes into the confirmation.

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "search/space.h"

namespace study {

struct Ranked {
  uint64_t key = 0;  // of the configuration
  search::Config config;
  int trial_id = 0;               // its first trial
  std::vector<double> objective;  // the last entry is the mean over launches
  int launches = 0;
  int tries = 0;   // launches, failed ones included
  int missed = 0;  // of these, those in which a limit did not hold or that failed
  int finals = 0;  // tries of phase "final" among them
  double sum = 0;  // of the last entry
  bool stands() const { return 2 * missed <= tries; }
};

class Ranking {
 public:
  // A configuration that ran feasibly in the search. Once per configuration; later ones are launches.
  void add(uint64_t key, const search::Config& config, int trial_id, const std::vector<double>& objective);
  // A further launch of one that is there (others are ignored): its last objective entry.
  void add_launch(uint64_t key, double value, bool feasible, bool final_launch);

  // A final launch that failed: counts as one in which the limits did not hold.
  void add_failure(uint64_t key);

  // Who leads: entry by entry those within search::kObjectiveTolerance of the best stay; by the last entry the
  // highest mean wins, each mean lowered by its own standard error (`sigma`, relative, of one launch), so that one
  // lucky launch does not beat three good ones. The default leads only with the highest plain mean: whoever looks
  // better is worth a confirmation. Nullptr when nothing stands.
  const Ranked* leader(double sigma, uint64_t default_key) const;
  // Those that the best cannot be told apart from, the likeliest first: `but` (the default) left out, within two
  // sigma of the highest mean or launched in the finals already.
  std::vector<const Ranked*> contenders(double sigma, uint64_t but) const;
  // The finals run in waves: waves[0] contenders are launched once more, the best waves[1] of them again, and so on.
  // Whose turn it is; nullptr when they are through. Who was launched in a wave keeps its place in
  // it unless it failed too often; at most twice as many launches as planned come of that.
  const Ranked* next_final(double sigma, uint64_t but, std::span<const int> waves) const;
  const Ranked* find(uint64_t key) const;

 private:
  std::vector<size_t> tied_before_last() const;

  std::vector<Ranked> entries_;
  std::unordered_map<uint64_t, size_t> index_;
};

}  // namespace study
