#include "kernels/formats/half.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace kernels;

TEST_CASE("f16 to f32 follows the definition for every bit pattern") {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const int exponent = static_cast<int>(h >> 10 & 31);
    const int mantissa = static_cast<int>(h & 1023);
    const float got = f32_from_f16(static_cast<uint16_t>(h));
    if (exponent == 31) {
      CHECK((mantissa == 0 ? std::isinf(got) : std::isnan(got)));
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      CHECK(std::fabs(double{got}) == magnitude);
    }
    CHECK(std::signbit(got) == (h >> 15 != 0));
  }
}

TEST_CASE("f32 to f16 inverts it and rounds ties to even") {
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    const float value = f32_from_f16(bits);
    CHECK(f16_from_f32(value) == bits);
    CHECK(f16_from_f32(-value) == (bits | 0x8000));
    if (h + 1 < 0x7c00) {
      const float next = f32_from_f16(static_cast<uint16_t>(h + 1));
      const float middle = 0.5F * (value + next);
      CHECK(f16_from_f32(middle) == bits + (bits & 1));
      CHECK(f16_from_f32(std::nextafterf(middle, 0.0F)) == bits);
      CHECK(f16_from_f32(std::nextafterf(middle, next)) == bits + 1);
    }
  }
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(f16_from_f32(65519.0F) == 0x7bff);
  CHECK(f16_from_f32(65520.0F) == 0x7c00);
  CHECK(f16_from_f32(-infinity) == 0xfc00);
  CHECK(f16_from_f32(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(std::isnan(f32_from_f16(f16_from_f32(std::nanf("")))));
  CHECK(f16_saturated(1e30F) == 0x7bff);
  CHECK(f16_saturated(-infinity) == 0xfbff);
  CHECK(f16_saturated(1.0F) == 0x3c00);
}
