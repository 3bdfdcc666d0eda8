#pragma once
// Models and golden logits the engine's tests share.

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/engine/context.h"

namespace fixtures {

// "" where the reference data is not at hand.
inline std::string reference_path(const std::string& name) {
  const char* variable = std::getenv("AUTORESEARCH_REFERENCE");
  const std::string root = variable != nullptr ? variable : AR_SOURCE_DIR "/../shared/reference";
  return std::filesystem::exists(root + "/" + name) ? root + "/" + name : "";
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<float> read_floats(const std::string& path) {
  const std::string text = read_text(path);
  std::vector<float> values(text.size() / sizeof(float));
  std::memcpy(values.data(), text.data(), values.size() * sizeof(float));
  return values;
}

inline std::vector<int> read_tokens(const std::string& path) {
  auto json = base::parse_json(read_text(path), path);
  REQUIRE(json.ok());
  return (*json)["tokens"].get<std::vector<int>>();
}

inline std::shared_ptr<const engine::Model> load(const std::string& path, engine::LoadOptions options = {}) {
  auto model = engine::load_model(path, options);
  REQUIRE_MESSAGE(model.ok(), model.failure().to_string());
  return *model;
}

inline std::unique_ptr<engine::Context> open(std::shared_ptr<const engine::Model> model,
                                             const engine::ContextOptions& options,
                                             std::span<const engine::PartId> cuts = {}) {
  auto context = engine::Context::open_split(std::move(model), options, cuts);
  REQUIRE_MESSAGE(context.ok(), context.failure().to_string());
  return *std::move(context);
}

inline std::vector<float> logits(engine::Context& context, const std::vector<int>& tokens) {
  std::vector<float> all;
  const auto done = context.eval_all(0, tokens, all);
  REQUIRE_MESSAGE(done.ok(), done.failure().to_string());
  return all;
}

// Of tests/data/tiny.gguf's 128.
inline std::vector<int> tiny_tokens(int n) {
  std::vector<int> tokens;
  for (int i = 0; i < n; ++i) {
    tokens.push_back((i * 37 + i * i % 11) % 128);
  }
  return tokens;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Difference {
  double max = 0, rms = 0, golden_std = 0;  // max and rms in units of the golden's standard deviation
};

inline Difference compare(const std::vector<float>& got, const std::vector<float>& golden) {
  REQUIRE(got.size() == golden.size());
  double sum = 0, squares = 0, error = 0, worst = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    const double difference = std::abs(double{got[i]} - double{golden[i]});
    sum += golden[i];
    squares += double{golden[i]} * golden[i];
    error += difference * difference;
    worst = difference <= worst ? worst : difference;  // NaN becomes the worst
  }
  const auto n = static_cast<double>(golden.size());
  const double std = std::sqrt(squares / n - (sum / n) * (sum / n));
  return {worst / std, std::sqrt(error / n) / std, std};
}

}  // namespace fixtures
