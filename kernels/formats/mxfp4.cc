#include "kernels/formats/mxfp4.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/mxfp4.cc"
#define KERNELS_FORMAT mxfp4
#include "kernels/each_target.h"
#include "kernels/formats/weight_parts-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::mxfp4::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

#if HWY_TARGET == HWY_SCALAR
using Codes = PlainCodes<Layout>;
#else
struct Codes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int /*part*/) {
    return looked_up_nibbles(kDoubled, block + 1);
  }
};
#endif
using Loader = PartLoader<Layout, Codes>;

}  // namespace
}  // namespace kernels::mxfp4::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/parts_dispatch-inl.h"
