#include "kernels/formats/q3_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q3_k.cc"
#define KERNELS_FORMAT q3_k
#include "kernels/each_target.h"
#include "kernels/formats/weight_parts-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::q3_k::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

#if HWY_TARGET == HWY_SCALAR
using Codes = PlainCodes<Layout>;
#else
struct Codes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    const uint8_t* q = block + 32 + part / 4 * 32;
    return {half(q, block, part), half(q + 16, block + 16, part)};
  }
  static HWY_INLINE Bytes16 half(const uint8_t* q, const uint8_t* top, int part) {
    const Bits16 low = field(bits_at(q), part % 4 * 2, 3);
    return minus(hn::Or(low, raised<2>(field(bits_at(top), part, 1))), 4);
  }
};
#endif
using Loader = PartLoader<Layout, Codes>;

}  // namespace
}  // namespace kernels::q3_k::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/parts_dispatch-inl.h"
