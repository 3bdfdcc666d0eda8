#pragma once
// Runs a test body on every instruction set the machine has, by name.

#include <doctest/doctest.h>

#include <string>

#include "kernels/isa.h"

namespace kernels::testing {

template <class Body>
void each_isa(const Body& body) {
  for (const std::string& isa : float_isas()) {
    CAPTURE(isa);
    REQUIRE(force_float_isa(isa));
    REQUIRE(float_isa() == isa);
    body();
  }
  REQUIRE(force_float_isa(""));
}

}  // namespace kernels::testing
