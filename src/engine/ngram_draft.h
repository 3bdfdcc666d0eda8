#pragma once
// N-gram speculation: where the last n_match tokens have occurred before in the same sequence, what followed
// them then is the guess for what follows now. Pure, and knows nothing of other sequences, so that a speed
// does not depend on what was served before. Guesses are verified in one evaluation (Context::step) and never
// change what is generated.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace engine {

struct SpeculationOptions {  // llama-server's --spec-type ngram-mod and its three numbers
  bool ngram = false;
  int n_min = 48,
      n_max = 64;    // tokens of a guess; a shorter one is not made. n_min over n_max counts as n_max
  int n_match = 24;  // tokens that must agree

  int n_draft() const { return ngram ? n_max : 0; }
};

class NgramDraft {
 public:
  explicit NgramDraft(const SpeculationOptions& options) : options_(options) {}

  // The sequence from its beginning.
  void restart(std::span<const int> tokens);
  void push(int token);
  // At most n_max and `room` tokens that may follow the sequence, valid until the next call; empty when there
  // is no guess of n_min.
  std::span<const int> draft(int room);

 private:
  bool same_context(size_t a, size_t b) const;

  SpeculationOptions options_;
  std::vector<int> tokens_, guess_;
  uint64_t hash_ = 0;                            // of the last n_match tokens, rolling
  uint64_t oldest_weight_ = 1;                   // of the oldest of them
  std::unordered_map<uint64_t, size_t> latest_;  // hash -> where the tokens after such a context begin
  size_t found_ = 0;                             // as latest_ for the present end; 0: nowhere
};

}  // namespace engine
