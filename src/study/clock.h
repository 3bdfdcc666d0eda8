#pragma once
// Time of day and time passed.

#include <chrono>
#include <ctime>
#include <optional>
#include <string_view>

namespace study {

// Seconds from `now` until the next "HH:MM" of local time, changes of the clock counted: more than 0. nullopt:
// not a time of day.
std::optional<double> seconds_until(std::string_view hh_mm, std::time_t now);

double seconds_since(std::chrono::steady_clock::time_point start);

}  // namespace study
