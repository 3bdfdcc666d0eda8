#include "search/grid.h"

#include <fmt/format.h>

#include "search/history.h"

namespace search {
namespace {

// One ask looks at no more points than this: a space whose constraints leave nothing must still end.
constexpr uint64_t kMaxScan = 1'000'000;

class Grid final : public Strategy {
 public:
  Grid(const Space& space, const Limits& limits)
      : history_(space),
        limits_(limits),
        size_(space.grid_size() < 1e15 ? static_cast<uint64_t>(space.grid_size()) : uint64_t{1} << 50) {}

  std::optional<Proposal> ask() override {
    advance();
    return pending_;
  }

  void tell(const Config& config, const Outcome& outcome) override {
    int reprieves = history_.reprieves();
    history_.tell(config, outcome);
    if (history_.reprieves() > reprieves) {
      // Points passed over may be open again; a resumed study starts from the first one, too.
      next_ = 0;
      exhausted_ = false;
    }
    if (pending_ && !history_.worth_trying(pending_->config)) {
      pending_.reset();
    }
  }

  bool done() const override { return exhausted_ || history_.used_up(limits_); }

 private:
  void advance() {
    if (done()) {
      pending_.reset();
      return;
    }
    if (pending_) {
      return;
    }
    if (history_.worth_trying(history_.default_config())) {
      pending_ = Proposal{history_.default_config(), "default", "the default configuration, to compare with"};
      return;
    }
    for (uint64_t scanned = 0; next_ < size_ && scanned < kMaxScan; ++scanned) {
      uint64_t index = next_++;
      Config config = history_.space().canonical(grid_point(history_.space(), index));
      if (history_.worth_trying(config)) {
        pending_ = Proposal{std::move(config), "grid", fmt::format("point {} of {}", index + 1, size_)};
        return;
      }
    }
    exhausted_ = true;
  }

  History history_;
  Limits limits_;
  uint64_t size_, next_ = 0;
  bool exhausted_ = false;
  std::optional<Proposal> pending_;
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
