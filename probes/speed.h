#pragma once
// Prefill and decode speed and TTFT, on our own clock, cross-checked with the server's. Implausible numbers
// are refused, not recorded.

#include <string>
#include <string_view>
#include <vector>

#include "probes/endpoint.h"

namespace probes {

struct SpeedOptions {
  int n_prompt = 256;  // prompt length in the server's tokens, approximately
  int n_gen = 64;
  int repeats = 3, warmups = 1;
  int depth = 0;  // 0: a prompt of n_prompt tokens; else of this many (decode at depth)
};

struct SpeedSample {
  int prompt_n = 0, predicted_n = 0;
  double ttft_ms = 0, total_ms = 0;
  double prefill_tps = 0;    // prompt_n / time to first token
  double decode_tps = 0;     // (predicted_n - 1) / (total - ttft)
  bool end_of_text = false;  // the server ended it, not the token limit
  base::Json timings;        // server's own, verbatim
};
struct SpeedResult {
  std::vector<SpeedSample> samples;
  // Medians over samples and the median absolute deviation of decode_tps.
  double decode_tps = 0, decode_tps_mad = 0, prefill_tps = 0, ttft_ms = 0;
  int retaken = 0;          // samples that could not be true and were measured again
  std::string implausible;  // empty, or why the numbers cannot be true
};

// Pure. Implausible when: the server claims over twice the rate our wall time allows (5 ms of grace for the
// way between us); the tokens came in one burst; decode_tps > 10 x prefill_tps with prompt_n >= 256; fewer
// tokens than asked for without an end-of-text; cache_n > 1 on a cold prompt (1: the BOS token); not finite.
SpeedResult score_speed(const std::vector<SpeedSample>& samples, const SpeedOptions& options);
base::Result<SpeedResult> run_speed(const Endpoint& endpoint, const SpeedOptions& options);
base::Json to_json(const SpeedResult& result);

}  // namespace probes
