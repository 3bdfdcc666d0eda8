#include "kernels/formats/q5_k.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/formats/q5_k.cc"
#define KERNELS_FORMAT q5_k
#include "kernels/each_target.h"
#include "kernels/formats/weight_parts-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kernels::q5_k::HWY_NAMESPACE {
namespace {

using namespace kernels::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

#if HWY_TARGET == HWY_SCALAR
using Codes = PlainCodes<Layout>;
#else
struct Codes {
  static HWY_INLINE Bytes32 at(const uint8_t* block, int part) {
    const uint8_t* q = block + 48 + part / 2 * 32;
    return {half(q, block + 16, part), half(q + 16, block + 32, part)};
  }
  static HWY_INLINE Bytes16 half(const uint8_t* q, const uint8_t* top, int part) {
    const Bits16 low = field(bits_at(q), part % 2 * 4, 15);
    return minus(hn::Or(low, raised<4>(field(bits_at(top), part, 1))), 0);
  }
};
#endif
using Loader = PartLoader<Layout, Codes>;

}  // namespace
}  // namespace kernels::q5_k::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#include "kernels/formats/parts_dispatch-inl.h"
