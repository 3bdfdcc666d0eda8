// Compiles the including .cc once per instruction set: it first defines HWY_TARGET_INCLUDE as its own path.
// What stands in HWY_NAMESPACE is then compiled for each, what stands under HWY_ONCE a single time. Comes
// before every other Highway header, and has no guard of its own: foreach_target.h brings one.

#include "kernels/isa.h"
// Highway wants this order.
#include <hwy/foreach_target.h>
