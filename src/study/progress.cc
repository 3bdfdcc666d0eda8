#include "src/study/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "src/base/units.h"
#include "src/report/text.h"
#include "src/study/clock.h"

namespace study {
namespace {

using Clock = std::chrono::steady_clock;
constexpr const char* kClearLine = "\r\x1b[K";

// A live line must not flicker: no fractions.
std::string whole_seconds(double seconds) {
  return seconds < 100 ? fmt::format("{:.0f} s", std::floor(seconds)) : base::format_duration(seconds);
}

std::string measured(const TrialMetrics& metrics) {
  struct Cell {
    const char *name, *label;
    bool share;
  };
  constexpr std::array<Cell, 4> kCells = {{{"decode_tps", "tok/s", false},
                                           {"prefill_tps", "prefill", false},
                                           {"quality", "quality", true},
                                           {"needle_recall", "needle", true}}};
  std::string out;
  for (const Cell& cell : kCells) {
    auto found = metrics.values.find(cell.name);
    if (found == metrics.values.end()) {
      continue;
    }
    out += out.empty() ? "" : "  ";
    out += cell.share ? fmt::format("{} {:.0f}%", cell.label, found->second * 100)
           : cell.name == std::string_view("decode_tps")
               ? fmt::format("{:.1f} {}", found->second, cell.label)
               : fmt::format("{} {:.0f}", cell.label, found->second);
  }
  return out;
}

}  // namespace

bool stdout_is_terminal() {
  const char* term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

int terminal_width() {
  winsize size = {};
  bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40;
  return known ? size.ws_col : 100;
}

Progress::Progress(const Study& study, bool live) : study_(study), live_(live), start_(Clock::now()) {
  if (live_) {
    ticker_ = std::jthread([this](const std::stop_token& stop) {
      std::unique_lock lock(mutex_);
      while (!stop.stop_requested()) {
        draw();
        wake_.wait_for(lock, stop, std::chrono::milliseconds(250), [] { return false; });
      }
    });
  }
}

Progress::~Progress() {
  close();
}

void Progress::close() {
  if (ticker_.joinable()) {
    ticker_.request_stop();
    ticker_.join();
    std::fputs(kClearLine, stdout);
    std::fflush(stdout);
  }
}

std::string Progress::change_of(const search::Config& config) const {
  return search::describe(study_.space, config, study_.space.default_config());
}

void Progress::draw() {
  if (!running_) {
    return;
  }
  auto width = static_cast<size_t>(terminal_width());
  std::string line =
      fmt::format("{} · {} · {}{} · total {}", label_, doing_, whole_seconds(seconds_since(trial_start_)),
                  best_.empty() ? "" : " · best " + best_, whole_seconds(seconds_since(start_)));
  std::fputs((kClearLine + report::fit(line, width - 1)).c_str(), stdout);
  std::fflush(stdout);
}

void Progress::print(const std::string& line) {
  std::fputs(((live_ ? kClearLine : "") + line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void Progress::trial_started(int k, int planned, const TrialRequest& request) {
  std::lock_guard lock(mutex_);
  running_ = true;
  trial_start_ = Clock::now();
  doing_ = "starting";
  bool confirming = request.speed_only;
  label_ = confirming ? fmt::format("{} {}", request.proposal.phase, change_of(request.proposal.config))
                      : fmt::format("{} {}/{} {}", request.proposal.phase, k, planned,
                                    change_of(request.proposal.config));
  if (live_) {
    draw();
  } else {
    print(
        fmt::format("trial {:>3} {:<8} {}{}", request.trial_id, request.proposal.phase,
                    change_of(request.proposal.config),
                    request.attempt > 1 && !confirming ? fmt::format(" (attempt {})", request.attempt) : ""));
  }
}

void Progress::trial_ended(const TrialRequest& request, const TrialRecord& record, bool new_best) {
  std::lock_guard lock(mutex_);
  running_ = false;
  report::Paint paint(live_);
  bool ok = record.status == Status::kOk;
  bool confirming = request.speed_only;
  std::string result = ok ? measured(record.metrics)
                          : paint(report::Ink::kRed, std::string(to_string(record.status))) + ": " +
                                report::printable(record.reason);
  if (ok && !confirming && !record.judgement.feasible) {
    result += paint(report::Ink::kYellow, "  limit not held: " + (record.judgement.violations.empty()
                                                                      ? std::string("?")
                                                                      : record.judgement.violations.front()));
  }
  if (new_best) {
    best_ = change_of(request.proposal.config);
    result += paint(report::Ink::kGreen, "  ★ best so far");
  }
  std::string head = live_ ? fmt::format("{:>3} {:<8} {}", request.trial_id, request.proposal.phase,
                                         report::pad_right(change_of(request.proposal.config), 30))
                           : std::string("         ->");
  print(fmt::format("{} {:>7}  {}", head, base::format_duration(record.t_total_s), result));
}

void Progress::asking(std::string_view plugin) {
  std::lock_guard lock(mutex_);
  running_ = !plugin.empty();
  trial_start_ = Clock::now();
  label_ = plugin;
  doing_ = "choosing the next trials";
  if (live_) {
    draw();
  }
}

void Progress::note(std::string_view line) {
  std::lock_guard lock(mutex_);
  print(std::string(line));
}

void Progress::doing(std::string_view what) {
  std::lock_guard lock(mutex_);
  doing_ = what;
  if (live_) {
    draw();
  }
}

}  // namespace study
