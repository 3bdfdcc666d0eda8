#pragma once
// "Did you mean": the known word nearest to a mistyped one.

#include <span>
#include <string>
#include <string_view>

namespace base {

// Insertions, deletions, substitutions and swaps of neighbours, in bytes.
size_t edit_distance(std::string_view a, std::string_view b);

// "" when nothing is near: at most a third of the word may differ (one edit at least). '-' and '_' count
// alike.
std::string closest(std::string_view word, std::span<const std::string> known);

// "did you mean ctx_size?", or "use one of a, b, c" when nothing is near.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace base
