#include "search/model_based.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "search/acquisition.h"
#include "search/candidates.h"
#include "search/history.h"
#include "search/rng.h"

namespace search {
namespace {

constexpr size_t kCentres = 5;  // best launches whose neighbours a sample is given

class ModelBased final : public Strategy {
 public:
  ModelBased(const Space& space, uint64_t seed, const Limits& limits)
      : history_(space), limits_(limits), seed_(seed), candidates_(space) {}

  std::optional<Proposal> ask() override {
    if (!computed_) {
      pending_ = compute();
      computed_ = true;
    }
    return pending_;
  }

  void tell(const Config& config, const Outcome& outcome) override {
    history_.tell(config, outcome);
    computed_ = false;
  }

  bool done() const override { return history_.used_up(limits_) || (computed_ && !pending_); }

 private:
  std::optional<Proposal> compute() const {
    if (history_.used_up(limits_)) {
      return std::nullopt;
    }
    const Config& base = history_.default_config();
    if (history_.worth_trying(base)) {
      return Proposal{base, "default", "the default configuration, to compare with"};
    }
    return by_model();
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
    std::vector<Levels> open = candidates_.get(seed_, stream, centres());
    std::vector<double> value = promise(history_, open, limits_.pareto);
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
        return Proposal{std::move(config), "model",
                        limits_.pareto ? "adds most to the front, by the model"
                                       : fmt::format("promises most by the model: {:+.2f}%", 100 * value[i])};
      }
    }
    return std::nullopt;
  }

  History history_;
  Limits limits_;
  uint64_t seed_;
  Candidates candidates_;
  bool computed_ = false;
  std::optional<Proposal> pending_;
};

}  // namespace

std::unique_ptr<Strategy> make_model_based(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<ModelBased>(space, seed, limits);
}

}  // namespace search
