#pragma once
// How fast the machine was when each launch of a grid ran. Rounds of repeats lie hours apart, and a machine whose speed
// changed meanwhile would otherwise make the points that ran in a slow hour look bad, and its drift look like scatter.

#include <cstddef>
#include <span>
#include <vector>

namespace search {

struct TimedLaunch {
  size_t point = 0;     // which configuration
  int round = 0;        // which stretch of the recording
  double value = 0;     // logarithm of what was measured
  bool usable = false;  // it was measured at all
};

struct MachineLevels {
  std::vector<double> of;  // of each launch, a logarithm; over all usable ones they add up to 0
  double freedom = 0;      // what they took of the freedom that repeats give
  double swing = 0;        // the fastest level over the slowest, less 1
};

// `launches` in the order they ran. A value is taken as its point's, plus its round's, plus that of one of the stretches of
// some 32 launches that the round is made of, plus noise. Rounds are fitted freely; stretches are drawn towards 0 by as
// much as the data ask for (one by one they are few launches). Only points with several launches tell levels, and
// rounds with fewer than six such launches get none.
MachineLevels machine_levels(std::span<const TimedLaunch> launches);

}  // namespace search
