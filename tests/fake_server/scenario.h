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
  double noise = 0;             // relative, on rates; deterministic for seed, flags and request number
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
  bool native = true;                   // false: /v1/models and /v1/chat/completions are all there is
  std::string port_file;                // of the behaviour "stranger": its port is written there

  // KV memory, as tbq.kv_bytes of /props. Per 1,024 tokens at f16; the cache types scale it. A cache above the
  // limit does not fit.
  double kv_mib_per_1k = 0, kv_limit_mib = 0;

  std::vector<std::string> reconfigure;      // axes that POST /reconfigure changes; none: no such route
  std::string reconfigure_behaviour = "ok";  // ok, refuse, fail, die, hang
  double reconfigure_s = 0;
  bool logprobs = false;           // POST /v1/completions with echo tells those of the prompt
  double ppl = 10, ppl_noise = 0;  // their perplexity; scatter of one token's loss, by the numerics
  bool numerics = false;           // tbq.numerics_key: of the model's name and the cache types

  double launch_noise = 0;      // sigma of the logarithm of all rates of one launch (or reconfiguration)
  double drift_per_launch = 0;  // rates change by this share from one launch to the next
  std::string launch_counter;   // file that counts launches: the same count, the same noise
};

// MiB of KV cache that these flags take, 0 where the scenario does not say.
double kv_mib(const Scenario& scenario, const Flags& flags);
// 16 hex digits, equal where greedy text is.
std::string numerics_key(const Flags& flags);
bool is_cache_type(const std::string& name);

// Applies the scenario's JSON text to the flags. A KV cache above kv_limit_mib gives the behaviour "oom". Keys of a rule's "set" are those of the scenario.
//   {"decode_tps": 24, "rules": [{"when": {"cache_type_k": ["q8_0", "q4_0"], "ctx_size": {"min": 32768}},
//                                 "set": {"decode_tps": 9}}]}
base::Result<Scenario> parse_scenario(std::string_view text, const std::string& where, const Flags& flags);

}  // namespace fake
