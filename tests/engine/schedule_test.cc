#include "src/engine/schedule.h"

#include <doctest/doctest.h>

#include <numeric>

using engine::choose_donor;
using engine::choose_slot;
using engine::SlotCandidate;
using engine::SlotDemand;
using engine::StepBudget;

namespace {

using Shares = std::vector<int>;

constexpr int kPage = 128;

SlotDemand next(int n) {
  SlotDemand demand;
  demand.n_next = n;
  return demand;
}

SlotDemand prompt(int n) {
  SlotDemand demand;
  demand.n_prompt = n;
  return demand;
}

Shares share(const std::vector<SlotDemand>& slots, int n_tokens, int n_pages = 1000, int64_t turn = 0) {
  return engine::share_step(slots, {n_tokens, n_pages, kPage}, turn);
}

}  // namespace

TEST_CASE("a slot: the longest common prefix, else the least recently used, else wait") {
  const bool busy = true, idle = false;
  const std::vector<SlotCandidate> slots = {{idle, 10, 40}, {idle, 30, 50}, {busy, 90, 10}, {idle, 0, 20}};
  CHECK(choose_slot(slots, 100, -1) == 1);
  CHECK(choose_slot(slots, 299, -1) == 1);  // 30 of 299 is more than a tenth
  CHECK(choose_slot(slots, 300, -1) == 3);  // 30 of 300 is not
  CHECK(choose_slot({{{idle, 5, 3}, {idle, 5, 2}}}, 10, -1) == 0);
  CHECK(choose_slot({{{idle, 0, 7}, {idle, 0, 0}, {idle, 0, 0}}}, 10, -1) == 1);  // never used comes first
  CHECK(choose_slot({{{busy, 0, 0}, {busy, 0, 0}}}, 10, -1) == -1);
  CHECK(choose_slot({}, 10, -1) == -1);
}

TEST_CASE("id_slot is taken modulo their number, and waited for") {
  const std::vector<SlotCandidate> slots = {{false, 0, 0}, {true, 0, 0}, {false, 9, 0}};
  CHECK(choose_slot(slots, 10, 0) == 0);
  CHECK(choose_slot(slots, 10, 1) == -1);
  CHECK(choose_slot(slots, 10, 5) == 2);
  CHECK(choose_slot(slots, 10, 99) == 0);
}

TEST_CASE("rows are shared from where the longest prefix is, busy or not, if that is worth it") {
  const std::vector<SlotCandidate> slots = {{false, 10, 0}, {true, 500, 0}, {false, 137, 0}};
  CHECK(choose_donor(slots, 0, 128) == 1);
  CHECK(choose_donor(slots, 2, 128) == 1);
  CHECK(choose_donor(slots, 1, 128) == -1);
  CHECK(choose_donor({{{false, 10, 0}, {true, 138, 0}}}, 0, 128) == 1);
  CHECK(choose_donor({{{false, 10, 0}, {true, 137, 0}}}, 0, 128) == -1);
}

TEST_CASE("a step: every generating slot has its token, prompts share the rest evenly") {
  CHECK(share({prompt(5000)}, 2048) == Shares{2048});
  CHECK(share({next(1), prompt(5000), next(1)}, 512) == Shares{1, 510, 1});
  CHECK(share({prompt(1000), prompt(1000)}, 512) == Shares{256, 256});
  CHECK(share({prompt(100), prompt(1000), prompt(1000)}, 700) == Shares{100, 300, 300});
  CHECK(share({next(1), prompt(3), prompt(4)}, 512) == Shares{1, 3, 4});
  CHECK(share({prompt(7), prompt(7)}, 5) == Shares{3, 2});
  CHECK(share({}, 5).empty());
}

TEST_CASE("a step: guesses are taken whole or not at all, after every slot's token and before prompts") {
  CHECK(share({next(17), prompt(100)}, 64) == Shares{17, 47});
  CHECK(share({next(17), next(17), prompt(100)}, 24) == Shares{17, 1, 6});
  CHECK(share({next(17), next(1), next(1)}, 16) == Shares{1, 1, 1});
}

TEST_CASE("a step with too few tokens for all: turns go round") {
  const std::vector<SlotDemand> slots = {next(1), next(1), next(1), prompt(9)};
  CHECK(share(slots, 2, 1000, 0) == Shares{1, 1, 0, 0});
  CHECK(share(slots, 2, 1000, 2) == Shares{1, 0, 1, 0});
  Shares total(4, 0);
  for (int64_t turn = 0; turn < 40; ++turn) {
    const Shares step = share(slots, 2, 1000, turn);
    CHECK(std::accumulate(step.begin(), step.end(), 0) == 2);
    for (size_t i = 0; i < 4; ++i) {
      total[i] += step[i];
    }
  }
  CHECK(total[0] >= 20);
  CHECK(total[1] >= 20);
  CHECK(total[2] >= 20);
}

TEST_CASE("a step: prompts fill one ubatch while somebody generates, a whole batch else") {
  const auto share = [](const std::vector<SlotDemand>& slots) {
    StepBudget budget{2048, 1000, kPage};
    budget.n_busy_tokens = 64;
    return engine::share_step(slots, budget, 0);
  };
  CHECK(share({next(1), prompt(5000)}) == Shares{1, 63});
  CHECK(share({next(9), prompt(5000), prompt(5000)}) == Shares{9, 28, 27});
  CHECK(share({next(80), prompt(5000)}) == Shares{80, 1});
  CHECK(share({prompt(5000)}) == Shares{2048});
}

TEST_CASE("a step takes no more pages than there are") {
  SlotDemand tail = next(1);
  tail.tail_rows = 100;
  CHECK(share({tail}, 64, 0) == Shares{1});  // its page has room
  tail.tail_shared = true;
  CHECK(share({tail}, 64, 0) == Shares{0});  // not its own: the copy needs one
  CHECK(share({tail}, 64, 1) == Shares{1});
  CHECK(share({next(1), next(1)}, 64, 1) == Shares{1, 0});
  CHECK(share({next(1), next(1)}, 64, 1, 1) == Shares{0, 1});

  SlotDemand half = prompt(1000);
  half.tail_rows = 28;
  CHECK(share({half}, 2048, 0) == Shares{100});
  CHECK(share({half}, 2048, 2) == Shares{100 + 256});
  half.tail_shared = true;
  CHECK(share({half}, 2048, 2) == Shares{256 - 28});
  CHECK(share({half}, 2048, 0) == Shares{0});
  CHECK(share({prompt(1000), prompt(1000)}, 2048, 3) == Shares{384, 0});
  // Generating slots come before prompts, also for pages.
  CHECK(share({prompt(1000), next(1)}, 2048, 1) == Shares{0, 1});
  CHECK(share({prompt(1000), next(200)}, 2048, 1) == Shares{0, 1});
}
