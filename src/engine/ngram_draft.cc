#include "src/engine/ngram_draft.h"

#include <algorithm>

namespace engine {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15;  // odd, so that multiplying loses nothing

uint64_t value_of(int token) {
  return static_cast<uint64_t>(token) + 1;
}

}  // namespace

void NgramDraft::restart(std::span<const int> tokens) {
  tokens_.clear();
  latest_.clear();
  hash_ = 0;
  found_ = 0;
  oldest_weight_ = 1;
  for (int i = 1; i < options_.n_match; ++i) {
    oldest_weight_ *= kBase;
  }
  for (const int token : tokens) {
    push(token);
  }
}

void NgramDraft::push(int token) {
  const auto n_match = static_cast<size_t>(options_.n_match);
  if (tokens_.size() >= n_match) {
    hash_ -= value_of(tokens_[tokens_.size() - n_match]) * oldest_weight_;
  }
  hash_ = hash_ * kBase + value_of(token);
  tokens_.push_back(token);
  found_ = 0;
  if (tokens_.size() < n_match) {
    return;
  }
  auto [at, is_new] = latest_.try_emplace(hash_, tokens_.size());
  if (!is_new) {
    found_ = same_context(at->second, tokens_.size()) ? at->second : 0;
    at->second = tokens_.size();
  }
}

// The n_match tokens before a and before b are equal; hashes may collide.
bool NgramDraft::same_context(size_t a, size_t b) const {
  const auto begin = [&](size_t end) {
    return tokens_.begin() + static_cast<std::ptrdiff_t>(end) - options_.n_match;
  };
  return std::equal(begin(a), begin(a) + options_.n_match, begin(b));
}

std::span<const int> NgramDraft::draft(int room) {
  guess_.clear();
  const int n = std::min(options_.n_max, room);
  if (found_ == 0 || n <= 0 || n < std::min(options_.n_min, options_.n_max)) {
    return {};
  }
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    const size_t at = found_ + i;  // past the end: the guess continues itself, as in a loop
    guess_.push_back(at < tokens_.size() ? tokens_[at] : guess_[at - tokens_.size()]);
  }
  return guess_;
}

}  // namespace engine
