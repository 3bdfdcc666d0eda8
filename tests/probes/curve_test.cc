// The fit of decode time against depth.
#include <doctest/doctest.h>

#include <cmath>

#include "probes/curve.h"

using namespace probes;

namespace {

// Tokens per second at a depth in thousands.
CurvePoint at(double thousands, double tps) {
  CurvePoint point;
  point.n = static_cast<int>(thousands * 1000);
  point.ms_per_token = 1000 / tps;
  return point;
}

// A 229B model at 3 bits on a GB10: 10B active parameters, and KV at tbq4_0/tbq3_0.
CurveInputs box() {
  CurveInputs inputs;
  inputs.weight_bytes = 4.4e9;
  inputs.kv_bytes_per_token = 57536;
  inputs.device_bytes_per_s = 273e9;
  return inputs;
}

std::vector<CurvePoint> line(double a, double b_per_1k, std::initializer_list<int> depths) {
  std::vector<CurvePoint> points;
  for (int n : depths) {
    points.push_back({n, a + b_per_1k * n / 1000});
  }
  return points;
}

}  // namespace

TEST_CASE("four points that cost 25 times what their KV traffic explains raise the anomaly") {
  std::vector<CurvePoint> points = {at(1.4, 21.8), at(2.6, 18.0), at(3.8, 16.3), at(4.6, 15.1)};
  CurveFit fit = fit_curve(points, box());
  CHECK(fit.problem == "");
  CHECK(fit.outlier == -1);
  CHECK(fit.ms_per_1k > 5);
  CHECK(fit.ms_per_1k < 7);
  CHECK(fit.base_ms == doctest::Approx(38).epsilon(0.05));
  CHECK(fit.kv_bytes_per_s < 0.05 * 273e9);
  CAPTURE(fit.anomaly);
  CHECK(fit.anomaly.starts_with("attention not memory-bound"));
  CHECK(fit.anomaly.find("0.21 ms") != std::string::npos);
  CurveInputs unknown = box();
  unknown.device_bytes_per_s = 0;  // then the rate of the weights stands for it: 4.4 GB in 38 ms
  CHECK(fit_curve(points, unknown).anomaly.find("as the weights are read") != std::string::npos);
  unknown.kv_bytes_per_token = 0;
  CHECK(fit_curve(points, unknown).anomaly == "");
  CHECK(fit_curve(points, unknown).kv_bytes_per_s == 0);
}

TEST_CASE("a decode that KV traffic explains raises none") {
  // 0.21 ms per 1,000 tokens at full bandwidth, 0.5 at 43% of it.
  CurveFit fit = fit_curve(line(38, 0.49, {1400, 16000, 48000, 96000}), box());
  CHECK(fit.ms_per_1k == doctest::Approx(0.49));
  CHECK(fit.base_ms == doctest::Approx(38));
  CHECK(fit.kv_bytes_per_s == doctest::Approx(117.4e9).epsilon(0.01));
  CHECK(fit.weight_bytes_per_s == doctest::Approx(115.8e9).epsilon(0.01));
  CHECK(fit.anomaly == "");
  CHECK(fit_curve(line(38, 1.5, {1400, 16000, 48000, 96000}), box()).anomaly != "");
}

TEST_CASE("one outlier does not bend the curve, scatter is not called one") {
  auto points = line(38, 0.5, {1000, 16000, 32000, 64000, 96000});
  points[2].ms_per_token *= 1.6;
  CurveFit fit = fit_curve(points, box());
  CHECK(fit.outlier == 2);
  CHECK(fit.ms_per_1k == doctest::Approx(0.5));
  CHECK(fit.anomaly == "");
  auto noisy = line(38, 0.5, {1000, 16000, 32000, 64000, 96000});
  for (size_t i = 0; i < noisy.size(); ++i) {
    noisy[i].ms_per_token *= i % 2 == 0 ? 1.02 : 0.98;
  }
  CHECK(fit_curve(noisy, box()).outlier == -1);
}

TEST_CASE("a slope that is all noise is no anomaly, and too few depths are no fit") {
  auto points = line(50, 0, {500, 1000, 1500, 2000});
  points[0].ms_per_token = 44;
  points[1].ms_per_token = 52;
  points[2].ms_per_token = 45;
  points[3].ms_per_token = 53;
  CHECK(fit_curve(points, box()).ms_per_1k > 1);
  CHECK(fit_curve(points, box()).anomaly == "");
  CHECK(fit_curve(line(50, 9, {500, 1500}), box()).anomaly == "");  // two points fit any line
  CHECK(fit_curve(line(50, 9, {500}), box()).problem != "");
  CHECK(fit_curve(line(50, 9, {500, 500, 500}), box()).problem != "");
  CHECK(fit_curve({}, box()).problem != "");
  std::vector<CurvePoint> silent = {{500, 50}, {1000, 0}};
  CHECK(fit_curve(silent, box()).problem.find("1000") != std::string::npos);
  CurveFit faster =
      fit_curve(line(50, -1, {500, 1000, 4000}), box());  // faster with depth: no bandwidth of it
  CHECK(faster.kv_bytes_per_s == 0);
  CHECK(faster.anomaly == "");
}

TEST_CASE("the curve as JSON") {
  CurveResult result;
  result.points = line(38, 6, {1400, 2600, 3800, 4600});
  result.prefill_tps = {500, 490, 480, 470};
  result.fit = fit_curve(result.points, box());
  base::Json json = to_json(result);
  CHECK(json["points"].size() == 4);
  CHECK(json["ms_per_1k"].get<double>() == doctest::Approx(6));
  CHECK(json["anomaly"].is_string());
  CHECK(json["outlier"].is_null());
}
