#pragma once
// The arithmetic of finals and confirmation, apart from the loop that collects the samples. Pure.

#include <string>
#include <string_view>
#include <vector>

namespace study {

enum class Verdict {
  kConfirmed,      // the winner beats the default in fresh launches
  kDefaultStands,  // the default is the best, or nothing beats it beyond noise
  kUnconfirmed,    // a better one was seen, but not launched often enough to be sure
  kNoFeasible,     // no trial held every limit
};
std::string_view to_string(Verdict verdict);

// Verdict of fresh pairs (or blocks) of one objective entry: t-interval (95%) of their log-ratios.
struct Comparison {
  double ratio = 1, low = 1, high = 1;  // winner / default: geometric mean and its interval
  int pairs = 0;                        // cold pairs, or ABBA blocks in place
  int planned = 0;                      // as fixed before the first
  bool in_place = false;                // blocks of one running server
  int cold_pairs = 0;                   // beside the blocks
  double cold_ratio = 1;                // likewise
  int missed = 0;                       // fresh launches of the winner in which a limit did not hold
  std::string decided_by;  // the earlier objective entry that already tells them apart, if one does
};
Comparison compare_logs(const std::vector<double>& log_ratios);
// Pairs by position; a value that is not positive is no measurement.
Comparison compare_pairs(const std::vector<double>& winner, const std::vector<double>& baseline);

// One launch of a confirmation in place, in the order they ran.
struct InPlaceLaunch {
  bool winner = false;
  double value = 0;
  bool cold = false;  // it took a fresh process after all: the first of a session, or a server that was lost
};
// What they make: whole ABBA blocks (default, winner, winner, default), in which a steady drift cancels. All four are
// of one process and none of them started it: a cold launch is a discarded warm-up, and ends what was begun.
struct Blocks {
  std::vector<double> logs;  // log-ratios of the blocks whose values are positive
  int complete = 0;          // blocks, those of no use included
  int step = 0;              // launches of the block that is begun: the next one is its step 0..3
  int restarts = 0;          // cold launches
};
Blocks blocks_of(const std::vector<InPlaceLaunch>& launches);

// How many pairs (or blocks) show a true log-ratio `effect` with 95% probability, when one of them scatters by `sd`
// and the 95% t-interval decides; between `least` and `most`.
int pairs_needed(double effect, double sd, int least, int most);

// What is left of a log-ratio that was seen with this standard error, by a prior that effects are about 10%: for planning.
double shrunk_effect(double seen, double error);

// Whether cold pairs say the same as the blocks: their difference is within 2.5 standard errors, more where the
// scatter of a process (`process_sigma`, relative) rests on few degrees of freedom. In-place noise says nothing here.
bool cold_agrees(const Comparison& blocks, const Comparison& cold, double process_sigma, double freedom);

// Two-sided 95% quantile of Student's t.
double student_t95(int freedom);

}  // namespace study
