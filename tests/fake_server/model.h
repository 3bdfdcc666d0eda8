#pragma once
// The pretended model: token counts, answers to known questions and needles, and how long each token takes.

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "tests/fake_server/scenario.h"

namespace fake {

// One token per four letters of a word and one per other visible character.
int count_tokens(std::string_view text);
// The text cut into as many pieces as it has tokens.
std::vector<std::string> pieces(std::string_view text);

// What is said to a user's message: the suite's answer, right or wrong as scripted; the needle asked for;
// else a plain sentence.
class Answers {
 public:
  // `suite_text` is the known-answer suite's JSON, "" for none.
  Answers(const Scenario& scenario, std::string_view suite_text);
  std::string to(std::string_view message);

 private:
  struct Item {
    std::string id, prompt, right;
    bool passes = true;
  };
  std::vector<Item> items_;
  double needle_;
  std::atomic<int> needles_asked_{0};
};

// Durations of one generation, in ms, before time_scale; deterministic.
struct Pace {
  double prompt_ms = 0, token_ms = 0;
};
Pace pace(const Scenario& scenario, int prompt_tokens, int request_number);

// Normally distributed, the same for the same arguments.
double gaussian(uint64_t seed, uint64_t n);

// The `timings` object of a generation that took its time so.
base::Json timings(const Pace& pace, int prompt_tokens, int predicted_tokens);

}  // namespace fake
