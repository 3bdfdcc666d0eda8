#include "search/candidates.h"

#include <unordered_set>

#include "search/grid.h"
#include "search/rng.h"

namespace search {
namespace {

// Keeps what is new and allowed.
class Gatherer {
 public:
  explicit Gatherer(const Space& space) : space_(space) {}

  void add(const Config& config) {
    Config canonical = space_.canonical(config);
    if (seen_.insert(key_of(canonical)).second && space_.violated(canonical).empty()) {
      found_.push_back(levels_of(space_, canonical));
    }
  }
  std::vector<Levels> take() { return std::move(found_); }

 private:
  const Space& space_;
  std::unordered_set<std::string> seen_;
  std::vector<Levels> found_;
};

}  // namespace

Levels levels_of(const Space& space, const Config& config) {
  Levels levels;
  levels.reserve(config.size());
  for (size_t axis = 0; axis < config.size(); ++axis) {
    levels.push_back(static_cast<uint16_t>(space.axes[axis].index_of(config[axis])));
  }
  return levels;
}

Config config_of(const Space& space, const Levels& levels) {
  Config config;
  config.reserve(levels.size());
  for (size_t axis = 0; axis < levels.size(); ++axis) {
    config.push_back(space.axes[axis].values[levels[axis]]);
  }
  return config;
}

Candidates::Candidates(const Space& space) : space_(space), listed_(space.grid_size() <= kMaxListed) {
  Gatherer gatherer(space_);
  for (uint64_t i = 0; listed_ && i < static_cast<uint64_t>(space_.grid_size()); ++i) {
    gatherer.add(grid_point(space_, i));
  }
  all_ = gatherer.take();
}

std::vector<Levels> Candidates::get(uint64_t seed, uint64_t stream, std::span<const Config> centres,
                                    size_t most) const {
  if (listed_ && all_.size() <= most) {
    return all_;
  }
  Gatherer gatherer(space_);
  for (const Config& centre : centres) {
    for (size_t axis = 0; axis < centre.size(); ++axis) {
      for (const Value& value : space_.axes[axis].values) {
        Config neighbour = centre;
        neighbour[axis] = value;
        gatherer.add(neighbour);
      }
    }
  }
  Rng rng(seed, stream);
  for (int draw = 0; draw < kSample; ++draw) {
    Config config;
    for (const Axis& axis : space_.axes) {
      config.push_back(axis.values[rng.below(axis.values.size())]);
    }
    gatherer.add(config);
  }
  return gatherer.take();
}

}  // namespace search
