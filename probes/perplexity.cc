#include "probes/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace probes {
namespace {

using base::Json;

constexpr double kMaxNll =
    1e4;  // p = 0 is written as a very large number by some; one such token would decide all

base::Result<TokenLoss> parse_line(std::string_view line, const std::string& where) {
  auto json = base::parse_json(line, where);
  if (!json) {
    return json.failure();
  }
  auto number = [&](const char* key) {
    return json->is_object() && json->contains(key) && (*json)[key].is_number();
  };
  if (!number("token") || !number("nll")) {
    return base::error(where, "has no \"token\" and \"nll\"", "write {\"token\": 42, \"nll\": 1.5}");
  }
  TokenLoss loss;
  loss.nll = (*json)["nll"].get<double>();
  double token = (*json)["token"].get<double>();
  double top = base::json_get<double>(*json, "top", -1);
  loss.kl = base::json_get<double>(*json, "kl", -1);
  for (double id : {token, top}) {
    if (!(id >= -1 && id <= std::numeric_limits<int>::max())) {
      return base::error(where, "a token id that is none", "");
    }
  }
  loss.token = static_cast<int>(token);
  loss.top = static_cast<int>(top);
  if (!(loss.nll >= 0 && loss.nll <= kMaxNll)) {
    return base::error(where, fmt::format("\"nll\" is {}, not from 0 to {:g}", loss.nll, kMaxNll),
                       "it is the natural logarithm of 1/p");
  }
  return loss;
}

}  // namespace

base::Result<std::vector<TokenLoss>> parse_losses(std::string_view text, const std::string& where) {
  std::vector<TokenLoss> losses;
  size_t line_number = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
      continue;
    }
    auto loss = parse_line(line, fmt::format("{}:{}", where, line_number));
    if (!loss) {
      return loss.failure();
    }
    losses.push_back(*loss);
  }
  return losses;
}

base::Result<PerplexityResult> score_perplexity(std::span<const TokenLoss> base_losses,
                                                std::span<const TokenLoss> test_losses,
                                                const PerplexityOptions& options) {
  size_t n = base_losses.size();
  if (n != test_losses.size()) {
    return base::error("perplexity", fmt::format("{} tokens against {}", n, test_losses.size()),
                       "evaluate the same text with both");
  }
  if (n < options.min_tokens()) {
    return base::error("perplexity", fmt::format("{} tokens are too few", n),
                       fmt::format("evaluate {} or more", options.min_tokens()));
  }
  PerplexityResult result;
  result.tokens = n;
  std::vector<double> differences(n);
  double sum_base = 0, sum_test = 0, sum_kl = 0;
  size_t same = 0;
  bool has_top = true, has_kl = true;
  for (size_t i = 0; i < n; ++i) {
    const TokenLoss &a = base_losses[i], &b = test_losses[i];
    if (a.token != b.token) {
      return base::error("perplexity",
                         fmt::format("token {} is {} in one run and {} in the other", i, a.token, b.token),
                         "evaluate the same text with the same vocabulary");
    }
    if (!(a.nll >= 0) || !(b.nll >= 0) || !std::isfinite(a.nll) || !std::isfinite(b.nll)) {
      return base::error("perplexity", fmt::format("the loss of token {} is no number", i), "");
    }
    differences[i] = b.nll - a.nll;
    sum_base += a.nll;
    sum_test += b.nll;
    has_top = has_top && a.top >= 0 && b.top >= 0;
    same += a.top == b.top ? 1 : 0;
    has_kl = has_kl && b.kl >= 0;
    sum_kl += b.kl;
  }
  auto count = static_cast<double>(n);
  const base::LossComparison compared = base::compare_losses(differences, options);
  result.ppl_base = std::exp(sum_base / count);
  result.ppl_test = std::exp(sum_test / count);
  result.ratio = compared.ratio;
  result.low = compared.low;
  result.high = compared.high;
  result.verdict = compared.verdict;
  result.tokens_needed = compared.tokens_needed;
  result.kl_mean = has_kl ? sum_kl / count : -1;
  result.same_top = has_top ? static_cast<double>(same) / count : -1;
  return result;
}

base::Json to_json(const PerplexityResult& result) {
  auto given = [](double value) { return value >= 0 ? Json(value) : Json(nullptr); };
  Json json = {{"tokens", result.tokens},
               {"ppl_base", result.ppl_base},
               {"ppl_test", result.ppl_test},
               {"ratio", result.ratio},
               {"low", result.low},
               {"high", result.high},
               {"verdict", base::to_string(result.verdict)}};
  json["tokens_needed"] = result.tokens_needed > 0 ? Json(result.tokens_needed) : Json(nullptr);
  json["kl_mean"] = given(result.kl_mean);
  json["same_top"] = given(result.same_top);
  return json;
}

}  // namespace probes
