#pragma once
// Statistics as pure functions over samples; none of them reads a clock or a file.

#include <span>

namespace base {

// All return NaN for an empty span.
double mean(std::span<const double> samples);
double median(std::span<const double> samples);
// p in [0, 1], linear interpolation between order statistics (type 7 of Hyndman and Fan).
double quantile(std::span<const double> samples, double p);
// Median absolute deviation, scaled by 1.4826 so that it estimates a normal sigma.
double mad(std::span<const double> samples);
// Sample standard deviation (n - 1); NaN for fewer than two samples.
double stddev(std::span<const double> samples);

}  // namespace base
