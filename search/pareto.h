#pragma once
// Several objectives of equal rank: the front of what nothing else beats, and how much of the space it covers. Every
// entry is to be maximised; points are vectors of one length.

#include <cstddef>
#include <vector>

namespace search {

// a is nowhere worse than b, and somewhere better.
bool dominates(const std::vector<double>& a, const std::vector<double>& b);
// Indices of the points that no other dominates, ascending; of equal ones the first.
std::vector<size_t> front_of(const std::vector<std::vector<double>>& points);
// Volume of what the points dominate above `floor`; what lies below it in any entry adds nothing.
double hypervolume(const std::vector<std::vector<double>>& points, const std::vector<double>& floor);

}  // namespace search
