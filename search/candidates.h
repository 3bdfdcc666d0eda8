#pragma once
// The configurations a model may choose among, as indices of values: all of them where the space is small, else a
// fresh sample and the neighbours of what is known to be good.

#include <cstdint>
#include <span>
#include <vector>

#include "search/history.h"

namespace search {

// One index into each axis' values.
using Levels = std::vector<uint16_t>;

Levels levels_of(const Space& space, const Config& config);
Config config_of(const Space& space, const Levels& levels);

class Candidates {
 public:
  // A space of up to this many points, before constraints, is listed once.
  static constexpr double kMaxListed = 20'000;
  static constexpr int kSample = 3000;

  explicit Candidates(const Space& space);

  // Canonical, no constraint broken, each once. Where the space is too large for a list, or that list holds more than
  // `most`: kSample draws by `seed` and `stream`, and all that differ from one of `centres` in one axis.
  std::vector<Levels> get(uint64_t seed, uint64_t stream, std::span<const Config> centres,
                          size_t most = static_cast<size_t>(kMaxListed)) const;

 private:
  Space space_;
  bool listed_ = false;
  std::vector<Levels> all_;
};

}  // namespace search
