#include "search/model_based.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "search/acquisition.h"
#include "search/candidates.h"
#include "search/history_strategy.h"
#include "search/rng.h"

namespace search {
namespace {

constexpr size_t kCentres = 5;  // best launches whose neighbours a sample is given
// Forecasts cost the square of the launches for each candidate: with many of the one, fewer of the other.
constexpr int kManyLaunches = 80;
constexpr size_t kFewCandidates = 4000;

std::string rationale(PromiseKind kind, double value) {
  switch (kind) {
    case PromiseKind::kFeasible:
      return fmt::format("nothing was feasible so far; likeliest to be, by the model: {:.0f}%", 100 * value);
    case PromiseKind::kGain:
      return fmt::format(
          "promises most by the model: an expected gain of {:.2f}% over the best, its odds to be feasible "
          "included",
          100 * value);
    case PromiseKind::kRank:
      return "promises most by the model, all entries of the objective and the odds to be feasible weighed";
    case PromiseKind::kVolume:
      break;
  }
  return "adds most to the front, by the model";
}

class ModelBased final : public HistoryStrategy {
 public:
  ModelBased(const Space& space, uint64_t seed, const Limits& limits)
      : HistoryStrategy(space, limits), seed_(seed), candidates_(space) {}

 private:
  std::optional<Proposal> compute() override {
    auto usual = first();
    return usual ? usual : by_model();
  }

  std::vector<Config> centres() const {
    std::vector<const History::Entry*> order;
    for (const History::Entry& entry : history_.entries()) {
      if (entry.outcome.feasible) {
        order.push_back(&entry);
      }
    }
    std::stable_sort(order.begin(), order.end(), [](const History::Entry* a, const History::Entry* b) {
      return a->outcome.objective > b->outcome.objective;
    });
    std::vector<Config> found = {history_.default_config()};
    for (size_t i = 0; i < std::min(order.size(), kCentres); ++i) {
      found.push_back(order[i]->config);
    }
    return found;
  }

  std::optional<Proposal> by_model() const {
    const auto stream = static_cast<uint64_t>(history_.launched());
    const size_t most =
        history_.launched() > kManyLaunches ? kFewCandidates : static_cast<size_t>(Candidates::kMaxListed);
    std::vector<Levels> open = candidates_.get(seed_, stream, centres(), most);
    const Promise promised = promise(history_, open, limits_.pareto);
    std::vector<double> value = promised.values;
    // Equal promises (before anything was learnt of an axis) are told apart by the seed.
    Rng rng(seed_, 5000 + stream);
    for (double& one : value) {
      one *= 1 + 1e-6 * rng.uniform();
    }
    std::vector<size_t> order(open.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return value[a] > value[b]; });
    for (size_t i : order) {
      Config config = config_of(history_.space(), open[i]);
      if (history_.worth_trying(config)) {
        return Proposal{std::move(config), "model", rationale(promised.kind, promised.values[i])};
      }
    }
    return std::nullopt;
  }

  uint64_t seed_;
  Candidates candidates_;
};

}  // namespace

std::unique_ptr<Strategy> make_model_based(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<ModelBased>(space, seed, limits);
}

}  // namespace search
