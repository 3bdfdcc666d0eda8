#include "kernels/formats/q2_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q2_k.cc"
#define KERNELS_FORMAT q2_k
#include "kernels/each_target.h"
#include "kernels/formats/weight_parts-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::q2_k::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

#if HWY_TARGET == HWY_SCALAR
using Codes = PlainCodes<Layout>;
#else
struct Codes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    const uint8_t* q = block + 16 + part / 4 * 32;
    const int shift = part % 4 * 2;
    return {minus(field(bits_at(q), shift, 3), 0), minus(field(bits_at(q + 16), shift, 3), 0)};
  }
};
#endif
using Loader = PartLoader<Layout, Codes>;

}  // namespace
}  // namespace kernels::q2_k::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/parts_dispatch-inl.h"
