#pragma once
// Splits what a model says into its reasoning, between <think> and </think>, and its answer, piece by piece as
// it is generated. Tags never come out, however they are cut; blanks around either part do not either. Pure.

#include <string>
#include <string_view>

namespace engine {

class ReasoningSplitter {
 public:
  struct Parts {
    std::string reasoning, content;
  };

  // inside: the prompt has opened the reasoning already (ChatFamily::opens_reasoning). Otherwise only a <think>
  // that the text begins with counts.
  explicit ReasoningSplitter(bool inside) : state_(inside ? State::kLead : State::kStart) {}
  // What can be told apart by now; text that may still become a tag is kept back.
  Parts push(std::string_view text);
  // What was kept back, at the end of the text; without a tag that the end has cut in two.
  Parts flush();
  bool inside() const { return state_ == State::kLead || state_ == State::kReasoning; }
  // No reasoning can follow any more: it is over, or the text began without.
  bool ended() const { return state_ == State::kAfter || state_ == State::kContent; }

 private:
  enum class State {
    kStart,      // before anything but blanks
    kLead,       // in the reasoning, before anything but blanks
    kReasoning,  // in it
    kAfter,      // after it, before anything but blanks
    kContent,
  };
  bool step(Parts& out);

  State state_;
  std::string held_;
};

}  // namespace engine
