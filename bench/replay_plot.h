#pragma once
// How fast strategies near the best of recorded grids, as a picture.

#include <string>
#include <vector>

namespace bench {

struct ProgressLine {
  std::string name;
  std::vector<double> share;  // of the best, 0 to 1, after each trial
};
struct ProgressPanel {
  std::string title;
  std::vector<ProgressLine> lines;
};

// An SVG of one panel per grid, two to a row: the share of the best against trials, a line for each strategy, each in
// one colour and dash throughout and named in a legend. The axis of shares begins at the tenth below the
// lowest, at most at 0.9. Pure.
std::string progress_svg(const std::vector<ProgressPanel>& panels);

}  // namespace bench
