#include "src/base/units.h"

#include <doctest/doctest.h>

TEST_CASE("durations parse as people write them") {
  CHECK_EQ(*base::parse_duration_s("90"), 90);
  CHECK_EQ(*base::parse_duration_s("250ms"), doctest::Approx(0.25));
  CHECK_EQ(*base::parse_duration_s("1h30m"), 5400);
  CHECK_EQ(*base::parse_duration_s("8h"), 8 * 3600);
  for (const char* bad : {"", "h", "-3s", "3 parsecs", "1e999h", "nan", "5m3", "1m 2s"}) {
    CAPTURE(bad);
    CHECK_FALSE(base::parse_duration_s(bad).ok());
  }
}

TEST_CASE("durations and sizes print at the right scale") {
  CHECK_EQ(base::format_duration(0.0312), "31 ms");
  CHECK_EQ(base::format_duration(12.34), "12.3 s");
  CHECK_EQ(base::format_duration(754), "12m34s");
  CHECK_EQ(base::format_duration(30000), "8h20m");
  CHECK_EQ(base::format_bytes(1023), "1023 B");
  CHECK_EQ(base::format_bytes(4464ULL << 20), "4.36 GiB");
  CHECK_EQ(base::format_count(0), "0");
  CHECK_EQ(base::format_count(999), "999");
  CHECK_EQ(base::format_count(1000), "1.00 K");
  CHECK_EQ(base::format_count(260'032), "260 K");
  CHECK_EQ(base::format_count(999'600), "1.00 M");
  CHECK_EQ(base::format_count(15'191'712), "15.2 M");
  CHECK_EQ(base::format_count(7'240'000'000), "7.24 B");
  CHECK_EQ(base::format_count(228'700'000'000), "229 B");
  CHECK_EQ(base::format_count(1'500'000'000'000), "1500 B");
}
