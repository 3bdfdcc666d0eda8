#include "probes/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "probes/filler.h"
#include "src/base/stats.h"

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

// Means of `resamples` draws of n differences in whole blocks, around the end and on from the start (so that every
// token is as likely as any other).
std::vector<double> block_bootstrap(std::span<const double> differences, const PerplexityOptions& options) {
  size_t n = differences.size(), block = std::min<size_t>(static_cast<size_t>(options.block), n);
  size_t blocks = (n + block - 1) / block;
  std::vector<double> sums(n);  // of the block that starts here
  double sum = 0;
  for (size_t i = 0; i < block; ++i) {
    sum += differences[i];
  }
  for (size_t i = 0; i < n; ++i) {
    sums[i] = sum;
    sum += differences[(i + block) % n] - differences[i];
  }
  std::vector<double> means;
  uint64_t draw = 0;
  for (int r = 0; r < options.resamples; ++r) {
    double total = 0;
    for (size_t b = 0; b < blocks; ++b) {
      total += sums[mix(options.seed, draw++) % n];
    }
    means.push_back(total / static_cast<double>(blocks * block));
  }
  return means;
}

}  // namespace

std::string_view to_string(PerplexityVerdict verdict) {
  return verdict == PerplexityVerdict::kPass   ? "pass"
         : verdict == PerplexityVerdict::kFail ? "fail"
                                               : "undecided";
}

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
  AR_CHECK(options.block > 0 && options.resamples > 0 && options.margin > 0 && options.confidence > 0 &&
               options.confidence < 1,
           "options out of range");
  size_t n = base_losses.size();
  if (n != test_losses.size()) {
    return base::error("perplexity", fmt::format("{} tokens against {}", n, test_losses.size()),
                       "evaluate the same text with both");
  }
  if (n < 4 * static_cast<size_t>(options.block)) {
    return base::error("perplexity", fmt::format("{} tokens are too few", n),
                       fmt::format("evaluate {} or more", 4 * options.block));
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
  double mean = (sum_test - sum_base) / count, limit = std::log1p(options.margin);
  std::vector<double> means = block_bootstrap(differences, options);
  double low = base::quantile(means, (1 - options.confidence) / 2);
  double high = base::quantile(means, (1 + options.confidence) / 2);
  result.ppl_base = std::exp(sum_base / count);
  result.ppl_test = std::exp(sum_test / count);
  result.ratio = std::exp(mean);
  result.low = std::exp(low);
  result.high = std::exp(high);
  if (high < limit) {
    result.verdict = PerplexityVerdict::kPass;
  } else if (low > limit) {
    result.verdict = PerplexityVerdict::kFail;
  } else {
    // The interval shrinks with the root of the tokens; the side towards the margin must end before it.
    double side = mean < limit ? high - mean : mean - low;
    double distance = std::abs(limit - mean);
    double needed = distance > 0 ? std::ceil(count * (side / distance) * (side / distance)) : 0;
    result.tokens_needed = needed > 0 && needed < 1e12 ? static_cast<size_t>(needed) : 0;
  }
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
               {"verdict", to_string(result.verdict)}};
  json["tokens_needed"] = result.tokens_needed > 0 ? Json(result.tokens_needed) : Json(nullptr);
  json["kl_mean"] = given(result.kl_mean);
  json["same_top"] = given(result.same_top);
  return json;
}

}  // namespace probes
