#include "probes/speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "probes/filler.h"
#include "src/base/stats.h"

namespace probes {
namespace {

using base::Json;
using base::json_get;

constexpr double kGraceMs = 5;         // between the server's clock and ours: sockets, parsing, scheduling
constexpr double kAbsurdTps = 100000;  // no server decodes one stream at this rate
constexpr int kFewestTokens = 8;       // under this many a rate says nothing
// Samples that a busy host spoils: so many before the first good one, and so many for each that is wanted after it.
constexpr int kFewestRetaken = 8, kMostRetaken = 10;

// Why a sample cannot be true; `why` is "" where it may. `host`: a busy host makes honest samples look so, too, when it
// keeps our own process from reading what has come.
struct Doubt {
  std::string why;
  bool host = false;
};
Doubt doubt(const SpeedSample& sample, const SpeedOptions& options) {
  if (sample.backwards || json_get(sample.timings, "predicted_ms", 0.0) < 0 ||
      json_get(sample.timings, "prompt_ms", 0.0) < 0) {
    return {"a clock went backwards"};
  }
  if (!std::isfinite(sample.decode_tps) || !std::isfinite(sample.prefill_tps) || sample.decode_tps <= 0 ||
      sample.prefill_tps <= 0) {
    return {"a rate is not a finite number above zero"};
  }
  if (sample.predicted_n < options.n_gen && !sample.end_of_text) {
    return {fmt::format("{} tokens came where {} were asked for, without an end of text", sample.predicted_n,
                        options.n_gen)};
  }
  if (sample.predicted_n > options.n_gen || sample.events > options.n_gen + 1) {
    return {fmt::format("{} tokens came where {} were asked for", std::max(sample.predicted_n, sample.events),
                        options.n_gen)};
  }
  // The BOS token, and what a chat template puts before every prompt, may be kept; ours begins with a nonce.
  if (int cached = json_get(sample.timings, "cache_n", 0);
      cached > std::max(1, sample.prompt_n / 8) && !sample.kept_prompt) {
    return {fmt::format("{} tokens of a new prompt came from a cache", cached)};
  }
  double decode_ms = sample.total_ms - sample.ttft_ms;
  double claimed_decode_ms = json_get(sample.timings, "predicted_ms", 0.0);
  double claimed_tps = json_get(sample.timings, "predicted_per_second", 0.0);
  if (claimed_tps > 0 && decode_ms > kGraceMs) {
    double allowed = (sample.predicted_n) / ((decode_ms - kGraceMs) / 1000);
    if (claimed_tps > 2 * allowed) {
      return {fmt::format("the server claims {:.0f} tok/s where our clock allows at most {:.0f}", claimed_tps,
                          allowed),
              true};
    }
  }
  if (claimed_tps > kAbsurdTps) {
    return {fmt::format("the server claims {:.0f} tok/s", claimed_tps)};
  }
  // Tokens that waited for us arrive together. No grace: a generation of a few milliseconds is where it hides.
  if (claimed_decode_ms > 1.5 * decode_ms + 1) {
    return {fmt::format("{} tokens came in a burst of {:.1f} ms where the server took {:.1f} ms",
                        sample.predicted_n, decode_ms, claimed_decode_ms),
            true};
  }
  double claimed_prompt_ms = json_get(sample.timings, "prompt_ms", 0.0);
  if (claimed_prompt_ms > 2 * sample.ttft_ms + kGraceMs) {
    return {
        fmt::format("the first token came after {:.1f} ms where the server took {:.1f} ms to read the prompt",
                    sample.ttft_ms, claimed_prompt_ms)};
  }
  if (sample.prompt_n >= 256 && !sample.kept_prompt && sample.decode_tps > 10 * sample.prefill_tps) {
    return {fmt::format("decode at {:.0f} tok/s is over ten times prefill at {:.0f}", sample.decode_tps,
                        sample.prefill_tps),
            true};
  }
  return {};
}

// Canned timings: equal to the last digit in every sample, while the tokens took visibly different times.
bool timings_are_canned(const std::vector<SpeedSample>& samples) {
  if (samples.size() < 3) {
    return false;
  }
  double shortest = INFINITY, longest = 0;
  for (const SpeedSample& sample : samples) {
    for (const char* field : {"prompt_ms", "predicted_ms"}) {
      double claimed = json_get(sample.timings, field, 0.0);
      if (!(claimed > 0) || claimed != json_get(samples[0].timings, field, 0.0)) {
        return false;
      }
    }
    shortest = std::min(shortest, sample.total_ms - sample.ttft_ms);
    longest = std::max(longest, sample.total_ms - sample.ttft_ms);
  }
  return longest > 1.25 * shortest && longest - shortest > 50;
}

bool too_short(const SpeedSample& sample, const SpeedOptions& options) {
  return sample.end_of_text && sample.predicted_n < std::min(kFewestTokens, options.n_gen);
}

std::string prompt_of(int sentences, uint64_t nonce) {
  // The nonce comes first: whatever prefix a cache may hold ends there. The rest is the same each time, and
  // so is its length.
  std::string text = fmt::format("Note {:08x}.", nonce & 0xffffffff);
  for (int i = 0; i < sentences; ++i) {
    text += ' ';
    text += filler_sentence(1, i);
  }
  return text;
}

uint64_t fresh_nonce() {
  // Not from the seed: a server that outlives the run (kind: url) must not know the prompt from last time.
  return std::random_device()();
}

// What a server that cannot be told to go on is asked for.
constexpr std::string_view kLongAnswer =
    " Continue these notes with many more sentences of the same kind, as long as you can, and do not stop.";

SpeedSample sample_of(const Generation& generation) {
  SpeedSample sample;
  sample.events = static_cast<int>(generation.token_ms.size());
  sample.backwards = generation.ttft_ms < 0 || generation.total_ms < generation.ttft_ms ||
                     !std::is_sorted(generation.token_ms.begin(), generation.token_ms.end());
  sample.timings = generation.timings;
  sample.prompt_n =
      generation.prompt_tokens > 0 ? generation.prompt_tokens : json_get(generation.timings, "prompt_n", 0);
  sample.predicted_n = generation.completion_tokens > 0 ? generation.completion_tokens
                                                        : static_cast<int>(generation.token_ms.size());
  sample.ttft_ms = generation.ttft_ms;
  sample.total_ms = generation.total_ms;
  sample.prefill_tps = sample.prompt_n / (sample.ttft_ms / 1000);
  sample.decode_tps = (sample.predicted_n - 1) / ((sample.total_ms - sample.ttft_ms) / 1000);
  sample.end_of_text = generation.finish_reason == "stop";
  return sample;
}

}  // namespace

SpeedResult score_speed(const std::vector<SpeedSample>& samples, const SpeedOptions& options) {
  SpeedResult result;
  result.samples = samples;
  if (samples.empty()) {
    result.implausible = "there are no samples";
    return result;
  }
  bool any_clean = false, any_long = false;
  for (const SpeedSample& sample : samples) {
    any_clean = any_clean || sample.faults == 0;
    any_long = any_long || !too_short(sample, options);
    result.disturbed += sample.faults > 0 ? 1 : 0;
  }
  std::vector<double> decode, prefill, ttft;
  for (const SpeedSample& sample : samples) {
    if (any_clean && sample.faults > 0) {
      continue;
    }
    if (!sample.kept_prompt) {
      prefill.push_back(sample.prefill_tps);
      ttft.push_back(sample.ttft_ms);
    }
    if (too_short(sample, options)) {
      continue;
    }
    decode.push_back(sample.decode_tps);
    if (result.implausible.empty()) {
      result.implausible = doubt(sample, options).why;
    }
  }
  if (result.implausible.empty() && timings_are_canned(samples)) {
    result.implausible =
        "the server's timings are the same to the last digit each time, and our clock's are not";
  }
  if (!any_long) {
    result.too_short = fmt::format("the answers end by themselves after {} of {} tokens",
                                   samples.back().predicted_n, options.n_gen);
  }
  result.decode_tps = decode.empty() ? 0 : base::median(decode);
  result.decode_tps_mad = decode.empty() ? 0 : base::mad(decode);
  result.prefill_tps = prefill.empty() ? 0 : base::median(prefill);
  result.ttft_ms = ttft.empty() ? 0 : base::median(ttft);
  return result;
}

base::Result<SpeedResult> run_speed(const Endpoint& endpoint, const SpeedOptions& options) {
  int target = options.depth > 0 ? options.depth : options.n_prompt;
  if (target < 1 || options.n_gen < 2 || options.repeats < 1 || options.warmups < 0) {
    return base::error("probes.speed", "needs n_prompt >= 1, n_gen >= 2, repeats >= 1 and warmups >= 0",
                       "correct them in the space file");
  }
  uint64_t nonce = fresh_nonce();
  auto sized = text_of_length(endpoint, target, [&](int n) { return prompt_of(n, nonce); });
  if (!sized) {
    return sized.failure();
  }
  auto sentences = static_cast<int>(std::count(sized->begin(), sized->end(), '.')) - 1;
  std::vector<SpeedSample> samples;
  SpeedSample first;
  int impossible = 0, bursts = 0, faulty = 0;  // samples given up, by why; each with a limit of its own
  double given_up_ms = 0;
  bool believed = false;  // a sample was good
  for (int i = 0; i < options.warmups + options.repeats; ++i) {
    const int retaken = impossible + bursts + faulty;
    bool known = options.keep_prompt && (i > 0 || retaken > 0);
    std::string prompt = prompt_of(sentences, options.keep_prompt ? nonce : fresh_nonce());
    if (!endpoint.native) {
      prompt += kLongAnswer;
    }
    uint64_t faults_before = options.faults ? options.faults() : 0;
    auto generation = complete(endpoint, prompt, options.n_gen, true, options.keep_prompt);
    if (!generation) {
      return generation.failure();
    }
    SpeedSample sample = sample_of(*generation);
    sample.kept_prompt = known;
    uint64_t faults_after = options.faults ? options.faults() : 0;
    sample.faults = faults_after - std::min(faults_before, faults_after);
    if (i == 0 && retaken == 0) {
      first = sample;
    }
    if (i < options.warmups) {
      continue;
    }
    // On a busy host our own process may sleep through a burst of tokens: that sample is measured again, as often as
    // it takes once the server has shown that it can be believed. One whose numbers are impossible every time is not
    // given a better one. Likewise where pages had to be read.
    Doubt why = too_short(sample, options) ? Doubt{} : doubt(sample, options);
    const bool host = sample.faults == 0 && why.host;
    int limit = options.repeats;
    if (host) {
      limit = believed ? kMostRetaken * limit : std::max(limit, kFewestRetaken);
    }
    int& given_up = sample.faults > 0 ? faulty : host ? bursts : impossible;
    if (given_up < limit && given_up_ms < options.retake_s * 1000 &&
        (sample.faults > 0 || !why.why.empty())) {
      ++given_up;
      given_up_ms += std::max(0.0, sample.total_ms);
      --i;
      continue;
    }
    believed = believed || why.why.empty();
    samples.push_back(std::move(sample));
  }
  SpeedResult result = score_speed(samples, options);
  result.retaken = impossible + bursts + faulty;
  if (options.keep_prompt) {
    // The one request that read the whole prompt, warm-up or not.
    result.prefill_tps = first.prefill_tps;
    result.ttft_ms = first.ttft_ms;
  }
  return result;
}

base::Json to_json(const SpeedResult& result) {
  Json json = Json::object();
  if (result.implausible.empty()) {
    if (result.too_short.empty()) {
      json["decode_tps"] = result.decode_tps;
      json["decode_tps_mad"] = result.decode_tps_mad;
    } else {
      json["too_short"] = result.too_short;
    }
    json["prefill_tps"] = result.prefill_tps;
    json["ttft_ms"] = result.ttft_ms;
  } else {
    json["implausible"] = result.implausible;
  }
  if (result.retaken > 0) {
    json["retaken"] = result.retaken;
  }
  if (result.disturbed > 0) {
    json["disturbed"] = result.disturbed;
  }
  json["samples"] = Json::array();
  for (const SpeedSample& sample : result.samples) {
    Json row = {{"prompt_n", sample.prompt_n},       {"predicted_n", sample.predicted_n},
                {"ttft_ms", sample.ttft_ms},         {"total_ms", sample.total_ms},
                {"prefill_tps", sample.prefill_tps}, {"decode_tps", sample.decode_tps}};
    if (sample.kept_prompt) {
      row["kept_prompt"] = true;
    }
    if (sample.faults > 0) {
      row["faults"] = sample.faults;
    }
    row["timings"] = sample.timings;
    json["samples"].push_back(std::move(row));
  }
  return json;
}

}  // namespace probes
