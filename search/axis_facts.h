#pragma once
// What the search knows about well-known axes before any trial: which ones take memory, and which usually
// matter most. One table; an axis that is not in it is neither.

#include <optional>
#include <string_view>

#include "search/space.h"

namespace search {

// Order in which axes are swept, 0 first; unknown axes share the last place.
int importance_rank(std::string_view axis_name);

// A number that grows with the memory this value takes, comparable within one axis: tokens, bits per KV
// value. nullopt when the axis takes no memory or the value's share is unknown.
std::optional<double> memory_demand(std::string_view axis_name, const Value& value);
bool takes_memory(std::string_view axis_name);

// The axis whose value meets this one's in the same kernel, so that a pair may be slow where each value alone is
// not; "" for none.
std::string_view partner_of(std::string_view axis_name);

// True when `config` needs at least the memory of `smaller`: equal on every axis that takes no memory, and no
// less on each that does. If `smaller` ran out of memory, so will `config`.
bool needs_at_least(const Space& space, const Config& config, const Config& smaller);

}  // namespace search
