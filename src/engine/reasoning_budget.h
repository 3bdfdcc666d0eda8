#pragma once
// How long a model may think: after so many tokens inside its reasoning the end of it is written in the model's
// place, token by token, and the model goes on from there. What counts as reasoning is what ReasoningSplitter
// says, so that the tokens counted are those a client sees as reasoning. Pure.

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "src/engine/chat_reasoning.h"

namespace engine {

struct ReasoningLimit {
  int n_max = -1;           // generated tokens of reasoning; -1: no limit; 0: it ends where it begins
  bool inside = false;      // the prompt has opened the reasoning
  std::vector<int> ending;  // what ends it, the closing tag at its end; not empty where there is a limit
};

class ReasoningBudget {
 public:
  // `limit` must outlive it.
  explicit ReasoningBudget(const ReasoningLimit& limit);

  // The next token, whatever the model would say; nullopt: the model's own.
  std::optional<int> forced() const;
  // More forced tokens follow that one.
  bool forces_more() const { return state_ == State::kForcing && n_forced_ + 1 < limit_.ending.size(); }
  // The token that was generated, forced or not, as text. mid_character: all the text so far ends inside a
  // character, which is not cut in two.
  void accept(std::string_view piece, bool mid_character);

 private:
  enum class State { kWatching, kForcing, kDone };

  const ReasoningLimit& limit_;
  State state_;
  ReasoningSplitter splitter_;
  int n_used_ = 0;
  size_t n_forced_ = 0;
};

}  // namespace engine
