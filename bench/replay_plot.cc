#include "bench/replay_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace bench {
namespace {

constexpr double kWidth = 460, kHeight = 300, kLeft = 58, kRight = 16, kTop = 34, kBottom = 44, kLegend = 40;
constexpr double kNear = 0.98;  // the line of "within 2% of the best"

struct Ink {
  const char *colour, *dash;
};
// Told apart without colours too, and dark enough on white.
constexpr Ink kInks[] = {
    {"#0b5394", ""}, {"#b4300f", "8 3"}, {"#38761d", "2 3"}, {"#555555", "10 3 2 3"}, {"#741b87", "5 5"}};

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     escaped(text));
}

std::string rule(double x1, double y1, double x2, double y2, const char* colour) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1,
                     y1, x2, y2, colour);
}

// The largest tenth that no share lies below, at most 0.9.
double floor_of(const ProgressPanel& panel) {
  double least = 0.9;
  for (const ProgressLine& line : panel.lines) {
    for (double share : line.share) {
      least = std::min(least, share);
    }
  }
  return std::clamp(std::floor(least * 10 + 1e-9) / 10, 0.0, 0.9);
}

std::string panel_svg(const ProgressPanel& panel) {
  size_t trials = 2;
  for (const ProgressLine& line : panel.lines) {
    trials = std::max(trials, line.share.size());
  }
  const double floor = floor_of(panel);
  const double inner_w = kWidth - kLeft - kRight, inner_h = kHeight - kTop - kBottom;
  auto x = [&](double trial) { return kLeft + inner_w * (trial - 1) / static_cast<double>(trials - 1); };
  auto y = [&](double share) {
    return kTop + inner_h * (1 - (std::max(share, floor) - floor) / (1 - floor));
  };
  std::string out = text_at(kLeft, kTop - 14, "start", panel.title, " font-weight=\"bold\"");
  const double step = (1 - floor) > 0.55 ? 0.2 : (1 - floor) > 0.25 ? 0.1 : 0.02;
  for (int tick = 0; 1 - tick * step > floor - 1e-9; ++tick) {
    const double share = 1 - tick * step;
    out += rule(kLeft, y(share), kWidth - kRight, y(share), "#dddddd");
    out += text_at(kLeft - 6, y(share) + 4, "end", fmt::format("{:.0f}%", 100 * share));
  }
  out += fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#222222\" stroke-dasharray=\"1 "
      "3\"/>\n",
      kLeft, y(kNear), kWidth - kRight, y(kNear));
  for (size_t trial = 1; trial <= trials; trial += trial == 1 ? 9 : 10) {
    out += rule(x(static_cast<double>(trial)), kHeight - kBottom, x(static_cast<double>(trial)),
                kHeight - kBottom + 4, "#222222");
    out += text_at(x(static_cast<double>(trial)), kHeight - kBottom + 18, "middle", std::to_string(trial));
  }
  out += rule(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "#222222");
  out += text_at(kLeft + inner_w / 2, kHeight - 8, "middle",
                 "trials (up: the best so far, as a share of the grid's best; median of the seeds)");
  for (size_t i = 0; i < panel.lines.size(); ++i) {
    const Ink& ink = kInks[i % std::size(kInks)];
    std::string points;
    for (size_t trial = 0; trial < panel.lines[i].share.size(); ++trial) {
      points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", x(static_cast<double>(trial + 1)),
                            y(panel.lines[i].share[trial]));
    }
    out += fmt::format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"/>\n",
        points, ink.colour, *ink.dash != '\0' ? ink.dash : "none");
  }
  return out;
}

std::string legend(const std::vector<ProgressLine>& lines, double width) {
  std::string out;
  const double each = (width - kLeft) / static_cast<double>(std::max<size_t>(lines.size(), 1));
  for (size_t i = 0; i < lines.size(); ++i) {
    const Ink& ink = kInks[i % std::size(kInks)];
    const double x = kLeft + each * static_cast<double>(i);
    out += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"20\" x2=\"{1:.1f}\" y2=\"20\" stroke=\"{2}\" stroke-width=\"2\" "
        "stroke-dasharray=\"{3}\"/>\n",
        x, x + 34, ink.colour, *ink.dash != '\0' ? ink.dash : "none");
    out += text_at(x + 40, 24, "start", lines[i].name);
  }
  return out;
}

}  // namespace

std::string progress_svg(const std::vector<ProgressPanel>& panels) {
  const size_t columns = std::clamp<size_t>(panels.size(), 1, 2);
  const size_t rows = (panels.size() + columns - 1) / columns;
  const double width = kWidth * static_cast<double>(columns);
  const double height = kLegend + kHeight * static_cast<double>(rows);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"#111111\">\n"
      "<title>Median share of the best found, by launches</title>\n"
      "<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"#ffffff\"/>\n",
      width, height);
  if (!panels.empty()) {
    out += legend(panels.front().lines, width);
  }
  for (size_t i = 0; i < panels.size(); ++i) {
    const size_t row = i / columns;
    out += fmt::format("<g transform=\"translate({:.0f} {:.0f})\">\n{}</g>\n",
                       kWidth * static_cast<double>(i % columns),
                       kLegend + kHeight * static_cast<double>(row), panel_svg(panels[i]));
  }
  return out + "</svg>\n";
}

}  // namespace bench
