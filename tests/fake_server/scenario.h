#pragma once
// What the fake server pretends to be: defaults, the scenario file's fields, then every rule that fits its
// flags.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/base/json.h"

namespace fake {

// The command line, by canonical name: "-ctk q8_0" and "--cache-type-k=q8_0" both as cache_type_k. Flags
// without a value hold "true" ("--no-mmap": no_mmap).
using Flags = std::map<std::string, std::string>;
Flags parse_flags(const std::vector<std::string>& args);

struct Scenario {
  std::string behaviour = "ok";
  int exit_code = 1;       // of exit-during-load
  int after_requests = 2;  // crash-mid-probe: how many generations succeed first
  double load_s = 0;
  double decode_tps = 1000, prefill_tps = 20000;
  double decode_ms_per_1k = 0;  // added to each token's time per 1,000 tokens of context
  double noise = 0;             // relative, on rates; deterministic for seed, launch flags and request number
  uint64_t seed = 1;
  double time_scale = 1;                // every pretended duration times this
  double quality = 1;                   // share of the suite's items answered rightly, in the suite's order
  std::vector<std::string> fail_items;  // and ids answered wrongly whatever that share
  double needle = 1;                    // share of needles found, evenly spread
  std::string suite;                    // path of the known-answer suite
  std::string model_id;                 // /v1/models; default: -m
  int n_ctx = 0;                        // /props; default: -c, 4096 where that is 0 or absent
  int allocate_mib = 0;                 // memory really taken at load
  base::Json props;                     // merged into the answer of /props
};

// Applies the scenario's JSON text to the flags. Keys of a rule's "set" are those of the scenario.
//   {"decode_tps": 24, "rules": [{"when": {"cache_type_k": ["q8_0", "q4_0"], "ctx_size": {"min": 32768}},
//                                 "set": {"decode_tps": 9}}]}
base::Result<Scenario> parse_scenario(std::string_view text, const std::string& where, const Flags& flags);

}  // namespace fake
