#pragma once
// What the tests of the kernels share.

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "src/base/error.h"
#include "tests/kernels/random_rows.h"
#ifdef AR_ON_DEVICE
#include "tests/simt/on_device.h"
#else
#include "tests/simt/block.h"
#endif

namespace simt {

// A launcher's result: the fault is the message.
inline void require(const base::Result<void>& result) {
  if (!result.ok()) {
    FAIL(result.failure().to_string());
  }
}

// |got - want| <= bound * size, and a number where one is wanted.
inline void require_close(float got, double want, double bound, double size) {
  REQUIRE(std::fabs(got - want) <= bound * size);
}

}  // namespace simt
