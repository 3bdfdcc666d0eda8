#include "search/machine_level.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

namespace search {
namespace {

constexpr int kStretch = 32, kLeastLaunches = 6;
constexpr int kSweeps = 200;
constexpr double kStill = 1e-9;

struct Mean {
  double sum = 0, n = 0;
  void add(double value) {
    sum += value;
    n += 1;
  }
};

// Where each launch belongs: its round and its stretch, -1 where that has no level of its own.
struct Places {
  std::vector<int> round, stretch;
  int rounds = 0, stretches = 0;
};

// Numbers `keys` from 0 where `counted` launches have them often enough.
int number(const std::vector<std::pair<int, int>>& keys, const std::vector<bool>& counted,
           std::vector<int>& to) {
  std::map<std::pair<int, int>, int> seen;
  for (size_t i = 0; i < keys.size(); ++i) {
    seen[keys[i]] += counted[i] ? 1 : 0;
  }
  int next = 0;
  for (auto& [key, launches] : seen) {
    launches = launches >= kLeastLaunches ? next++ : -1;
  }
  to.clear();
  for (const auto& key : keys) {
    to.push_back(seen[key]);
  }
  return next;
}

Places places(std::span<const TimedLaunch> launches, const std::vector<bool>& counted) {
  std::vector<std::pair<int, int>> rounds, stretches;
  std::map<int, int> ran;  // in each round
  for (const TimedLaunch& launch : launches) {
    rounds.emplace_back(launch.round, 0);
    stretches.emplace_back(launch.round, ran[launch.round] / kStretch);
    ran[launch.round] += launch.usable ? 1 : 0;
  }
  Places found;
  found.rounds = number(rounds, counted, found.round);
  found.stretches = number(stretches, counted, found.stretch);
  std::map<int, std::pair<int, int>> ends;  // of each round: its lowest and highest stretch
  for (size_t i = 0; i < launches.size(); ++i) {
    auto [at, fresh] = ends.try_emplace(found.round[i], found.stretch[i], found.stretch[i]);
    at->second.first = std::min(at->second.first, found.stretch[i]);
    at->second.second = std::max(at->second.second, found.stretch[i]);
  }
  for (size_t i = 0; i < launches.size(); ++i) {
    auto [low, high] = ends[found.round[i]];
    if (found.round[i] < 0 || low == high) {
      found.stretch[i] = -1;  // the round itself
    }
  }
  if (found.rounds < 2) {  // nothing to compare it with
    found.rounds = 0;
    std::fill(found.round.begin(), found.round.end(), -1);
  }
  return found;
}

class Fit {
 public:
  Fit(std::span<const TimedLaunch> launches, size_t points, std::vector<bool> counted)
      : launches_(launches),
        counted_(std::move(counted)),
        places_(places(launches, counted_)),
        point_(points),
        round_(static_cast<size_t>(places_.rounds)),
        stretch_(static_cast<size_t>(places_.stretches)) {}

  MachineLevels run() {
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      double moved = settle(point_, 0, [&](size_t i) { return static_cast<int>(launches_[i].point); });
      moved += settle(round_, 0, [&](size_t i) { return places_.round[i]; });
      moved += settle(stretch_, drawn_, [&](size_t i) { return places_.stretch[i]; });
      draw();
      if (moved < kStill) {
        break;
      }
    }
    return levels();
  }

 private:
  double level(size_t i) const {
    return (places_.round[i] < 0 ? 0 : round_[static_cast<size_t>(places_.round[i])]) +
           (places_.stretch[i] < 0 ? 0 : stretch_[static_cast<size_t>(places_.stretch[i])]);
  }
  double left(size_t i) const { return launches_[i].value - point_[launches_[i].point] - level(i); }

  // One group's effects from what the others leave, with `drawn` launches of 0 beside its own. How far they moved.
  template <class Place>
  double settle(std::vector<double>& effects, double drawn, Place place) {
    std::vector<Mean> means(effects.size());
    for (size_t i = 0; i < launches_.size(); ++i) {
      if (int at = place(i); counted_[i] && at >= 0) {
        means[static_cast<size_t>(at)].add(left(i) + effects[static_cast<size_t>(at)]);
      }
    }
    double moved = 0;
    for (size_t at = 0; at < effects.size(); ++at) {
      const double now = means[at].n > 0 ? means[at].sum / (means[at].n + drawn) : 0;
      moved += std::fabs(now - effects[at]);
      effects[at] = now;
    }
    return moved;
  }

  // How strongly stretches are drawn to 0: by the noise of a launch over how much they differ (expectation-maximisation).
  void draw() {
    std::map<int, double> sizes;
    std::map<size_t, int> of_point;
    double squares = 0, launches = 0;
    for (size_t i = 0; i < launches_.size(); ++i) {
      if (counted_[i]) {
        squares += left(i) * left(i);
        launches += 1;
        ++of_point[launches_[i].point];
        if (places_.stretch[i] >= 0) {
          sizes[places_.stretch[i]] += 1;
        }
      }
    }
    used_ = std::max(places_.rounds - 1, 0);
    for (const auto& [stretch, n] : sizes) {
      used_ += n / (n + drawn_);
    }
    const double noise =
        squares / std::max(launches - static_cast<double>(of_point.size()) - used_, 1.0) + 1e-12;
    double spread = 0;
    for (const auto& [stretch, n] : sizes) {
      const double effect = stretch_[static_cast<size_t>(stretch)];
      spread += (effect * effect + noise / (n + drawn_)) / static_cast<double>(sizes.size());
    }
    drawn_ = spread > 0 ? std::min(noise / spread, 1e6) : drawn_;
  }

  MachineLevels levels() const {
    MachineLevels found;
    Mean all;
    double low = 0, high = 0;
    for (size_t i = 0; i < launches_.size(); ++i) {
      found.of.push_back(level(i));
      if (launches_[i].usable) {
        low = all.n > 0 ? std::min(low, found.of.back()) : found.of.back();
        high = all.n > 0 ? std::max(high, found.of.back()) : found.of.back();
        all.add(found.of.back());
      }
    }
    for (double& one : found.of) {
      one -= all.n > 0 ? all.sum / all.n : 0;
    }
    found.freedom = used_;
    found.swing = std::exp(high - low) - 1;
    return found;
  }

  std::span<const TimedLaunch> launches_;
  std::vector<bool> counted_;
  Places places_;
  std::vector<double> point_, round_, stretch_;
  double drawn_ = 8, used_ = 0;
};

}  // namespace

MachineLevels machine_levels(std::span<const TimedLaunch> launches) {
  size_t points = 0;
  for (const TimedLaunch& launch : launches) {
    points = std::max(points, launch.point + 1);
  }
  std::vector<int> usable(points, 0);
  for (const TimedLaunch& launch : launches) {
    usable[launch.point] += launch.usable ? 1 : 0;
  }
  std::vector<bool> counted;
  for (const TimedLaunch& launch : launches) {
    counted.push_back(launch.usable && usable[launch.point] > 1);
  }
  return Fit(launches, points, std::move(counted)).run();
}

}  // namespace search
