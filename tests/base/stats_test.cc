#include "src/base/stats.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

TEST_CASE("statistics of known samples") {
  std::vector<double> samples = {1, 2, 3, 4, 100};
  CHECK_EQ(base::mean(samples), 22);
  CHECK_EQ(base::median(samples), 3);
  CHECK_EQ(base::quantile(samples, 0.25), 2);
  CHECK_EQ(base::mad(samples), doctest::Approx(1.4826));
  CHECK_EQ(base::stddev(std::vector<double>{2, 4}), doctest::Approx(std::sqrt(2.0)));
}

TEST_CASE("statistics of nothing are NaN, never zero") {
  std::vector<double> none;
  CHECK(std::isnan(base::mean(none)));
  CHECK(std::isnan(base::median(none)));
  CHECK(std::isnan(base::mad(none)));
  CHECK(std::isnan(base::stddev(std::vector<double>{1})));
}
