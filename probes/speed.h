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
  int depth = 0;  // 0: short context; else the prompt is filled to this many tokens first (decode at depth)
};

struct SpeedSample {
  int prompt_n = 0, predicted_n = 0;
  double ttft_ms = 0, total_ms = 0;
  double prefill_tps = 0;  // prompt_n / time to first token
  double decode_tps = 0;   // (predicted_n - 1) / (total - ttft)
  base::Json timings;      // server's own, verbatim
};
struct SpeedResult {
  std::vector<SpeedSample> samples;
  // Medians over samples and the median absolute deviation of decode_tps.
  double decode_tps = 0, decode_tps_mad = 0, prefill_tps = 0, ttft_ms = 0;
  std::string implausible;  // empty, or why the numbers cannot be true
};

// Pure. Implausible when: the server claims over twice the rate our wall time allows; decode_tps > 10 x
// prefill_tps with prompt_n >= 256; fewer tokens than asked for without an end-of-text; cache_n > 0 on a cold
// prompt; not finite.
SpeedResult score_speed(const std::vector<SpeedSample>& samples, const SpeedOptions& options);
base::Result<SpeedResult> run_speed(const Endpoint& endpoint, const SpeedOptions& options);
base::Json to_json(const SpeedResult& result);

}  // namespace probes
