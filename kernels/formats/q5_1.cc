#include "kernels/formats/q5_1.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q5_1.cc"
#define KERNELS_FORMAT q5_1
#include "kernels/each_target.h"
#include "kernels/formats/nibbles_dispatch-inl.h"
