#include "search/frontier.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "search/axis_facts.h"

namespace search {
namespace {

double excess(const Space& space, const Config& config, const Config& failure) {
  double sum = 0;
  for (size_t i = 0; i < space.axes.size(); ++i) {
    auto mine = memory_demand(space.axes[i].name, config[i]);
    auto theirs = memory_demand(space.axes[i].name, failure[i]);
    if (!mine || !theirs || equal(config[i], failure[i])) {
      continue;
    }
    // A tail or a sink of 0 tokens takes nothing.
    const bool from_zero = *mine == 0 || *theirs == 0;
    sum += from_zero ? std::log1p(*mine) - std::log1p(*theirs) : std::log(*mine / *theirs);
  }
  return sum;
}

}  // namespace

void Frontier::failed(const Space& space, const Config& config) {
  // The same configuration once here and once there stands at the edge: its failure tells something.
  bool contradicted = std::any_of(ran_.begin(), ran_.end(), [&](const Config& larger) {
    return needs_at_least(space, larger, config) && key_of(larger) != key_of(config);
  });
  if (!contradicted) {
    failures_.push_back(config);
  }
}

size_t Frontier::ran(const Space& space, const Config& config) {
  ran_.push_back(config);
  return std::erase_if(failures_,
                       [&](const Config& failure) { return needs_at_least(space, config, failure); });
}

bool Frontier::dooms(const Space& space, const Config& config) const {
  return std::any_of(failures_.begin(), failures_.end(),
                     [&](const Config& failure) { return needs_at_least(space, config, failure); });
}

const Config* Frontier::nearest(const Space& space, const Config& config, double* distance) const {
  const Config* found = nullptr;
  *distance = std::numeric_limits<double>::infinity();
  for (const Config& failure : failures_) {
    double beyond = needs_at_least(space, config, failure) ? excess(space, config, failure) : INFINITY;
    if (beyond < *distance) {
      *distance = beyond;
      found = &failure;
    }
  }
  return found;
}

double Frontier::distance(const Space& space, const Config& config) const {
  double distance = 0;
  nearest(space, config, &distance);
  return distance;
}

std::string Frontier::why(const Space& space, const Config& config) const {
  double distance = 0;
  const Config* failure = nearest(space, config, &distance);
  if (failure == nullptr) {
    return "";
  }
  std::string what = describe(space, *failure, space.default_config());
  return (what == "default" ? "the default" : what) + " ran out of memory, and this needs at least as much";
}

}  // namespace search
