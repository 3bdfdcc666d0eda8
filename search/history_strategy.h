#pragma once
// What most strategies share: a history, and one proposal per state of it, however often it is asked for.

#include "search/history.h"

namespace search {

class HistoryStrategy : public Strategy {
 public:
  HistoryStrategy(const Space& space, const Limits& limits) : history_(space), limits_(limits) {}

  std::optional<Proposal> ask() final {
    if (!computed_) {
      pending_ = history_.used_up(limits_) ? std::nullopt : compute();
      computed_ = true;
    }
    return pending_;
  }
  void tell(const Config& config, const Outcome& outcome) override {
    history_.tell(config, outcome);
    computed_ = false;
  }
  void know(const Config& config, const Outcome& outcome) override {
    history_.know(config, outcome);
    computed_ = false;
  }
  bool done() const final { return history_.used_up(limits_) || (computed_ && !pending_); }

 protected:
  // The next proposal by the history; nullopt: the search is over. Not called once the trials are used up.
  virtual std::optional<Proposal> compute() = 0;
  // The default, as long as it was not launched.
  std::optional<Proposal> first() const {
    if (!history_.worth_trying(history_.default_config())) {
      return std::nullopt;
    }
    return Proposal{history_.default_config(), "default", "the default configuration, to compare with"};
  }

  History history_;
  Limits limits_;

 private:
  bool computed_ = false;
  std::optional<Proposal> pending_;
};

}  // namespace search
