#pragma once
// Tells a load that takes its time from one that stands still. Pure.

#include <cstdint>
#include <string>
#include <string_view>

namespace study {

// What a loading server shows of itself at one instant; all but `answer` only ever grow while it works.
struct LoadSigns {
  uint64_t log_bytes = 0;  // of lines that say something, see telling_bytes()
  double cpu_s = 0;
  uint64_t read_bytes = 0, rss_bytes = 0;
  std::string answer;  // what the ready path answered last
};

class LoadWatch {
 public:
  // Takes the signs seen at `now_s`; the seconds since the last progress. Progress is a longer log, another answer,
  // reading, growing or shrinking, or more CPU time than it takes to answer our own polls.
  double idle_s(double now_s, const LoadSigns& signs);

 private:
  bool first_ = true;
  double at_s_ = 0;
  LoadSigns mark_;  // as of the last progress
};

// Bytes of the lines in `text` that do not mention `ready_path`: a server that logs each of our polls makes no
// progress by it.
uint64_t telling_bytes(std::string_view text, std::string_view ready_path);

}  // namespace study
