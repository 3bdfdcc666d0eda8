#pragma once
// What each configuration measured, kept small: a study of thousands of trials must not hold their maps. Item and
// metric names are stored once.

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/study/objective.h"

namespace study {

class KnownAnswers {
 public:
  // The first trial of a configuration counts.
  void add(uint64_t key, const TrialMetrics& trial);
  // Adds to `trial` what it did not measure itself, from the first trial of its configuration: a launch that measures
  // speed alone cites the rest.
  TrialMetrics complete(uint64_t key, TrialMetrics trial) const;

 private:
  struct Kept {
    std::vector<std::pair<uint32_t, double>> values;
    std::vector<uint32_t> items;  // index * 2 + passed
  };
  uint32_t intern(const std::string& name);

  std::vector<std::string> names_;
  std::unordered_map<std::string, uint32_t> index_;
  std::unordered_map<uint64_t, Kept> kept_;
};

}  // namespace study
