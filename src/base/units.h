#pragma once
// Durations and sizes as people write and read them.

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/error.h"

namespace base {

// "90", "90s", "20m", "8h", "1h30m", "250ms" -> seconds. A bare number is seconds.
Result<double> parse_duration_s(std::string_view text);

// 0.0312 -> "31 ms", 12.3 -> "12.3 s", 754 -> "12m34s", 30000 -> "8h20m".
std::string format_duration(double seconds);

// 5116788736 -> "4.77 GiB".
std::string format_bytes(uint64_t bytes);

// 999 -> "999", 260032 -> "260 K", 1240000 -> "1.24 M", 229000000000 -> "229 B": three digits, in thousands, millions
// and billions (10^9), as parameters of models are counted.
std::string format_count(uint64_t count);

}  // namespace base
