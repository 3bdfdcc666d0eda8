#include "src/study/load_watch.h"

#include <doctest/doctest.h>

using study::LoadSigns;
using study::LoadWatch;

namespace {

LoadSigns signs(uint64_t log, double cpu_s, uint64_t read, uint64_t rss, const char* answer = "503") {
  LoadSigns out;
  out.log_bytes = log;
  out.cpu_s = cpu_s;
  out.read_bytes = read;
  out.rss_bytes = rss;
  out.answer = answer;
  return out;
}

}  // namespace

TEST_CASE("each sign of life by itself is progress") {
  const LoadSigns still = signs(100, 1, 1 << 20, 1 << 20);
  const LoadSigns moved[] = {signs(101, 1, 1 << 20, 1 << 20),  signs(100, 5, 1 << 20, 1 << 20),
                             signs(100, 1, 2 << 20, 1 << 20),  signs(100, 1, 1 << 20, 3 << 20),
                             signs(100, 1, 1 << 20, 0),        signs(100, 1, 1 << 20, 1 << 20, "503 {37%}"),
                             signs(100, 0.2, 1 << 20, 1 << 20)};
  for (const LoadSigns& sign : moved) {
    LoadWatch watch;
    CHECK_EQ(watch.idle_s(0, still), 0);
    CHECK_EQ(watch.idle_s(60, still), doctest::Approx(60));
    CHECK_EQ(watch.idle_s(100, sign), 0);
    CHECK_EQ(watch.idle_s(130, sign), doctest::Approx(30));
  }
}

TEST_CASE("what answering our own polls costs is no progress") {
  LoadWatch watch;
  watch.idle_s(0, signs(0, 0, 0, 0));
  // Half a percent of a core, a page now and then, 4 KiB read: a server that only says 503.
  for (int second = 1; second <= 120; ++second) {
    double idle = watch.idle_s(second, signs(0, 0.005 * second, 4096, static_cast<uint64_t>(second) * 4096));
    CHECK_EQ(idle, doctest::Approx(second));
  }
  // One that reads slowly from a network disk is at work all the same: its memory grows.
  LoadWatch slow;
  slow.idle_s(0, signs(0, 0, 0, 0));
  for (int second = 1; second <= 120; ++second) {
    auto loaded = static_cast<uint64_t>(second) << 19;
    CHECK(slow.idle_s(second, signs(0, 0.005 * second, 0, loaded)) <= 2);
  }
}

TEST_CASE("lines that only log our polls say nothing") {
  CHECK_EQ(study::telling_bytes("GET /health 503\nGET /health 503\n", "/health"), 0);
  CHECK_EQ(study::telling_bytes("GET /health 503\nloading 3%\n", "/health"), 10);
  CHECK_EQ(study::telling_bytes("......", "/health"), 6);
  CHECK_EQ(study::telling_bytes("", "/health"), 0);
  CHECK_EQ(study::telling_bytes("\n\n", "/health"), 0);
}
