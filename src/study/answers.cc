#include "src/study/answers.h"

namespace study {

uint32_t KnownAnswers::intern(const std::string& name) {
  auto [at, fresh] = index_.try_emplace(name, static_cast<uint32_t>(names_.size()));
  if (fresh) {
    names_.push_back(name);
  }
  return at->second;
}

void KnownAnswers::add(uint64_t key, const TrialMetrics& trial) {
  auto [at, fresh] = kept_.try_emplace(key);
  if (!fresh) {
    return;
  }
  at->second.values.reserve(trial.values.size());
  for (const auto& [name, value] : trial.values) {
    at->second.values.emplace_back(intern(name), value);
  }
  at->second.items.reserve(trial.quality_items.size());
  for (const auto& [id, passed] : trial.quality_items) {
    at->second.items.push_back(intern(id) * 2 + (passed ? 1 : 0));
  }
}

TrialMetrics KnownAnswers::complete(uint64_t key, TrialMetrics trial) const {
  auto at = kept_.find(key);
  if (at == kept_.end()) {
    return trial;
  }
  for (const auto& [name, value] : at->second.values) {
    trial.values.emplace(names_[name], value);  // keeps what was measured now
  }
  if (trial.quality_items.empty()) {
    for (uint32_t item : at->second.items) {
      trial.quality_items.emplace(names_[item / 2], item % 2 == 1);
    }
  }
  return trial;
}

}  // namespace study
