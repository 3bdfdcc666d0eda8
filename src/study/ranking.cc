#include "src/study/ranking.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

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

std::vector<const Ranked*> Ranking::contenders(double sigma, uint64_t but) const {
  std::vector<const Ranked*> order;
  for (size_t i : tied_before_last()) {
    if (entries_[i].key != but) {
      order.push_back(&entries_[i]);
    }
  }
  if (order.empty()) {
    return order;
  }
  const Ranked* peak =
      *std::ranges::max_element(order, {}, [](const Ranked* entry) { return entry->objective.back(); });
  std::erase_if(order, [&](const Ranked* entry) {
    double error =
        std::fabs(peak->objective.back()) * sigma * std::sqrt(1.0 / peak->launches + 1.0 / entry->launches);
    return entry->finals == 0 && peak->objective.back() - entry->objective.back() > 2 * error;
  });
  std::ranges::stable_sort(order, std::greater<>(),
                           [](const Ranked* entry) { return entry->objective.back(); });
  return order;
}

const Ranked* Ranking::next_final(double sigma, uint64_t but, std::span<const int> waves) const {
  std::vector<const Ranked*> field = contenders(sigma, but);
  // Who fell out gave up its place to another: not for ever.
  const int planned = std::accumulate(waves.begin(), waves.end(), 0);
  const int launched = std::accumulate(entries_.begin(), entries_.end(), 0,
                                       [](int sum, const Ranked& entry) { return sum + entry.finals; });
  if (launched >= 2 * planned) {
    return nullptr;
  }
  for (int wave = 0; wave < static_cast<int>(waves.size()); ++wave) {
    std::stable_partition(field.begin(), field.end(),
                          [wave](const Ranked* entry) { return entry->finals > wave; });
    if (const auto places = static_cast<size_t>(waves[static_cast<size_t>(wave)]); field.size() > places) {
      field.resize(places);
    }
    auto next = std::ranges::find_if(field, [wave](const Ranked* entry) { return entry->finals <= wave; });
    if (next != field.end()) {
      return *next;
    }
    std::ranges::stable_sort(field, std::greater<>(),
                             [](const Ranked* entry) { return entry->objective.back(); });
  }
  return nullptr;
}

}  // namespace study
