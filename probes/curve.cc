#include "probes/curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace probes {
namespace {

constexpr double kMemoryBound = 0.25;  // of the bandwidth: under this, something else is the limit
constexpr double kOutlierShare = 0.10, kOutlierResiduals = 5;

struct Line {
  double a = 0, b = 0, rss = 0, sxx = 0;
  size_t n = 0;
};

// Least squares over all points but `skip`; false with fewer than two different depths.
bool fit_line(std::span<const CurvePoint> points, size_t skip, Line& line) {
  double mean_x = 0, mean_y = 0;
  line = {};
  for (size_t i = 0; i < points.size(); ++i) {
    if (i != skip) {
      mean_x += points[i].n;
      mean_y += points[i].ms_per_token;
      ++line.n;
    }
  }
  if (line.n < 2) {
    return false;
  }
  mean_x /= static_cast<double>(line.n);
  mean_y /= static_cast<double>(line.n);
  double sxy = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    if (i != skip) {
      double dx = points[i].n - mean_x;
      line.sxx += dx * dx;
      sxy += dx * (points[i].ms_per_token - mean_y);
    }
  }
  if (!(line.sxx > 0)) {
    return false;
  }
  line.b = sxy / line.sxx;
  line.a = mean_y - line.b * mean_x;
  for (size_t i = 0; i < points.size(); ++i) {
    if (i != skip) {
      double off = points[i].ms_per_token - line.a - line.b * points[i].n;
      line.rss += off * off;
    }
  }
  return true;
}

double rms(const Line& line) {
  return line.n > 2 ? std::sqrt(line.rss / static_cast<double>(line.n - 2)) : 0;
}

// The point whose absence makes the rest fit best, when it is far off what they say; points.size() = none.
size_t find_outlier(std::span<const CurvePoint> points) {
  size_t best = points.size();
  Line best_line;
  for (size_t i = 0; points.size() >= 4 && i < points.size(); ++i) {
    Line line;
    if (fit_line(points, i, line) && (best == points.size() || line.rss < best_line.rss)) {
      best = i;
      best_line = line;
    }
  }
  if (best == points.size()) {
    return best;
  }
  double expected = best_line.a + best_line.b * points[best].n;
  double off = std::abs(points[best].ms_per_token - expected);
  bool far = off > kOutlierShare * std::abs(expected) && off > kOutlierResiduals * rms(best_line);
  return far ? best : points.size();
}

std::string anomaly_of(const CurveFit& fit, const CurveInputs& inputs) {
  bool known = inputs.device_bytes_per_s > 0;
  double bandwidth = known ? inputs.device_bytes_per_s : fit.weight_bytes_per_s;
  if (!(inputs.kv_bytes_per_token > 0) || !(bandwidth > 0)) {
    return "";
  }
  double ms_explained = 1000 * inputs.kv_bytes_per_token / bandwidth * 1000;
  double least_ms = fit.ms_per_1k - 2 * fit.ms_per_1k_se;
  if (least_ms <= ms_explained / kMemoryBound) {
    return "";
  }
  return fmt::format(
      "attention not memory-bound: each 1,000 tokens of context add {:.2f} ms to a token where reading their "
      "KV "
      "cache takes {:.2f} ms at {:.0f} GB/s{}: {:.0f}% of the bandwidth",
      fit.ms_per_1k, ms_explained, bandwidth / 1e9, known ? "" : " (as the weights are read)",
      100 * ms_explained / fit.ms_per_1k);
}

}  // namespace

CurveFit fit_curve(std::span<const CurvePoint> points, const CurveInputs& inputs) {
  CurveFit fit;
  for (const CurvePoint& point : points) {
    if (!std::isfinite(point.ms_per_token) || point.ms_per_token <= 0) {
      fit.problem = fmt::format("no time per token at a depth of {}", point.n);
      return fit;
    }
  }
  size_t outlier = find_outlier(points);
  Line line;
  if (!fit_line(points, outlier, line)) {
    fit.problem = "needs two different depths or more";
    return fit;
  }
  fit.outlier = outlier == points.size() ? -1 : static_cast<int>(outlier);
  fit.base_ms = line.a;
  fit.ms_per_1k = line.b * 1000;
  fit.residual_ms = std::sqrt(line.rss / static_cast<double>(line.n));
  fit.ms_per_1k_se = rms(line) / std::sqrt(line.sxx) * 1000;
  if (inputs.weight_bytes > 0 && fit.base_ms > 0) {
    fit.weight_bytes_per_s = inputs.weight_bytes / (fit.base_ms / 1000);
  }
  if (inputs.kv_bytes_per_token > 0 && fit.ms_per_1k > 0) {
    fit.kv_bytes_per_s = 1000 * inputs.kv_bytes_per_token / (fit.ms_per_1k / 1000);
  }
  if (line.n > 2) {  // two points fit any line: no telling how far off it is
    fit.anomaly = anomaly_of(fit, inputs);
  }
  return fit;
}

base::Result<CurveResult> run_curve(const Endpoint& endpoint, const CurveOptions& options,
                                    const CurveInputs& inputs, int n_ctx) {
  CurveResult result;
  for (int depth : options.depths) {
    // The template and the nonce take a few tokens; half of what is generated lies behind the prompt on average.
    if (n_ctx > 0 && depth > n_ctx - options.speed.n_gen - 32) {
      continue;
    }
    SpeedOptions speed = options.speed;
    speed.depth = depth;
    speed.keep_prompt = true;
    speed.warmups = std::max(1, speed.warmups);
    auto measured = run_speed(endpoint, speed);
    if (!measured) {
      return measured.failure();
    }
    if (!measured->implausible.empty() || !measured->too_short.empty()) {
      result.implausible =
          fmt::format("at {} tokens: {}", depth,
                      measured->implausible.empty() ? measured->too_short : measured->implausible);
      return result;
    }
    CurvePoint point;
    int prompt_n = measured->samples.empty() ? depth : measured->samples.front().prompt_n;
    point.n = (prompt_n > 0 ? prompt_n : depth) + speed.n_gen / 2;
    point.ms_per_token = 1000 / measured->decode_tps;
    result.points.push_back(point);
    result.prefill_tps.push_back(measured->prefill_tps);
  }
  result.fit = fit_curve(result.points, inputs);
  return result;
}

base::Json to_json(const CurveResult& result) {
  base::Json json = {{"points", base::Json::array()}};
  for (size_t i = 0; i < result.points.size(); ++i) {
    json["points"].push_back({{"n", result.points[i].n},
                              {"ms_per_token", result.points[i].ms_per_token},
                              {"decode_tps", 1000 / result.points[i].ms_per_token},
                              {"prefill_tps", result.prefill_tps[i]}});
  }
  const CurveFit& fit = result.fit;
  if (!fit.problem.empty()) {
    json["problem"] = fit.problem;
    return json;
  }
  auto known = [](double value) { return value > 0 ? base::Json(value) : base::Json(nullptr); };
  json["base_ms"] = fit.base_ms;
  json["ms_per_1k"] = fit.ms_per_1k;
  json["ms_per_1k_se"] = fit.ms_per_1k_se;
  json["residual_ms"] = fit.residual_ms;
  json["outlier"] = fit.outlier >= 0 ? base::Json(fit.outlier) : base::Json(nullptr);
  json["weight_bytes_per_s"] = known(fit.weight_bytes_per_s);
  json["kv_bytes_per_s"] = known(fit.kv_bytes_per_s);
  json["anomaly"] = fit.anomaly.empty() ? base::Json(nullptr) : base::Json(fit.anomaly);
  return json;
}

}  // namespace probes
