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

// Why this sample cannot be true, or "".
std::string doubt(const SpeedSample& sample, const SpeedOptions& options) {
  if (!std::isfinite(sample.decode_tps) || !std::isfinite(sample.prefill_tps) || sample.decode_tps <= 0 ||
      sample.prefill_tps <= 0) {
    return "a rate is not a finite number above zero";
  }
  if (sample.predicted_n < options.n_gen && !sample.end_of_text) {
    return fmt::format("{} tokens came where {} were asked for, without an end of text", sample.predicted_n,
                       options.n_gen);
  }
  if (int cached = json_get(sample.timings, "cache_n", 0); cached > 1) {
    return fmt::format("{} tokens of a new prompt came from a cache", cached);
  }
  double decode_ms = sample.total_ms - sample.ttft_ms;
  double claimed_decode_ms = json_get(sample.timings, "predicted_ms", 0.0);
  double claimed_tps = json_get(sample.timings, "predicted_per_second", 0.0);
  if (claimed_tps > 0 && decode_ms > kGraceMs) {
    double allowed = (sample.predicted_n) / ((decode_ms - kGraceMs) / 1000);
    if (claimed_tps > 2 * allowed) {
      return fmt::format("the server claims {:.0f} tok/s where our clock allows at most {:.0f}", claimed_tps,
                         allowed);
    }
  }
  if (claimed_tps > kAbsurdTps) {
    return fmt::format("the server claims {:.0f} tok/s", claimed_tps);
  }
  // Tokens that waited for us arrive together. No grace: a generation of a few milliseconds is where it hides.
  if (claimed_decode_ms > 1.5 * decode_ms + 1) {
    return fmt::format("{} tokens came in a burst of {:.1f} ms where the server took {:.1f} ms",
                       sample.predicted_n, decode_ms, claimed_decode_ms);
  }
  double claimed_prompt_ms = json_get(sample.timings, "prompt_ms", 0.0);
  if (claimed_prompt_ms > 2 * sample.ttft_ms + kGraceMs) {
    return fmt::format(
        "the first token came after {:.1f} ms where the server took {:.1f} ms to read the prompt",
        sample.ttft_ms, claimed_prompt_ms);
  }
  if (sample.prompt_n >= 256 && sample.decode_tps > 10 * sample.prefill_tps) {
    return fmt::format("decode at {:.0f} tok/s is over ten times prefill at {:.0f}", sample.decode_tps,
                       sample.prefill_tps);
  }
  return "";
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

SpeedSample sample_of(const Generation& generation) {
  SpeedSample sample;
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
  std::vector<double> decode, prefill, ttft;
  for (const SpeedSample& sample : samples) {
    decode.push_back(sample.decode_tps);
    prefill.push_back(sample.prefill_tps);
    ttft.push_back(sample.ttft_ms);
    if (result.implausible.empty()) {
      result.implausible = doubt(sample, options);
    }
  }
  result.decode_tps = base::median(decode);
  result.decode_tps_mad = base::mad(decode);
  result.prefill_tps = base::median(prefill);
  result.ttft_ms = base::median(ttft);
  return result;
}

base::Result<SpeedResult> run_speed(const Endpoint& endpoint, const SpeedOptions& options) {
  int target = options.depth > 0 ? options.depth : options.n_prompt;
  if (target < 1 || options.n_gen < 2 || options.repeats < 1 || options.warmups < 0) {
    return base::error("probes.speed", "needs n_prompt >= 1, n_gen >= 2, repeats >= 1 and warmups >= 0",
                       "correct them in the space file");
  }
  uint64_t nonce = fresh_nonce();
  int sentences = 1;
  auto sized = text_of_length(endpoint, target, [&](int n) { return prompt_of(n, nonce); });
  if (!sized) {
    return sized.failure();
  }
  sentences = static_cast<int>(std::count(sized->begin(), sized->end(), '.')) - 1;
  std::vector<SpeedSample> samples;
  int retaken = 0;
  for (int i = 0; i < options.warmups + options.repeats; ++i) {
    auto generation = complete(endpoint, prompt_of(sentences, fresh_nonce()), options.n_gen, true);
    if (!generation) {
      return generation.failure();
    }
    if (i < options.warmups) {
      continue;
    }
    SpeedSample sample = sample_of(*generation);
    // On a busy host our own process may sleep through a burst of tokens: that sample is measured again, but a
    // server whose numbers stay impossible is not given a better one.
    if (retaken < options.repeats && !doubt(sample, options).empty()) {
      ++retaken;
      --i;
      continue;
    }
    samples.push_back(std::move(sample));
  }
  SpeedResult result = score_speed(samples, options);
  result.retaken = retaken;
  return result;
}

base::Json to_json(const SpeedResult& result) {
  Json json = Json::object();
  if (result.implausible.empty()) {
    json["decode_tps"] = result.decode_tps;
    json["decode_tps_mad"] = result.decode_tps_mad;
    json["prefill_tps"] = result.prefill_tps;
    json["ttft_ms"] = result.ttft_ms;
  } else {
    json["implausible"] = result.implausible;
  }
  if (result.retaken > 0) {
    json["retaken"] = result.retaken;
  }
  json["samples"] = Json::array();
  for (const SpeedSample& sample : result.samples) {
    json["samples"].push_back({{"prompt_n", sample.prompt_n},
                               {"predicted_n", sample.predicted_n},
                               {"ttft_ms", sample.ttft_ms},
                               {"total_ms", sample.total_ms},
                               {"prefill_tps", sample.prefill_tps},
                               {"decode_tps", sample.decode_tps},
                               {"timings", sample.timings}});
  }
  return json;
}

}  // namespace probes
