#pragma once
// Plain English sentences to fill a context with: neutral, without numbers or codes, the same for the same
// index.

#include <cstdint>
#include <string>

namespace probes {

// The index-th sentence of a sequence that `seed` has shuffled. 720 differ before any comes again.
std::string filler_sentence(uint64_t seed, int index);

}  // namespace probes
