#include "src/engine/reasoning_budget.h"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

using engine::ReasoningBudget;
using engine::ReasoningLimit;

namespace {

// Token ids of the pieces a test generates, and those of the ending.
const std::map<int, std::string> kPieces = {
    {1, "hm"},   {2, " so"},   {3, "\n"},    {4, "</thi"}, {5, "nk>"},    {6, "Yes"},      {7, "<think>"},
    {8, "<thi"}, {9, "nk>\n"}, {10, "\xC3"}, {11, "\xB6"}, {90, "\nbut"}, {91, "</think>"}};

// What comes out when the model would say `model`; forced tokens come between its own.
std::string run(const ReasoningLimit& limit, std::vector<int> model) {
  ReasoningBudget budget(limit);
  std::string text;
  for (size_t at = 0; at < model.size();) {
    const std::optional<int> forced = budget.forced();
    const int token = forced ? *forced : model[at++];
    const std::string& piece = kPieces.at(token);
    text += piece;
    budget.accept(piece, piece == "\xC3");
  }
  return text;
}

ReasoningLimit limit(int n_max, bool inside) {
  return {n_max, inside, {90, 91}};
}

}  // namespace

TEST_CASE("thinking that the prompt has opened ends after its tokens") {
  CHECK(run(limit(2, true), {1, 2, 1, 6}) == "hm so\nbut</think>hmYes");
  CHECK(run(limit(1, true), {1, 2}) == "hm\nbut</think> so");
  CHECK(run(limit(0, true), {1, 2}) == "\nbut</think>hm so");
  CHECK(run(limit(-1, true), {1, 2, 1}) == "hm sohm");
  CHECK(run(limit(3, true), {1, 2}) == "hm so");  // not reached
}

TEST_CASE("thinking that the model opens counts from its tag on") {
  CHECK(run(limit(2, false), {7, 1, 2, 6}) == "<think>hm so\nbut</think>Yes");
  CHECK(run(limit(0, false), {7, 1}) == "<think>\nbut</think>hm");
  CHECK(run(limit(1, false), {3, 8, 9, 1, 6}) == "\n<think>\nhm\nbut</think>Yes");  // the tag in two pieces
  CHECK(run(limit(1, false), {6, 1, 2, 7, 1, 1}) == "Yeshm so<think>hmhm");         // an answer without
}

TEST_CASE("thinking that ends by itself is left alone, and so is what follows") {
  CHECK(run(limit(2, true), {1, 91, 6, 1, 1, 7, 1, 1, 1}) == "hm</think>Yeshmhm<think>hmhmhm");
  CHECK(run(limit(3, true), {1, 4, 5, 6}) == "hm</think>Yes");  // the tag in two pieces
  CHECK(run(limit(0, false), {91, 6}) == "</think>Yes");
}

TEST_CASE("a character is not cut in two") {
  CHECK(run(limit(1, true), {10, 11, 1}) == "\xC3\xB6\nbut</think>hm");
  CHECK(run(limit(2, true), {1, 10, 11, 1}) == "hm\xC3\xB6\nbut</think>hm");
}

TEST_CASE("more of the ending follows until its last token") {
  const ReasoningLimit two = limit(1, true);  // {90, 91}
  ReasoningBudget budget(two);
  CHECK_FALSE(budget.forces_more());
  budget.accept(kPieces.at(1), false);
  CHECK(budget.forces_more());
  budget.accept(kPieces.at(90), false);
  CHECK(budget.forced() == 91);
  CHECK_FALSE(budget.forces_more());
  budget.accept(kPieces.at(91), false);
  CHECK_FALSE(budget.forces_more());
}

TEST_CASE("a limit without an ending is none") {
  const ReasoningLimit none{0, true, {}};
  CHECK(run(none, {1, 2}) == "hm so");
}
