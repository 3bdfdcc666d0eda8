#pragma once
// Prefill and decode speed and TTFT, on our own clock, cross-checked with the server's. Implausible numbers
// are refused, not recorded.

#include <cstdint>
#include <functional>
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
  // True: one prompt for all samples, which the server may keep once it has read it. Only the first request then
  // says anything about prefill.
  bool keep_prompt = false;
  // Samples are measured again only until so much time has gone into those given up. (At one token a second a busy
  // host's share of ten for each would take hours.)
  double retake_s = 120;
  // A counter that grows with each major fault or refault that could slow the server; null = unknown. A sample
  // during which it grew is measured again.
  std::function<uint64_t()> faults;
};

struct SpeedSample {
  int prompt_n = 0, predicted_n = 0;
  int events = 0;  // of the stream that carried text
  double ttft_ms = 0, total_ms = 0;
  double prefill_tps = 0;    // prompt_n / time to first token
  double decode_tps = 0;     // (predicted_n - 1) / (total - ttft)
  bool end_of_text = false;  // the server ended it, not the token limit
  bool kept_prompt = false;  // the prompt may come from the server's memory: decode alone counts
  bool backwards = false;    // a clock went backwards: tokens before the request, or out of order
  uint64_t faults = 0;       // pages that had to be read while it ran
  base::Json timings;        // server's own, verbatim
};
struct SpeedResult {
  std::vector<SpeedSample> samples;
  // Medians over samples and the median absolute deviation of decode_tps. prefill_tps and ttft_ms are of samples
  // with a prompt of their own, 0 where there is none.
  double decode_tps = 0, decode_tps_mad = 0, prefill_tps = 0, ttft_ms = 0;
  int retaken = 0;          // samples that could not be true, or were disturbed, and were measured again
  int disturbed = 0;        // samples that had faults every time; left out where there are others
  std::string implausible;  // empty, or why the numbers cannot be true
  // Not empty: the answers end by themselves too early to be timed, and decode_tps is 0 (a server without
  // ignore_eos).
  std::string too_short;
};

// Pure. Implausible when: the server claims over twice the rate our wall time allows (5 ms of grace for the
// way between us); the tokens came in one burst; decode_tps > 10 x prefill_tps with prompt_n >= 256; fewer
// tokens than asked for without an end-of-text, or more; cache_n over an eighth of a cold prompt (the BOS token and a chat template may be kept); a clock
// went backwards; three samples or more with timings equal to the last digit while our clock saw them differ; not
// finite.
SpeedResult score_speed(const std::vector<SpeedSample>& samples, const SpeedOptions& options);
base::Result<SpeedResult> run_speed(const Endpoint& endpoint, const SpeedOptions& options);
base::Json to_json(const SpeedResult& result);

}  // namespace probes
