#include "search/random.h"

#include "search/grid.h"
#include "search/history_strategy.h"
#include "search/rng.h"

namespace search {
namespace {

constexpr int kDraws = 2000;
// When draws keep missing, a space of up to this many points is walked from a random start instead.
constexpr double kMaxWalk = 1e6;

class Random final : public HistoryStrategy {
 public:
  Random(const Space& space, uint64_t seed, const Limits& limits)
      : HistoryStrategy(space, limits), seed_(seed) {}

 private:
  std::optional<Proposal> compute() override {
    if (auto usual = first()) {
      return usual;
    }
    // A function of the seed and of how much is known, so that a resumed study goes on alike.
    const Space& space = history_.space();
    Rng rng(seed_, static_cast<uint64_t>(history_.launched()));
    for (int draw = 0; draw < kDraws; ++draw) {
      Config config;
      for (const Axis& axis : space.axes) {
        config.push_back(axis.values[rng.below(axis.values.size())]);
      }
      config = space.canonical(config);
      if (history_.worth_trying(config)) {
        return Proposal{std::move(config), "random", "drawn evenly from the space"};
      }
    }
    if (space.grid_size() > kMaxWalk) {
      return std::nullopt;
    }
    auto size = static_cast<uint64_t>(space.grid_size());
    uint64_t start = rng.below(size);
    for (uint64_t step = 0; step < size; ++step) {
      Config config = space.canonical(grid_point(space, (start + step) % size));
      if (history_.worth_trying(config)) {
        return Proposal{std::move(config), "random", "one of the few points left"};
      }
    }
    return std::nullopt;
  }

  uint64_t seed_;
};

}  // namespace

std::unique_ptr<Strategy> make_random(const Space& space, uint64_t seed, const Limits& limits) {
  return std::make_unique<Random>(space, seed, limits);
}

}  // namespace search
