#pragma once
// What a person wants to know at seven in the morning beside the winner: what costs nothing, what looks broken, what
// fits. Pure, out of a digest; each finding is one sentence or two.

#include <string>
#include <vector>

#include "src/report/digest.h"

namespace report {

struct Finding {
  enum class Kind { kFree, kCost, kUnclear, kAnomaly, kMemory };
  Kind kind = Kind::kFree;
  std::string text;
};

std::vector<Finding> findings(const Digest& digest);

// The parts of it. KV cache types, pair by pair against the default's: free where no quality item and no recall is
// lost and decode is within noise or 3%; unclear where only decode is lower, and within noise or against what the
// verdict's own launches say; an anomaly where decode is 0.6 or less of what other pairs reach.
std::vector<Finding> kv_findings(const Digest& digest);
// Axes that changed neither decode nor prefill.
std::vector<Finding> idle_axes(const Digest& digest);
// Largest context per pair, and where memory ended.
std::vector<Finding> memory_frontier(const Digest& digest);
// Drift, a default that does not repeat, throttling, disturbed timings, numbers that cannot be true, curves, predictions and their audits.
std::vector<Finding> anomalies(const Digest& digest);

// The decode speed that a row's other axes let expect with the default's cache types: of the rows that share them;
// else the default's, times what each other axis did by itself. nullopt: not known.
std::optional<double> expected_decode(const Digest& digest, const Row& row);

}  // namespace report
