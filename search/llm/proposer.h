#pragma once
// One request of the plugin protocol, answered with the help of a language model: budgets, the HTTP exchange with its
// retries, and the plugin's answer. The key is in the request's header alone, never in what is returned or logged.

#include <chrono>
#include <string>

#include "search/llm/providers.h"
#include "src/os/http_client.h"

namespace llm {

class Proposer {
 public:
  Proposer(Options options, std::string key);
  // One JSON object on one line of under a megabyte: {"proposals", "usage"} or {"proposals": [], "error", "usage"};
  // within `answer_within_s` of the request (less a margin) and options.timeout_s, whatever the endpoint does.
  std::string answer(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;

  // Of all tries of one exchange. A try that may have been worked on counts, whether or not anybody says what it cost.
  struct Spent {
    double in = 0, out = 0;  // tokens
    bool estimated = false;
  };
  struct Outcome {
    Answer answer;
    Spent spent;
    bool late = false;  // the fault is that the time was up
  };
  Outcome ask_model(const base::Json& request, Clock::time_point deadline);
  // "" or why nobody is asked.
  std::string over_budget(const base::Json& request, const Prompt& prompt, const Spent& spent) const;
  // A try that was sent; what `answer` does not tell is the most that it can have been.
  void charge(const Prompt& prompt, const Answer& answer, Spent& spent) const;
  // Why the endpoint cannot be asked at all, "" with `url` set.
  std::string endpoint(const base::Json& request, std::string& url) const;
  // Takes in a failed answer: true, try again at `again`; else answer.fault says why not.
  bool retry(const os::HttpResponse& response, int tries, Clock::time_point deadline,
             Clock::time_point& again, Answer& answer);
  // The model's proposals, as many and as much of each as the driver looks at.
  base::Json fitting(const base::Json& request, base::Json proposals) const;
  // Words of the endpoint's: without the key, then clipped.
  std::string told(std::string text) const;
  double cost(double tokens_in, double tokens_out) const;

  Options options_;
  std::string key_;
  bool structured_ = true;                 // response_format was not refused yet
  std::string hopeless_;                   // the endpoint said no for good: it is not asked again
  Clock::time_point not_before_{};         // what a Retry-After asked for
  double tokens_in_ = 0, tokens_out_ = 0;  // of this process
};

}  // namespace llm
