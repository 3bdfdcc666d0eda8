#include "src/study/ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "search/strategy.h"

namespace study {

void Ranking::add(uint64_t key, const search::Config& config, int trial_id,
                  const std::vector<double>& objective) {
  if (objective.empty()) {
    return;
  }
  auto [at, fresh] = index_.try_emplace(key, entries_.size());
  if (!fresh) {
    add_launch(key, objective.back(), true, false);
    return;
  }
  Ranked entry;
  entry.key = key;
  entry.config = config;
  entry.trial_id = trial_id;
  entry.objective = objective;
  entry.launches = entry.tries = 1;
  entry.sum = objective.back();
  entries_.push_back(std::move(entry));
}

void Ranking::add_launch(uint64_t key, double value, bool feasible, bool final_launch) {
  auto at = index_.find(key);
  if (at == index_.end() || !std::isfinite(value)) {
    return;
  }
  Ranked& entry = entries_[at->second];
  entry.sum += value;
  ++entry.launches;
  ++entry.tries;
  entry.missed += feasible ? 0 : 1;
  entry.finals += final_launch ? 1 : 0;
  entry.objective.back() = entry.sum / entry.launches;
}

void Ranking::add_failure(uint64_t key) {
  if (auto at = index_.find(key); at != index_.end()) {
    Ranked& entry = entries_[at->second];
    ++entry.tries;
    ++entry.missed;
    ++entry.finals;
  }
}

const Ranked* Ranking::find(uint64_t key) const {
  auto at = index_.find(key);
  return at == index_.end() ? nullptr : &entries_[at->second];
}

std::vector<size_t> Ranking::tied_before_last() const {
  std::vector<size_t> left;
  size_t width = std::numeric_limits<size_t>::max();
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].stands()) {
      left.push_back(i);
      width = std::min(width, entries_[i].objective.size());
    }
  }
  for (size_t entry = 0; !left.empty() && entry + 1 < width; ++entry) {
    double peak = -std::numeric_limits<double>::infinity();
    for (size_t i : left) {
      peak = std::max(peak, entries_[i].objective[entry]);
    }
    std::erase_if(left, [&](size_t i) {
      double value = entries_[i].objective[entry];
      return value != peak &&
             !(peak - value <= search::kObjectiveTolerance * std::max(std::fabs(peak), std::fabs(value)));
    });
  }
  return left;
}

const Ranked* Ranking::leader(double sigma, uint64_t default_key) const {
  const Ranked* best = nullptr;
  const Ranked* usual = nullptr;
  double best_score = 0;
  for (size_t i : tied_before_last()) {
    const Ranked& entry = entries_[i];
    double mean = entry.objective.back();
    double score = mean - std::fabs(mean) * sigma / std::sqrt(entry.launches);
    if (entry.key == default_key) {
      usual = &entry;
    } else if (best == nullptr || score > best_score) {
      best = &entry;
      best_score = score;
    }
  }
  bool default_leads =
      usual != nullptr && (best == nullptr || usual->objective.back() >= best->objective.back());
  return default_leads ? usual : best;
}

std::vector<const Ranked*> Ranking::contenders(double sigma, uint64_t but, size_t at_most) const {
  std::vector<const Ranked*> order;
  for (size_t i : tied_before_last()) {
    if (entries_[i].key != but) {
      order.push_back(&entries_[i]);
    }
  }
  if (order.empty()) {
    return order;
  }
  auto higher = [](const Ranked* a, const Ranked* b) {
    bool a_final = a->finals > 0;
    bool b_final = b->finals > 0;
    if (a_final != b_final) {
      return a_final;
    }
    return a->objective.back() > b->objective.back();
  };
  double peak = -std::numeric_limits<double>::infinity();
  for (const Ranked* entry : order) {
    peak = std::max(peak, entry->objective.back());
  }
  std::erase_if(order, [&](const Ranked* entry) {
    double error = std::fabs(peak) * sigma * std::sqrt(1 + 1.0 / entry->launches);
    return entry->finals == 0 && peak - entry->objective.back() > 2 * error;
  });
  std::stable_sort(order.begin(), order.end(), higher);
  if (order.size() > at_most) {
    order.resize(at_most);
  }
  return order;
}

}  // namespace study
