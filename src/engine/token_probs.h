#pragma once
// The probabilities that n_probs and logprobs report. Pure.

#include <optional>
#include <span>

#include "src/engine/generation_types.h"

namespace engine {

// logits [n_vocab]; `n_top` is cut to n_vocab. Sums in double: perplexities are made of these. Nothing: the logits
// are no distribution (NaN, +infinity, or -infinity all over).
std::optional<TokenProbs> token_probs(std::span<const float> logits, int token, int n_top);

}  // namespace engine
