#pragma once
// Decode speed against context depth, fitted freely as t = a + b * n: what a token costs by itself, and what each
// token of context adds to it. Against the bytes that must be read for both, these are bandwidths; where the second
// is a small part of what the device can do, attention is not bound by memory, and a faster kernel is to be had.

#include <span>
#include <string>
#include <vector>

#include "probes/endpoint.h"
#include "probes/speed.h"

namespace probes {

struct CurvePoint {
  int n = 0;                // tokens of context while decoding
  double ms_per_token = 0;  // > 0
};

// What is known besides the points; 0 = unknown, and what depends on it is then not said.
struct CurveInputs {
  double weight_bytes = 0;        // read for each token whatever the depth
  double kv_bytes_per_token = 0;  // read for each token for each token of context
  double device_bytes_per_s = 0;  // memory bandwidth of the device
};

struct CurveFit {
  double base_ms = 0, ms_per_1k = 0;  // a, and b per 1,000 tokens
  double ms_per_1k_se = 0;            // standard error of the latter; 0 of two points
  double residual_ms = 0;             // root mean square, the outlier left out
  int outlier = -1;                   // index of the one point that does not belong; -1 = none
  double weight_bytes_per_s = 0, kv_bytes_per_s = 0;  // 0 = not known, or no measurable slope
  std::string anomaly;                                // "" or a sentence: "attention not memory-bound: ..."
  std::string problem;  // why there is no fit: fewer than two depths; the numbers above are 0 then
};

// Pure. Least squares; the anomaly wants three points. With four points or more, one may be left out: the one without which the others fit best,
// when it then lies off by more than 10% and five times their residual. The anomaly: even a slope two standard
// errors lower would use under a quarter of the device's bandwidth; where that is unknown, of the bandwidth at which
// the weights were read (the device has at least that).
CurveFit fit_curve(std::span<const CurvePoint> points, const CurveInputs& inputs);

struct CurveOptions {
  std::vector<int> depths;  // tokens; empty = the probe is off
  SpeedOptions speed;       // n_gen, repeats, warmups, faults
};
struct CurveResult {
  std::vector<CurvePoint> points;
  std::vector<double> prefill_tps;  // of the one cold prompt at each depth
  CurveFit fit;
  std::string implausible;  // of one of its speed measurements
};
// One prompt per depth, which the server may keep: the first request reads it in, each sample decodes behind it.
// Depths over `n_ctx` less the tokens to generate are left out (0 = unknown).
base::Result<CurveResult> run_curve(const Endpoint& endpoint, const CurveOptions& options,
                                    const CurveInputs& inputs, int n_ctx);
base::Json to_json(const CurveResult& result);

}  // namespace probes
