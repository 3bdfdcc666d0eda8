#include "search/grid.h"

#include <fmt/format.h>

#include "search/history_strategy.h"

namespace search {
namespace {

// One ask looks at no more points than this: a space whose constraints leave nothing must still end.
constexpr uint64_t kMaxScan = 1'000'000;

class Grid final : public HistoryStrategy {
 public:
  Grid(const Space& space, const Limits& limits)
      : HistoryStrategy(space, limits),
        size_(space.grid_size() < 1e15 ? static_cast<uint64_t>(space.grid_size()) : uint64_t{1} << 50) {}

  void tell(const Config& config, const Outcome& outcome) override {
    int reprieves = history_.reprieves();
    HistoryStrategy::tell(config, outcome);
    if (history_.reprieves() > reprieves) {
      next_ = 0;  // points passed over may be open again; a resumed study starts from the first one, too
    }
  }

 private:
  std::optional<Proposal> compute() override {
    if (auto usual = first()) {
      return usual;
    }
    for (uint64_t scanned = 0; next_ < size_ && scanned < kMaxScan; ++scanned, ++next_) {
      Config config = history_.space().canonical(grid_point(history_.space(), next_));
      if (history_.worth_trying(config)) {
        return Proposal{std::move(config), "grid", fmt::format("point {} of {}", next_ + 1, size_)};
      }
    }
    next_ = size_;
    return std::nullopt;
  }

  uint64_t size_, next_ = 0;  // points before next_ are launched, forbidden or passed over
};

}  // namespace

Config grid_point(const Space& space, uint64_t index) {
  Config config(space.axes.size());
  for (size_t i = space.axes.size(); i-- > 0;) {
    const auto& values = space.axes[i].values;
    config[i] = values[index % values.size()];
    index /= values.size();
  }
  return config;
}

std::unique_ptr<Strategy> make_grid(const Space& space, uint64_t, const Limits& limits) {
  return std::make_unique<Grid>(space, limits);
}

}  // namespace search
