#include "src/os/activity.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <vector>

TEST_CASE("CPU ticks and read bytes of literal samples") {
  // A command name with blanks and parentheses; utime 250, stime 40.
  CHECK_EQ(os::parse_cpu_ticks("12 (a (b) c) S 1 12 12 0 -1 4194560 500 0 3 0 250 40 7 9 20 0 1 0 999 1 2"),
           290);
  CHECK_FALSE(os::parse_cpu_ticks("12 (a) S 1 12").has_value());
  CHECK_FALSE(os::parse_cpu_ticks("").has_value());
  CHECK_FALSE(os::parse_cpu_ticks("12 (a) S 1 12 12 0 -1 4194560 500 0 3 0 x y").has_value());
  CHECK_EQ(os::parse_read_bytes("rchar: 5\nwchar: 6\nread_bytes: 40960\nwrite_bytes: 0\n"), 40960);
  CHECK_FALSE(os::parse_read_bytes("rchar: 5\n").has_value());
  CHECK_FALSE(os::parse_read_bytes("a\nread_bytes: \n").has_value());
}

TEST_CASE("work done shows in the activity of a process") {
  os::Activity before = os::read_activity(::getpid());
  CHECK(before.rss_bytes > 0);
  std::vector<char> memory(32 << 20);
  volatile char* bytes = memory.data();  // or a compiler may do without the memory
  os::Activity after = before;
  volatile unsigned sum = 0;
  for (int round = 0; round < 1000 && after.cpu_s < before.cpu_s + 0.05; ++round) {
    for (size_t i = 0; i < memory.size(); ++i) {
      bytes[i] = static_cast<char>(round);
      sum = sum + static_cast<unsigned char>(bytes[i]);
    }
    after = os::read_activity(::getpid());
  }
  CHECK(after.cpu_s >= before.cpu_s + 0.05);
  CHECK(after.rss_bytes > before.rss_bytes + (16 << 20));
  CHECK_EQ(os::read_activity(0x7ffffff).rss_bytes, 0);
}
