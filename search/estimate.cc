#include "search/estimate.h"

#include <cmath>

namespace search {
namespace {

constexpr double kEffectPrior = 0.1, kInteraction = 0.03;
constexpr int kRounds = 20;

struct Row {
  std::vector<size_t> column;  // of each axis: which effect applies
  double value = 0, weight = 0, fitted = 0;
};

// Ridge regression by turns (Gauss-Seidel): each effect in turn takes what the others leave.
void fit(std::vector<Row>& rows, size_t axes, size_t values) {
  std::vector<double> effects(axes * values, 0);
  double level = 0;
  for (int round = 0; round < kRounds; ++round) {
    double sum = 0, weights = 0;
    for (const Row& row : rows) {
      sum += row.weight * (row.value - row.fitted + level);
      weights += row.weight;
    }
    double moved = sum / weights - level;
    level += moved;
    for (Row& row : rows) {
      row.fitted += moved;
    }
    for (size_t axis = 0; axis < axes; ++axis) {
      std::vector<double> left(values, 0), weight(values, 1 / (kEffectPrior * kEffectPrior));
      for (const Row& row : rows) {
        size_t value = row.column[axis];
        left[value] += row.weight * (row.value - row.fitted + effects[axis * values + value]);
        weight[value] += row.weight;
      }
      for (Row& row : rows) {
        size_t value = row.column[axis];
        row.fitted += left[value] / weight[value] - effects[axis * values + value];
      }
      for (size_t value = 0; value < values; ++value) {
        effects[axis * values + value] = left[value] / weight[value];
      }
    }
  }
}

}  // namespace

std::vector<Outcome> estimates(const History& history, const std::vector<size_t>& entries) {
  const Space& space = history.space();
  std::vector<Outcome> result;
  std::vector<Row> rows;
  size_t values = 1;
  double scale = 0;
  bool usable = !entries.empty();
  for (const Axis& axis : space.axes) {
    values = std::max(values, axis.values.size());
  }
  for (size_t entry : entries) {
    const auto& [config, outcome] = history.entries()[entry];
    result.push_back(outcome);
    usable =
        usable && outcome.noise > 0 && !outcome.objective.empty() && std::isfinite(outcome.objective.back());
    if (!usable) {
      continue;
    }
    Row row;
    for (size_t axis = 0; axis < config.size(); ++axis) {
      row.column.push_back(space.axes[axis].index_of(config[axis]));
    }
    row.value = outcome.objective.back();
    row.weight = 1 / (outcome.noise * outcome.noise);
    scale += std::fabs(row.value) / static_cast<double>(entries.size());
    rows.push_back(std::move(row));
  }
  if (!usable || scale <= 0) {
    return result;
  }
  for (Row& row : rows) {
    row.value /= scale;
  }
  fit(rows, space.axes.size(), values);
  for (size_t i = 0; i < rows.size(); ++i) {
    double variance = result[i].noise * result[i].noise;
    double kept = kInteraction * kInteraction / (kInteraction * kInteraction + variance);
    result[i].objective.back() = scale * (rows[i].fitted + kept * (rows[i].value - rows[i].fitted));
    result[i].noise *= std::sqrt(kept);
  }
  return result;
}

}  // namespace search
