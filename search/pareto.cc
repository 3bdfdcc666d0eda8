#include "search/pareto.h"

#include <algorithm>

namespace search {

bool dominates(const std::vector<double>& a, const std::vector<double>& b) {
  bool better = false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] < b[i]) {
      return false;
    }
    better |= a[i] > b[i];
  }
  return better;
}

std::vector<size_t> front_of(const std::vector<std::vector<double>>& points) {
  std::vector<size_t> front;
  for (size_t i = 0; i < points.size(); ++i) {
    bool beaten = false;
    for (size_t j = 0; j < points.size() && !beaten; ++j) {
      beaten = dominates(points[j], points[i]) || (j < i && points[j] == points[i]);
    }
    if (!beaten) {
      front.push_back(i);
    }
  }
  return front;
}

namespace {

// Sliced along entry `depth`: each slice is the volume, in the entries after it, of the points that reach so far.
double volume(std::vector<std::vector<double>> points, const std::vector<double>& floor, size_t depth) {
  std::sort(points.begin(), points.end(),
            [depth](const auto& a, const auto& b) { return a[depth] > b[depth]; });
  if (depth + 1 == floor.size()) {
    return points.empty() ? 0 : points.front()[depth] - floor[depth];
  }
  double sum = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    const double below = i + 1 < points.size() ? points[i + 1][depth] : floor[depth];
    if (points[i][depth] > below) {
      const std::vector<std::vector<double>> reach(points.begin(),
                                                   points.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      sum += (points[i][depth] - below) * volume(reach, floor, depth + 1);
    }
  }
  return sum;
}

}  // namespace

double hypervolume(const std::vector<std::vector<double>>& points, const std::vector<double>& floor) {
  std::vector<std::vector<double>> above;
  for (const auto& point : points) {
    bool inside = point.size() == floor.size();
    for (size_t i = 0; inside && i < floor.size(); ++i) {
      inside = point[i] > floor[i];
    }
    if (inside) {
      above.push_back(point);
    }
  }
  std::vector<std::vector<double>> front;
  for (size_t i : front_of(above)) {
    front.push_back(above[i]);
  }
  return floor.empty() ? 0 : volume(std::move(front), floor, 0);
}

}  // namespace search
