// The tests of the kernels and of whole models, on a GPU.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "kernels/cuda/runtime.h"

int main(int argc, char** argv) {
  const auto device = kernels::cuda::find_device();
  if (!device) {
    std::printf("skipped: no GPU (%s)\n", device.failure().to_string().c_str());
    return 77;  // as autotools have it: nothing was tested
  }
  std::printf("on %s, sm_%d\n", device->name.c_str(), device->sm);
  return doctest::Context(argc, argv).run();
}
