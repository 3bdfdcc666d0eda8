#include "kernels/formats/q5_0.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q5_0.cc"
#define KERNELS_FORMAT q5_0
#include "kernels/each_target.h"
#include "kernels/formats/nibbles_dispatch-inl.h"
