#pragma once
// Axes that a constraint ties: changing one alone breaks it ("n_ubatch <= n_batch"), so others move with it.

#include <optional>
#include <span>

#include "search/space.h"

namespace search {

struct Change {
  size_t axis = 0, value = 0;  // indices into space.axes and its values
};

// `from` with these changes, canonical. Where that breaks constraints, the axes they name move along: one of
// them if that is enough, else two; by the fewest steps (of an ordered axis; any other name counts as one),
// the first in the space's order among equals. nullopt when no such repair holds every constraint, or when a
// change does not survive (an inactive axis).
std::optional<Config> with_changes(const Space& space, const Config& from, std::span<const Change> changes);

std::optional<Config> with_change(const Space& space, const Config& from, size_t axis, size_t value);

}  // namespace search
